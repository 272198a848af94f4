"""The composition root: the only place that knows every adapter.

    lock ▶ store ▶ agents ▶ sockets ▶ (until told to stop) ▶ sockets ▶ agents ▶ store ▶ unlock

The lock on the state directory comes before anything else is touched, FIFOs above all.
"""

import asyncio
import contextlib
import hashlib
import os
import secrets
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import msgspec
from prometheus_client import CollectorRegistry

from supervisor.agents import usage
from supervisor.agents.ledger import Place
from supervisor.agents.pool import Pool
from supervisor.agents.shared import Shared
from supervisor.agents.state_dir import StateDirectory
from supervisor.agents.upstream import RequestIds
from supervisor.agents.usage import UsageTotals
from supervisor.agents.watch import Watcher
from supervisor.api.authentication import LOOPBACK_NAMES, Gate
from supervisor.api.connection import Limits
from supervisor.api.http import HttpServer, Readiness
from supervisor.api.unix import UnixServer
from supervisor.api.websocket import WebSocketPeers
from supervisor.clock import Clock, SystemClock, system_random
from supervisor.credentials.link import ProxyLink
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.ids import ProjectId
from supervisor.lifecycle.agent import AgentState
from supervisor.logs import get_logger
from supervisor.metrics import Metrics
from supervisor.ports.model_access import ModelAccess
from supervisor.ports.runtime import Runtime
from supervisor.ports.store import Store
from supervisor.rpc.describe import REGISTRY
from supervisor.rpc.dispatch import Dispatcher
from supervisor.rpc.meter import PrometheusMeter
from supervisor.rpc.methods import HostFacts
from supervisor.runtimes.binary import codex_binary
from supervisor.runtimes.containing import COMMAND, ENVIRONMENT, Containing
from supervisor.runtimes.disk import DiskBounds
from supervisor.runtimes.host import HostRuntime
from supervisor.runtimes.podman import PodmanRuntime
from supervisor.runtimes.podman_command import Podman
from supervisor.runtimes.podman_environment import podman_environment, podman_environment_anyway
from supervisor.runtimes.podman_start import noted
from supervisor.runtimes.processes import boot_id
from supervisor.settings import Settings, environment
from supervisor.stores.sql import SqlStore

log = get_logger()
VERSION = version("codex-supervisor")
TOKEN_BYTES = 32
IDLE_CHECK_SECONDS = 5.0


class Addresses(msgspec.Struct, frozen=True, kw_only=True):
    """Where a supervisor listens."""

    socket: Path
    host: str
    port: int
    token_file: Path

    @property
    def url(self) -> str:
        """Of the WebSocket RPC."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"ws://{host}:{self.port}/v1/rpc"


class Supervisor:
    """One running supervisor, as `running` yields it."""

    def __init__(self, shared: Shared, pool: Pool, link: ProxyLink | None) -> None:
        self.settings = shared.settings
        self.pool = pool
        self.metrics = shared.metrics
        self.addresses: Addresses
        self._watcher = shared.watcher
        self._clock = shared.clock
        self._link = link
        self._usage = UsageTotals()
        self._lagged = 0
        self._expired = 0

    def readiness(self) -> Readiness:
        """Ready unless a project's store is away."""
        waiting = [a.project for a in self.pool.all() if a.status().store_waiting]
        reasons = [f"the store is away: {name} waits in its spool" for name in waiting]
        return Readiness(ready=not reasons, reasons=reasons)

    def exposition(self) -> bytes:
        """The metrics, with what is only counted when somebody looks."""
        metrics, statuses = self.metrics, [a.status() for a in self.pool.all()]
        for agent in self.pool.all():
            agent.count_late_bytes()
        metrics.subscribers.set(sum(s.subscribers for s in statuses))
        metrics.approvals_waiting.set(sum(s.waiting_approvals for s in statuses))
        metrics.spool_backlog_bytes.set(sum(s.spool_backlog_bytes for s in statuses))
        metrics.watcher_polling.set(self._watcher.mode == "polling")
        live = dict(used for a in self.pool.all() if (used := a.usage()) is not None)
        usage.show(self._usage.take(live), metrics)
        broken = [s for s in statuses if s.inner_wall and s.inner_wall.reason]
        metrics.agents_without.labels("inner_wall").set(len(broken))
        if self._link is not None:
            facts = self._link.facts()
            metrics.proxy_connected.set(facts.connected)
            metrics.agents_without_model.set(facts.waiting)
        lagged = sum(a.lagged for a in self.pool.all())
        expired = sum(a.expired for a in self.pool.all())
        metrics.subscriptions_lagged.inc(max(0, lagged - self._lagged))
        metrics.cursor_expired.inc(max(0, expired - self._expired))
        self._lagged, self._expired = lagged, expired
        return metrics.exposition()

    async def idle(self, seconds: float) -> None:
        """Return once nobody has been connected and no turn has run for `seconds`."""
        since = self._clock.monotonic()
        while self._clock.monotonic() - since < seconds:
            await self._clock.sleep(min(IDLE_CHECK_SECONDS, seconds / 4))
            if self._busy():
                since = self._clock.monotonic()

    def _busy(self) -> bool:
        statuses = [a.status() for a in self.pool.all()]
        if any(s.active_turns or s.subscribers for s in statuses):
            return True
        return any(s.state == AgentState.STARTING.value for s in statuses)


