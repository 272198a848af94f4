"""Codex: its binary, its directory, and whether somebody is logged in. No content is shown."""

import os
import stat
import tomllib
from typing import Any

from supervisor.cli.about import binary_version
from supervisor.cli.checks import Check, Finding, fail, ok, warn
from supervisor.errors import SupervisorError
from supervisor.settings import Settings, environment

BUILT_IN = "openai"
"""Codex's own model provider: the one that wants a login."""


def binary(settings: Settings) -> Finding:
    """It is there, runs, and is of the version whose protocol we know."""
    from supervisor.runtimes.binary import codex_binary

    wanted = settings.codex_version
    try:
        path = codex_binary(settings.codex_bin)
        version = binary_version(path)
    except SupervisorError as error:
        return fail(error.message, error.hint)
    if version == wanted:
        return ok(f"{version} at {path}")
    if settings.allow_other_codex_version:
        return warn(
            f"{version} at {path}; this release knows the protocol of {wanted}",
            "allow_other_codex_version lets it start all the same.",
        )
    return fail(
        f"{version} at {path}, and this release needs {wanted}",
        f"Install openai-codex-cli-bin=={wanted}, or name another binary with codex_bin.",
    )


def home(settings: Settings) -> Finding:
    """Codex writes its sessions there."""
    path = settings.codex_home
    if not path.exists():
        return fail(
            f"there is no {path}",
            f"`CODEX_HOME={path} codex login` makes it, or name another with codex_home.",
        )
    if not path.is_dir():
        return fail(f"{path} is not a directory", "Name another with codex_home.")
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        return fail(f"{path} is not writable", "Make it yours, or name another with codex_home.")
    return ok(str(path))


def login(settings: Settings) -> Finding:
    """An auth.json, or a model provider that needs none."""
    auth = settings.codex_home / "auth.json"
    try:
        found = auth.stat()
    except OSError:
        return _without_login(settings)
    if found.st_size == 0:
        return warn(f"{auth} is empty", "`codex login` fills it.")
    if stat.S_IMODE(found.st_mode) & 0o077:
        return warn(f"others can read {auth}", f"chmod 600 {auth}")
    return ok(f"{auth} is there")


def _without_login(settings: Settings) -> Finding:
    config = _config(settings)
    name = str(_overridden(settings, "model_provider") or config.get("model_provider") or BUILT_IN)
    providers = config.get("model_providers")
    provider = providers.get(name) if isinstance(providers, dict) else None
    variable = provider.get("env_key") if isinstance(provider, dict) else None
    if isinstance(variable, str) and not environment().get(variable):
        return warn(
            f"the model provider {name} takes its key from {variable}, which is not set",
            f"Set {variable} where the supervisor starts.",
        )
    if name != BUILT_IN:
        return ok(f"none; the model provider {name} of your own says what it needs")
    return warn(
        f"there is no {settings.codex_home / 'auth.json'}",
        "`codex login`, or `codex login --with-api-key`. An OPENAI_API_KEY alone is not used. "
        "A login in the system's keyring is not seen from here.",
    )


def _config(settings: Settings) -> dict[str, Any]:
    try:
        return tomllib.loads((settings.codex_home / "config.toml").read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return {}


def _overridden(settings: Settings, key: str) -> str | None:
    for one in settings.codex_config:
        name, _, value = one.partition("=")
        if name.strip() == key:
            return value.strip().strip("\"'")
    return None


PERSONS_OWN: dict[str, Check] = {"codex home": home, "login": login}
"""What an app-server on the host shares with the person."""
CHECKS: dict[str, Check] = {"codex": binary, **PERSONS_OWN}
