"""What Codex is pinned to in a container: the two files of /etc/codex, and the `-c` beside. Pure.

Measured with codex 0.163.0 (docs/container.md has the table): `requirements.toml` stands above
everything else, also above `-c` and what a client says in `thread/start`. A provider defined in it
replaces one of the same name whole. A mode that is not allowed is refused where a request names it,
and replaced, with a warning, where a thread or a file does.
"""

from typing import Final
from urllib.parse import urlsplit

import msgspec

from supervisor.policy.reach import MODEL_PORT
from supervisor.settings import Settings

PROVIDER: Final = "supervisor"
"""The model provider's id, which threads are stored with."""
REQUEST_RETRIES: Final = 4
"""Of a request that is refused; Codex's own number, which its version cannot change here."""
STREAM_RETRIES: Final = 10
"""Of a stream that is cut, each a new call. Codex's own 5 are not many where a proxy restarts.
While nobody listens it waits without counting."""

_OPENAI: Final = "OpenAI"
"""The name by which Codex knows a provider to be OpenAI's own: conversations are compacted there,
by a request only it understands. Nothing else differs, as there is no login."""
_ANY_OTHER: Final = "codex-supervisor"
_WALLED: Final = ("read-only", "workspace-write")
_BARE: Final = "danger-full-access"


def requirements_toml(settings: Settings, *, walled: bool = True) -> str:
    """What neither a client nor the agent can undo.

    `walled` False: do without the inner wall although the settings prefer it, for it does not hold
    here, and every command would fail.
    """
    modes = [*_WALLED, *([] if _has_wall(settings, walled=walled) else [_BARE])]
    return f"""\
# Made by codex-supervisor at each start: what is changed here is lost.
model_provider = "{PROVIDER}"
allowed_sandbox_modes = {_list(modes)}
# The first is what takes the place of any other.
allowed_approval_policies = ["untrusted", "on-request", "never"]
# Not a model.
allowed_approvals_reviewers = ["user"]
# From the index of whoever runs the model: a live page would be a way out.
allowed_web_search_modes = ["cached"]
cli_auth_credentials_store = "ephemeral"
check_for_update_on_startup = false
allow_remote_control = false

[feedback]
enabled = false

# They call hosts that cannot be reached.
[features]
apps = false
plugins = false
remote_plugin = false

[model_providers.{PROVIDER}]
name = "{provider_name(settings.proxy.base_url)}"
base_url = "http://127.0.0.1:{MODEL_PORT}/v1"
wire_api = "responses"
requires_openai_auth = false
supports_websockets = false
request_max_retries = {REQUEST_RETRIES}
stream_max_retries = {STREAM_RETRIES}
"""


def config_toml(settings: Settings, *, walled: bool = True) -> str:
    """The defaults that everything else stands above; `walled` as above.

    Mounted over CODEX_HOME's own config.toml as well, it is all there is: there the agent could
    name programs that Codex runs outside of the inner wall, and unasked.
    """
    bare = "" if _has_wall(settings, walled=walled) else f'sandbox_mode = "{_BARE}"\n'
    return f"""\
# Made by codex-supervisor at each start: what is changed here is lost.
{bare}cli_auth_credentials_store = "ephemeral"
check_for_update_on_startup = false

[analytics]
enabled = false

[feedback]
enabled = false

[otel]
exporter = "none"
trace_exporter = "none"
metrics_exporter = "none"
"""


def launch_overrides(settings: Settings) -> list[str]:
    """`-c` of the launch, before those of the settings, which may say otherwise.

    They stand above the .codex/config.toml of a trusted project, as no requirement does. Commands
    in the inner wall have no network, for the model's listener is in it, and write in the project
    and in the mounts that the operator made writable.
    """
    roots = [str(mount.destination) for mount in settings.podman.extra_mounts if mount.writable]
    return [
        "sandbox_workspace_write.network_access=false",
        f"sandbox_workspace_write.writable_roots={_list(roots)}",
    ]


def forbidden_sandboxes(settings: Settings) -> frozenset[str]:
    """Modes that a thread of an earlier time may have, and is not resumed with: its turns would
    all be refused. It gets the default then."""
    return frozenset({_BARE}) if settings.podman.inner_wall != "off" else frozenset()


def provider_name(base_url: str) -> str:
    """What the provider is called, by where the proxy forwards to."""
    host = urlsplit(base_url).hostname or ""
    return _OPENAI if host == "api.openai.com" or host.endswith(".api.openai.com") else _ANY_OTHER


def _has_wall(settings: Settings, *, walled: bool) -> bool:
    return walled and settings.podman.inner_wall != "off"


def _list(values: list[str]) -> str:
    """An array of TOML: its basic strings are JSON's, but for one character."""
    return msgspec.json.encode(values).decode().replace("\x7f", "\\u007f")
