"""One call of the command line: the options every command has, and what follows from them."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum, unique
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from supervisor.settings import Settings


@unique
class OutputFormat(StrEnum):
    """How results go to standard output."""

    TABLE = "table"
    """For people."""
    JSON = "json"
    """One JSON document; of a stream, JSON lines."""


@unique
class LogLevel(StrEnum):
    """What is logged to standard error."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


Config = Annotated[Path | None, typer.Option("--config", help="Settings file (TOML).")]
StateDir = Annotated[Path | None, typer.Option("--state-dir", help="The state directory.")]
Output = Annotated[OutputFormat | None, typer.Option("--output", help="How to print results.")]
Level = Annotated[LogLevel | None, typer.Option("--log-level", help="What to log.")]

_SHARED = (("config", Config), ("state_dir", StateDir), ("output", Output), ("log_level", Level))


@dataclass(frozen=True, slots=True)
class Invocation:
    """The options that stand before or after the command's name."""

    config: Path | None = None
    state_dir: Path | None = None
    output: OutputFormat | None = None
    log_level: LogLevel | None = None

    @property
    def json(self) -> bool:
        """Whether standard output is for programs."""
        return self.output is OutputFormat.JSON

    def settings(self, **flags: object) -> "Settings":
        """The settings, `flags` being those of the command. Raises `settings_invalid`."""
        from supervisor.settings import load

        told = {"state_dir": self.state_dir, "log_level": self.log_level, **flags}
        return load(told, config_file=self.config)

    def arguments(self) -> list[str]:
        """The same options, for another call of the program."""
        given = (
            ("--config", self.config and self.config.absolute()),
            ("--state-dir", self.state_dir and self.state_dir.absolute()),
            ("--log-level", self.log_level and self.log_level.value),
        )
        return [part for name, value in given if value for part in (name, str(value))]

    def over(self, outer: "Invocation") -> "Invocation":
        """What stands after the command wins over what stands before it."""
        return Invocation(
            self.config or outer.config,
            self.state_dir or outer.state_dir,
            self.output or outer.output,
            self.log_level or outer.log_level,
        )


CURRENT: list[Invocation] = [Invocation()]
"""The one call of this process, as far as it is read: `main` must know how to print an error."""


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the shared options, and its first parameter the `Invocation` they make."""
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]

    @functools.wraps(command)
    def called(ctx: typer.Context, **values: Any) -> None:
        here = Invocation(**{name: values.pop(name) for name, _ in _SHARED})
        invocation = here.over(ctx.obj if isinstance(ctx.obj, Invocation) else Invocation())
        ctx.obj = CURRENT[0] = invocation
        command(invocation, **values)

    kind = inspect.Parameter.KEYWORD_ONLY
    context = inspect.Parameter("ctx", kind, annotation=typer.Context)
    shared = [inspect.Parameter(n, kind, default=None, annotation=a) for n, a in _SHARED]
    parameters = [context, *(p.replace(kind=kind) for p in own), *shared]
    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {p.name: p.annotation for p in parameters}
    del called.__dict__["__wrapped__"]
    return called
