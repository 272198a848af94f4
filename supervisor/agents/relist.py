"""Orphans, found by asking the runtime what there is, beside the ends it tells by itself (D11).

An orphan is whatever carries a marker of this state directory and belongs to no generation that is
looked after: what a failed removal left, what a start that was cut short had half made, what came
back with a reboot or a restored store.

The races, and why none hits a generation that lives or is about to:
- A generation is its supervision's own before anything of it is started (`begin`, then `start`),
  and until its tree has been ended. So of what was listed, it is enough to spare the generations
  that are supervised *after* the list is there: nothing is awaited between that look and the
  decision. One begun after the list is not in it; one that has ended since has nothing to lose.
- A marker never comes back: numbers of generations only grow, also across supervisors.
- Between two agents of a project, or before the first, nobody knows which generation will be
  adopted: then all of that project are spared. What is stray among them is the next agent's to end.
- A sweep waits, and the next orphan is ended on the strength of the same look: it was an orphan
  then, and an orphan never becomes a generation again.
- Two who sweep the same do no harm: to end what has gone is nothing.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from supervisor.clock import Clock
from supervisor.errors import SupervisorError
from supervisor.ids import ProjectId
from supervisor.logs import get_logger
from supervisor.ports.runtime import Runtime

log = get_logger()


@dataclass(frozen=True, slots=True)
class Spared:
    """What of one project is not to be touched now."""

    project: ProjectId
    marker: str | None
    """The one generation's that is looked after; "" if there is none; None: all that there are."""


def orphans(found: Iterable[str], state_id: str, spared: Iterable[Spared]) -> list[str]:
    """Those of the markers `found` that nobody looks after, in order."""
    kept = {each.project: each.marker for each in spared}
    prefix = f"{state_id}:"
    return sorted(
        marker
        for marker in found
        # Projects without a life cannot have started anything.
        if marker.startswith(prefix)
        and kept.get(_project(marker, prefix), "") not in (None, marker)
    )


def _project(marker: str, prefix: str) -> ProjectId:
    return ProjectId(marker.removeprefix(prefix).rpartition(":")[0])


async def relist(
    runtime: Runtime,
    state_id: str,
    spared: Callable[[], Iterable[Spared]],
    *,
    clock: Clock,
    seconds: float,
) -> None:
    """Every so many seconds, for ever. A runtime that fails is asked again the next time."""
    while True:
        await clock.sleep(seconds)
        try:
            await sweep_once(runtime, state_id, spared)
        except Exception as e:  # noqa: BLE001  # whatever it is, agents live on without this
            log.warning("relist_failed", error=str(e))


async def end_stray(runtime: Runtime, marker: str) -> None:
    """End one that a predecessor left. What cannot be ended now, a later look finds."""
    try:
        log.warning("stray_ended", processes=await runtime.sweep(marker), stray=marker)
    except SupervisorError as e:
        log.warning("stray_left", stray=marker, error=e.message)


async def sweep_once(
    runtime: Runtime, state_id: str, spared: Callable[[], Iterable[Spared]]
) -> None:
    """One look. Raises what the runtime raises."""
    found = await runtime.markers(f"{state_id}:")
    # No await from here to the decision.
    for marker in orphans(found, state_id, spared()):
        log.warning("orphan_ended", processes=await runtime.sweep(marker), stray=marker)
