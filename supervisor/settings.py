"""The settings: every knob with its unit, its default and its bounds.

A value comes from, strongest first: a flag, the environment (`CODEX_SUPERVISOR_<KEY>`, groups with
a double underscore), the file of `--config`, the person's file, the machine's file, the default.
A key nobody knows is an error wherever it stands. `Settings(...)` itself reads no file and no
variable but those of the XDG directories and `CODEX_HOME`; `load` reads the rest. No other module
looks at the environment.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from supervisor import settings_sources as sources
from supervisor.settings_groups import (
    AbsolutePath,
    DiskSettings,
    PodmanSettings,
    ProxySettings,
    Seconds,
)

PREFIX = "CODEX_SUPERVISOR_"
SYSTEM_FILE = Path("/etc/codex-supervisor/config.toml")
PINNED_CODEX_VERSION = "0.163.0"

_KIB = 1024
_MIB = 1024 * _KIB
_GIB = 1024 * _MIB


def _key_and_value(text: str) -> str:
    key, equals, _ = text.partition("=")
    if not key.strip() or not equals or "\0" in text:
        raise ValueError("must read key=value, as codex's own -c")
    return text


def _origin(text: str) -> str:
    if re.fullmatch(r"https?://[A-Za-z0-9.\[\]:-]+", text) is None:
        raise ValueError("must be an origin such as https://editor.example:8443, without a path")
    return text.lower()


def _sqlite_url(url: str) -> str:
    if not url.startswith("sqlite:///"):
        raise ValueError("must begin with sqlite:///")
    return url


def _state_dir(env: Mapping[str, str]) -> Path:
    return _xdg(env, "XDG_STATE_HOME", ".local/state") / "codex-supervisor"


def _codex_home(env: Mapping[str, str]) -> Path:
    return Path(env.get("CODEX_HOME") or _home(env) / ".codex").absolute()


def _home(env: Mapping[str, str]) -> Path:
    return Path(env.get("HOME") or Path.home())


def _xdg(env: Mapping[str, str], variable: str, below_home: str) -> Path:
    """The XDG directory; a relative one is to be ignored, says the specification."""
    given = Path(env.get(variable, ""))
    return given if given.is_absolute() else _home(env) / below_home


Host = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9.:_-]{1,253}$")]
Version = Annotated[str, StringConstraints(pattern=r"^[0-9]+\.[0-9]+\.[0-9]+[0-9A-Za-z.+-]{0,32}$")]
Account = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$")]


class RestartSettings(BaseModel):
    """After an unasked exit: full-jitter backoff, within an intensity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    base_seconds: Seconds = 0.2
    cap_seconds: Seconds = 30.0
    intensity: int = Field(5, ge=1, le=1000)
    period_seconds: Seconds = 60.0

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.cap_seconds < self.base_seconds:
            raise ValueError("cap_seconds must not be below base_seconds")
        return self


class Settings(BaseSettings):
    """What one supervisor was told. Frozen: a change needs a restart. docs/settings.md explains."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,
    )

    state_dir: AbsolutePath = Field(default_factory=lambda: _state_dir(os.environ))
    database_url: Annotated[str, AfterValidator(_sqlite_url)] | None = Field(None, repr=False)
    account: Account = "local"
    on_shutdown: Literal["stop", "keep"] = "stop"
    idle_exit_seconds: Seconds | None = None

    runtime: Literal["host", "podman"] = "host"
    codex_bin: AbsolutePath | None = None
    codex_version: Version = PINNED_CODEX_VERSION
    allow_other_codex_version: bool = False
    codex_home: AbsolutePath = Field(default_factory=lambda: _codex_home(os.environ))
    codex_config: tuple[Annotated[str, AfterValidator(_key_and_value)], ...] = ()
    project_roots: tuple[AbsolutePath, ...] = ()

    listen_host: Host = "127.0.0.1"
    listen_port: int = Field(7878, ge=0, le=65_535)
    token_file: AbsolutePath = Field(default_factory=lambda told: told["state_dir"] / "token")
    allowed_origins: tuple[Annotated[str, AfterValidator(_origin)], ...] = ()
    max_frame_bytes: int = Field(16 * _MIB, ge=64 * _KIB, le=_GIB)

    line_limit_bytes: int = Field(64 * _MIB, ge=64 * _KIB, le=_GIB)
    spool_backlog_pause_bytes: int = Field(256 * _MIB, ge=_MIB)
    spool_backlog_stop_bytes: int = Field(_GIB, ge=_MIB)
    punch_spools: bool = True
    stderr_limit_bytes: int = Field(4 * _MIB, ge=4 * _KIB, le=_GIB)

    replay_window_seconds: float = Field(600.0, ge=0, le=604_800)
    replay_window_bytes: int = Field(64 * _MIB, ge=0)
    subscriber_queue_events: int = Field(1024, ge=16, le=1_048_576)
    subscriber_queue_bytes: int = Field(4 * _MIB, ge=64 * _KIB, le=_GIB)

    start_timeout_seconds: Seconds = 20.0
    ping_interval_seconds: Seconds = 30.0
    ping_timeout_seconds: Seconds = 10.0
    request_timeout_seconds: Seconds = 60.0
    stop_grace_seconds: float = Field(5.0, ge=0, le=600)
    requests_in_flight: int = Field(128, ge=1, le=128)
    restart: RestartSettings = RestartSettings()

    podman: PodmanSettings = PodmanSettings()
    proxy: ProxySettings = ProxySettings()
    disk: DiskSettings = DiskSettings()

    commit_interval_seconds: float = Field(0.02, ge=0, le=10)
    pending_rows_limit: int = Field(10_000, ge=100, le=1_000_000)

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        if self.spool_backlog_stop_bytes < self.spool_backlog_pause_bytes:
            raise ValueError("spool_backlog_stop_bytes must not be below spool_backlog_pause_bytes")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what is passed: nothing hidden reaches a test or a second instance."""
        return (init_settings,)


def load(
    flags: Mapping[str, object],
    *,
    env: Mapping[str, str] | None = None,
    config_file: Path | None = None,
    system_file: Path = SYSTEM_FILE,
) -> Settings:
    """Merge every source. Raises `settings_invalid`, naming key and source of each mistake.

    `flags` has the shape of the files; None in it means the flag was not given, and a `Path` in it
    is relative to the working directory. A variable that is empty counts as unset. The files of
    the machine and the person may be missing, `config_file` may not.
    """
    env = os.environ if env is None else env
    user_file = _xdg(env, "XDG_CONFIG_HOME", ".config") / "codex-supervisor" / "config.toml"
    told = [
        sources.from_flags(flags),
        sources.from_environment(Settings, env),
        *([sources.from_file(config_file, must_exist=True)] if config_file else []),
        sources.from_file(user_file),
        sources.from_file(system_file),
        sources.Source("default", {"state_dir": _state_dir(env), "codex_home": _codex_home(env)}),
    ]
    return sources.settle(Settings, told)


def environment(env: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment for child processes: a copy without our own `CODEX_SUPERVISOR_*`."""
    env = os.environ if env is None else env
    return {name: value for name, value in env.items() if not name.startswith(PREFIX)}
