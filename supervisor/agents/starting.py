"""From nothing to an app-server that answers: spawn, record, handshake, ping (D10, D11)."""

import re
from importlib.metadata import version

import msgspec

from supervisor.agents.ledger import Change, Ledger, own_event
from supervisor.agents.shared import Shared
from supervisor.agents.spool import SpoolPaths
from supervisor.agents.upstream import Upstream
from supervisor.audit import record
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.ids import Generation, ProjectId
from supervisor.policy import pinned, trust
from supervisor.policy.access import SUPERVISOR
from supervisor.policy.places import ProjectPaths
from supervisor.ports.runtime import Command, Exit, Identity, Launch, Process
from supervisor.ports.store import Batch, GenerationRow
from supervisor.protocol.encoding import notification

PING = "thread/loaded/list"
"""The cheapest read Codex has: it answers from memory."""
AGENT_STARTED = "supervisor/agentStarted"
AGENT_READY = "supervisor/agentReady"
_USER_AGENT = re.compile(r"^[^/\s]+/(\S+)")
_NOT_INITIALIZED = "Not initialized"


class GoneProcess:
    """An app-server that is not there any more; its spool may still hold what it said."""

    def __init__(self, shared: Shared, marker: str) -> None:
        self._shared = shared
        self._marker = marker

    @property
    def identity(self) -> Identity:
        """Nobody's."""
        return Identity(pid=0, start_ticks=0, boot_id="")

    @property
    def confinement(self) -> None:
        """Nothing is around nothing."""
        return None

    @property
    def outdated(self) -> str:
        """Never: it does not go on."""
        return ""

    async def wait(self) -> Exit:
        """It has ended, nobody saw how."""
        return Exit()

    async def terminate(self) -> None:
        """Nothing to ask."""

    async def kill_tree(self) -> int:
        """End what it left behind."""
        return await self._shared.runtime.sweep(self._marker)

    async def pause(self) -> None:
        """Nothing to stop."""

    async def unpause(self) -> None:
        """Nothing to let run."""

    def usage(self) -> None:
        """Nothing."""
        return

    def exec_line(self, command: Command) -> None:
        """Nowhere to run it."""

    def release(self) -> None:
        """Nothing to let go of."""


def launch_of(
    shared: Shared, place: ProjectPaths, row: GenerationRow, *, trusted: bool, walled: bool
) -> Launch:
    """The start of a generation. Raises `codex_missing`."""
    settings = shared.settings
    paths = SpoolPaths(shared.project_dir(row.project), row.generation)
    overrides = [
        trust.launch_override(place.inside, trusted),
        *(pinned.launch_overrides(settings) if shared.runtime.contains else []),
        *settings.codex_config,
    ]
    argv = [*shared.codex(), *(a for o in overrides for a in ("-c", o)), "app-server"]
    return Launch(
        project=row.project,
        generation=row.generation,
        directory=place.host,
        walled=walled,
        argv=argv,
        env={**shared.environment, "CODEX_HOME": str(settings.codex_home)},
        marker=row.marker,
        stdin=paths.stdin,
        stdout=paths.stdout,
        stderr=paths.stderr,
    )


def launch_to_adopt(
    shared: Shared, project: ProjectId, place: ProjectPaths, row: GenerationRow
) -> Launch:
    """What `Runtime.adopt` needs to know a generation again; nothing is started from it."""
    paths = SpoolPaths(shared.project_dir(project), row.generation)
    return Launch(
        project=project,
        generation=row.generation,
        directory=place.host,
        argv=(),
        env={},
        marker=row.marker,
        stdin=paths.stdin,
        stdout=paths.stdout,
        stderr=paths.stderr,
    )