@asynccontextmanager
async def running(
    settings: Settings, *, store: Store | None = None, runtime: Runtime | None = None
) -> AsyncIterator[Supervisor]:
    """A supervisor that serves while the context is open.

    Raises `state_directory_busy`, `state_directory_unsafe`, `address_in_use`, and the store's own.
    At the end app-servers are stopped or left running, as `on_shutdown` says. Another `store` or
    `runtime` than the settings' own may be given: tests that count or kill do.
    """
    clock = SystemClock()
    state_dir = StateDirectory(settings.state_dir, boot_id=boot_id(), clock=clock)
    state_dir.lock()
    try:
        async with AsyncExitStack() as stack:
            store = store or SqlStore(_database_url(settings, state_dir), clock=clock)
            ground = await _ground(stack, settings, state_dir, runtime)
            shared = await _shared(stack, settings, state_dir, store, ground)
            pool = await stack.enter_async_context(Pool(shared))
            supervisor = Supervisor(shared, pool, ground.link)
            # Sockets are bound before agents are touched: a taken port stops nothing that runs.
            serve = _bind(supervisor, state_dir, clock, stack)
            await pool.adopt_all()
            tasks = await stack.enter_async_context(_cancelled_at_end(serve))
            yield supervisor
            tasks()
            in_order = settings.on_shutdown != "stop" or await pool.stop_all()
        if in_order:
            state_dir.mark_clean()
    finally:
        # Whatever could not be ended in order is for the successor to find.
        state_dir.unlock()


@asynccontextmanager
async def _cancelled_at_end(
    serve: Sequence[Callable[[], Coroutine[None, None, None]]],
) -> AsyncIterator[Callable[[], None]]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(s()) for s in serve]

        def end() -> None:
            for task in tasks:
                task.cancel()

        try:
            yield end
        finally:
            end()


async def _shared(
    stack: AsyncExitStack,
    settings: Settings,
    state_dir: StateDirectory,
    store: Store,
    ground: "Ground",
) -> Shared:
    """What all agents share, the store opened; `stack` closes it."""
    await store.open()
    stack.push_async_callback(store.close)
    watcher = Watcher()
    stack.callback(watcher.close)
    metrics = Metrics(CollectorRegistry())
    rng = system_random()
    metrics.set_build(VERSION, settings.codex_version)
    metrics.start_methods(REGISTRY)
    return Shared(
        settings=settings,
        store=store,
        runtime=ground.runtime,
        disk=ground.disk,
        watcher=watcher,
        clock=SystemClock(),
        rng=rng,
        metrics=metrics,
        place=Place(host=_host_id(), boot_id=boot_id()),
        request_ids=RequestIds(f"{rng.getrandbits(48):012x}"),
        state_id=state_id(settings.state_dir),
        clean_shutdown=state_dir.was_clean(),
        project_dir=state_dir.project_dir,
        codex=_command(settings, ground.runtime),
        environment=dict(ENVIRONMENT) if ground.runtime.contains else environment(),
        starts=asyncio.Semaphore(2 * (os.cpu_count() or 1)),
        closing=asyncio.Event(),
    )


@dataclass(frozen=True, slots=True)
class Ground:
    """Where app-servers run, and what stands beside it where that is in containers."""

    runtime: Runtime
    disk: DiskBounds | None = None
    link: ProxyLink | None = None


async def _ground(
    stack: AsyncExitStack, settings: Settings, state_dir: StateDirectory, runtime: Runtime | None
) -> Ground:
    if runtime is not None:
        return Ground(runtime)
    root = settings.state_dir / "podman"
    left = noted(root / "run")

    def home(project: ProjectId) -> Path:
        return state_dir.project_dir(project) / "codex-home"

    disk = DiskBounds(settings.disk, state_dir.project_dir, home, SystemClock())
    if settings.runtime == "host":
        if left:
            await _clear_containers(settings, disk)
        return Ground(HostRuntime())
    link = ProxyLink(
        settings.proxy, settings.state_dir / "proxy", environment(), rng=system_random()
    )
    found_out = podman_environment_anyway if left else podman_environment
    variables = await asyncio.to_thread(found_out, settings, environment(), root)
    podman = _podman(settings, disk, variables, await stack.enter_async_context(link))
    stack.push_async_callback(asyncio.to_thread, podman.close)
    return Ground(podman, disk, link)


