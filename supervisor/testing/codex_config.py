"""How to point a codex at the scripted model, quietly: as `-c` arguments or as a config.toml."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

MODEL: Final = "gpt-5.5"
"""A name codex knows: with others it offers no freeform `apply_patch`."""
PROVIDER: Final = "mock"

_QUIET: Final[Mapping[str, object]] = {
    "model": MODEL,
    "model_provider": PROVIDER,
    "check_for_update_on_startup": False,
    "suppress_unstable_features_warning": True,
    "analytics.enabled": False,
    "feedback.enabled": False,
    "otel.exporter": "none",
    "features.plugins": False,
    "features.apps": False,
    "features.remote_plugin": False,
    "features.default_mode_request_user_input": True,
}

SEARCH_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def codex_overrides(base_url: str, *, auth: bool = False, retries: int | None = None) -> list[str]:
    """The `-c key=value` arguments, to stand before `app-server`.

    `auth` makes the provider one that sends the key of the person's auth.json. `retries` bounds
    how often codex repeats a refused request and a cut stream; None leaves codex's own numbers.
    """
    arguments: list[str] = []
    for key, value in _settings(base_url, auth=auth, retries=retries).items():
        arguments += ["-c", f"{key}={json.dumps(value)}"]
    return arguments


def config_toml(base_url: str, *, auth: bool = False, retries: int | None = None) -> str:
    """The same for the config.toml of a temporary CODEX_HOME."""
    settings = _settings(base_url, auth=auth, retries=retries)
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items())


def codex_environment(codex_home: Path) -> dict[str, str]:
    """All a codex under test needs of an environment; nothing of the caller's own gets in."""
    return {"PATH": SEARCH_PATH, "HOME": str(codex_home), "CODEX_HOME": str(codex_home)}


def _settings(base_url: str, *, auth: bool, retries: int | None) -> dict[str, object]:
    provider: dict[str, object] = {
        "name": PROVIDER,
        "base_url": base_url,
        "wire_api": "responses",
        "requires_openai_auth": auth,
    }
    if retries is not None:
        provider |= {"request_max_retries": retries, "stream_max_retries": retries}
    prefix = f"model_providers.{PROVIDER}."
    return dict(_QUIET) | {prefix + key: value for key, value in provider.items()}