def identity_to_adopt(shared: Shared, row: GenerationRow) -> Identity | None:
    """Whom to look for; None if nobody was recorded, or if what it says goes nowhere any more:
    then an empty spool stands for the lost one, for the end to be told."""
    paths = SpoolPaths(shared.project_dir(row.project), row.generation)
    if not paths.stdout.exists():
        paths.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        paths.stdout.touch(mode=0o600)
        return None
    if row.state != "running" or not (row.pid and row.pid_start_ticks and row.boot_id):
        return None
    if row.runtime != shared.runtime.name:
        return None  # the settings say otherwise now: what runs is swept, by its marker
    return Identity(pid=row.pid, start_ticks=row.pid_start_ticks, boot_id=row.boot_id)


async def begin(
    shared: Shared, ledger: Ledger, generation: Generation, *, trusted: bool
) -> GenerationRow:
    """Make the files, then commit that a start is about to happen: a successor that finds the
    record and no process looks for the marker and ends what it finds."""
    SpoolPaths(shared.project_dir(ledger.project), generation).make()
    row = GenerationRow(
        project=ledger.project,
        generation=generation,
        state="spawning",
        runtime=shared.runtime.name,
        marker=f"{shared.state_id}:{ledger.project}:{generation}",
        first_n=ledger.next_n + 1,
        started_at=shared.clock.now().timestamp(),
        trusted=trusted,
    )

    def change(n: int, at: float) -> Change:
        return Change(
            events=[own_event(AGENT_STARTED, {"generation": generation})],
            rows=Batch(project=ledger.project, generations={generation: row}),
            drafts=[record.agent_starting(SUPERVISOR, row, trusted=trusted)],
            begins=generation,
        )

    await ledger.barrier(change, patient=True)
    return row


async def recorded(ledger: Ledger, row: GenerationRow, process: Process) -> GenerationRow:
    """Commit who the process is."""
    identity = process.identity
    running = msgspec.structs.replace(
        row,
        state="running",
        pid=identity.pid,
        pid_start_ticks=identity.start_ticks,
        boot_id=identity.boot_id,
    )

    def change(n: int, at: float) -> Change:
        return Change(
            rows=Batch(project=ledger.project, generations={row.generation: running}),
            drafts=[record.agent_started(SUPERVISOR, running)],
        )

    await ledger.barrier(change, patient=True)
    return running


class _Hello(msgspec.Struct):
    userAgent: str = ""  # noqa: N815  the wire's own name


async def shake_hands(shared: Shared, upstream: Upstream, *, adopted: bool) -> str | None:
    """`initialize` unless that has been done, and a ping; Codex's version, where it told it.

    `codex_version` if it is another one than the pinned, `codex_timeout`, `agent_restarted`.
    """
    timeout = shared.settings.start_timeout_seconds
    if adopted:
        # Ends whatever line a predecessor left half written; a whole one is carried out.
        await upstream.write_newline()
        if await _is_initialized(upstream, timeout):
            return None
    result = await upstream.ask(
        "initialize",
        {
            "clientInfo": {
                "name": "codex_supervisor",
                "title": "codex-supervisor",
                "version": version("codex-supervisor"),
            },
            "capabilities": {"experimentalApi": True},
        },
        timeout=timeout,
        own=True,
    )
    await upstream.write(notification("initialized"))
    said = _version(result)
    _check_version(shared, said)
    await upstream.ask(PING, {}, timeout=timeout, own=True)
    return said


async def _is_initialized(upstream: Upstream, timeout: float) -> bool:
    try:
        await upstream.ask(PING, {}, timeout=timeout, own=True)
    except SupervisorError as e:
        if e.code is ErrorCode.CODEX_REFUSED and e.message == _NOT_INITIALIZED:
            return False
        raise
    return True


def _version(result: msgspec.Raw) -> str:
    try:
        agent = msgspec.json.decode(result, type=_Hello).userAgent
    except msgspec.MsgspecError:
        agent = ""
    match = _USER_AGENT.match(agent)
    return match[1] if match else "unknown"


def _check_version(shared: Shared, said: str) -> None:
    settings = shared.settings
    if said != settings.codex_version and not settings.allow_other_codex_version:
        raise SupervisorError(
            ErrorCode.CODEX_VERSION, f"codex is {said[:40]}, not {settings.codex_version}"
        )