def _podman(
    settings: Settings,
    disk: DiskBounds,
    variables: Mapping[str, str],
    access: ModelAccess | None = None,
) -> PodmanRuntime:
    told = settings.podman
    asked = Podman(variables, program=told.program, patience=told.patience_seconds)
    containing = Containing(settings, lambda: codex_binary(settings.codex_bin), disk, asked)
    return PodmanRuntime(
        containing.settings_for,
        settings.state_dir / "podman" / "run",
        variables,
        paths=containing.paths,
        access=access,
        removed=disk.release_of,
        changed=containing.changed,
        program=told.program,
        patience=told.patience_seconds,
    )


async def _clear_containers(settings: Settings, disk: DiskBounds) -> None:
    """Of a time when the runtime was podman. Their ends are told as those of what is not there."""
    root = settings.state_dir / "podman"
    try:
        variables = await asyncio.to_thread(podman_environment, settings, environment(), root)
        podman = _podman(settings, disk, variables)
        try:
            await podman.clear(f"{state_id(settings.state_dir)}:")
        finally:
            await asyncio.to_thread(podman.close)
    except SupervisorError as e:
        log.warning("containers_left", error=e.message, hint=e.hint)


def _command(settings: Settings, runtime: Runtime) -> Callable[[], Sequence[str]]:
    if runtime.contains:
        return lambda: COMMAND
    return lambda: [str(codex_binary(settings.codex_bin))]


def _bind(
    supervisor: Supervisor, state_dir: StateDirectory, clock: Clock, stack: AsyncExitStack
) -> list[Callable[[], Coroutine[None, None, None]]]:
    settings = supervisor.settings
    meter = PrometheusMeter(supervisor.metrics)
    limits = Limits(max_frame_bytes=settings.max_frame_bytes)
    facts = HostFacts(
        version=VERSION,
        pid=os.getpid(),
        started=clock.monotonic(),
        clock=clock,
        url=lambda: supervisor.addresses.url,
    )
    dispatcher = Dispatcher(supervisor.pool, facts, meter)
    gate = Gate(
        token=read_token(settings.token_file),
        account=settings.account,
        hosts=frozenset({*LOOPBACK_NAMES, settings.listen_host}),
        origins=frozenset(settings.allowed_origins),
    )
    http = HttpServer(
        host=settings.listen_host,
        port=settings.listen_port,
        gate=gate,
        peers=WebSocketPeers(dispatcher, limits, meter, version=VERSION),
        readiness=supervisor.readiness,
        exposition=supervisor.exposition,
        meter=meter,
    )
    # Each takes its address before it serves, and gives it back if it never comes to that.
    stack.callback(http.close)
    host, port = http.bind()
    unix = UnixServer(state_dir.socket, dispatcher, limits, meter, version=VERSION)
    stack.callback(unix.close)
    unix.bind()
    supervisor.addresses = Addresses(
        socket=state_dir.socket, host=host, port=port, token_file=settings.token_file
    )
    return [http.serve, unix.serve]


def read_token(path: Path) -> str:
    """The person's token, made (mode 0600) if there is none, or an empty file. Raises
    `state_directory_unsafe` if others can read it."""
    if not os.path.lexists(path):
        with contextlib.suppress(FileExistsError), _token_beside(path) as made:
            # Not `replace`: another supervisor may just have made the one that both are to use.
            os.link(made, path)
    if path.is_symlink() or path.lstat().st_mode & 0o077:
        raise SupervisorError(
            ErrorCode.STATE_DIRECTORY_UNSAFE,
            f"others can read the token in {path}",
            hint="chmod 600 it, or remove it: a new one is made.",
        )
    if not path.read_text().strip():
        log.warning("empty_token_replaced", path=str(path))
        with _token_beside(path) as made:
            made.replace(path)
    return path.read_text().strip()


@contextlib.contextmanager
def _token_beside(path: Path) -> Iterator[Path]:
    """A new token in a file of its own, whole and on the disk: never is `path` half written."""
    fd, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    made = Path(name)
    try:
        with os.fdopen(fd, "w") as file:
            file.write(secrets.token_urlsafe(TOKEN_BYTES) + "\n")
            file.flush()
            os.fsync(fd)
        yield made
    finally:
        made.unlink(missing_ok=True)


def _database_url(settings: Settings, state_dir: StateDirectory) -> str:
    return settings.database_url or f"sqlite:///{state_dir.database}"


def state_id(path: Path) -> str:
    """Names this directory in the markers of processes: no two on a machine are called alike."""
    return hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:16]


def _host_id() -> str:
    try:
        machine = Path("/etc/machine-id").read_text().strip()
    except OSError:
        machine = ""
    return machine or socket.gethostname()
