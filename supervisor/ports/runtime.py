"""The runtime: where an app-server runs. It starts, finds again, and ends; it never reads lines."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from supervisor.ids import Generation, ProjectId
from supervisor.policy.places import ProjectPaths


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """One start of an app-server, decided; nothing in it depends on the supervisor's process."""

    project: ProjectId
    generation: Generation
    directory: Path
    """The project, absolute and resolved; the app-server's working directory."""
    walled: bool = True
    """With Codex's own sandbox inside the container, where the settings want it."""
    argv: Sequence[str]
    env: Mapping[str, str]
    marker: str
    """Goes into the environment as `MARKER_VARIABLE`, to find every process again."""
    stdin: Path
    """A FIFO, made by the caller; opened read-write for the child (D1)."""
    stdout: Path
    """The spool: opened for appending."""
    stderr: Path
    """Opened for appending; the caller bounds it."""


MARKER_VARIABLE = "CODEX_SUPERVISOR_GENERATION"


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Which process it is; a pid alone is not identity."""

    pid: int
    start_ticks: int
    """0: it had ended before anybody could look."""
    boot_id: str
    container: str = ""
    """The full id of the container whose init the pid is; "" without one."""


class Confinement(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What stands around a contained app-server."""

    container: str
    """The container's full id."""
    limits_hold: bool
    """The limits on memory, processes and CPU time are in force."""
    stdio_out_of_reach: bool
    """No process of the agent's user can get at the app-server's stdio (D5)."""
    doubts: tuple[str, ...]
    """Why not, for people."""


class Exit(msgspec.Struct, frozen=True, kw_only=True):
    """How a process ended. Both None: nobody can know, as of some that were adopted."""

    code: int | None = None
    signal: int | None = None
    oom: bool = False
    """The kernel killed it because its memory limit was reached."""


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What a contained app-server, and all it has started, uses: one reading.

    Counters count from the container's start; a limit of None: there is none.
    """

    memory_bytes: int
    """Without the page cache that can be dropped."""
    memory_limit_bytes: int | None
    memory_peak_bytes: int | None
    """With the page cache; None: this kernel does not tell."""
    cpu_seconds: float
    throttled_seconds: float
    throttled_periods: int
    pids: int
    pids_limit: int | None
    oom_kills: int


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """What a person runs beside a contained app-server."""

    argv: Sequence[str]
    directory: Path
    """As the app-server knows it."""
    terminal: str | None = None
    """The kind of terminal it gets, as TERM has it; None: its stdio are pipes."""


class ExecLine(msgspec.Struct, frozen=True, kw_only=True):
    """How to run a `Command`, for whoever has the terminal."""

    argv: Sequence[str]
    environment: Mapping[str, str]
    """To be added to one's own."""


class Process(Protocol):
    """A live, or just ended, app-server."""

    @property
    def identity(self) -> Identity:
        """Who it is."""

    @property
    def confinement(self) -> Confinement | None:
        """None for one that runs as any process does."""

    @property
    def outdated(self) -> str:
        """Why it is to be started anew, in words: one that was adopted, and for which the settings
        have changed since its start so that it cannot go on by them. "" for any other."""

    async def wait(self) -> Exit:
        """Return when the app-server itself has ended. May be awaited by many, many times."""

    async def terminate(self) -> None:
        """Ask it to end (SIGTERM). Harmless after the end."""

    async def kill_tree(self) -> int:
        """End every process of the generation, the app-server first; return how many there were.

        Call it after the end as well: commands outlive their app-server.
        """

    async def pause(self) -> None:
        """Stop it from running (SIGSTOP): its spool has grown past the bound."""

    async def unpause(self) -> None:
        """Let it run again."""

    def usage(self) -> Usage | None:
        """What its container uses now; None without one, or once it has ended."""

    def exec_line(self, command: Command) -> ExecLine | None:
        """What runs `command` in its container, as its user; None if there is no container."""

    def release(self) -> None:
        """Stop watching and leave it running: a successor will adopt it. Idempotent."""


class Runtime(Protocol):
    """Raises `SupervisorError`: `codex_missing`, `agent_start_failed`; one that mounts also
    `project_path_refused`, `state_directory_unsafe` and `settings_invalid`."""

    name: str
    contains: bool
    """Whether the app-server is kept to its project: then no project may hold another."""

    def paths(self, project: ProjectId, directory: Path) -> ProjectPaths:
        """Where the project is, for the host and for the app-server."""

    async def start(self, launch: Launch) -> Process:
        """Start it, in a session and process group of its own, and return at once."""

    async def adopt(self, launch: Launch, identity: Identity) -> Process | None:
        """The process a predecessor started, or None if it is not there any more."""

    async def markers(self, prefix: str) -> set[str]:
        """The markers that begin with `prefix` of all processes there are."""

    async def sweep(self, marker: str) -> int:
        """End every process that carries `marker`; return how many there were.

        For a generation that was spawned and never recorded, and for leftovers of an ended one.
        """
