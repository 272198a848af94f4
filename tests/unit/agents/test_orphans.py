"""Which of the markers there are belong to nobody, and what becomes of them."""

import asyncio
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.agents.relist import Spared, orphans, relist, sweep_once
from supervisor.ids import ProjectId

ONE, TWO = ProjectId("one"), ProjectId("two")


def test_only_the_generation_that_is_looked_after_is_spared() -> None:
    spared = [Spared(ONE, "s:one:3"), Spared(TWO, "")]
    found = ["s:one:2", "s:one:3", "s:one:4", "s:two:1"]
    assert orphans(found, "s", spared) == ["s:one:2", "s:one:4", "s:two:1"]


def test_while_nobody_knows_which_will_be_adopted_all_of_the_project_are_spared() -> None:
    assert orphans(["s:one:2", "s:one:3"], "s", [Spared(ONE, None)]) == []


def test_what_belongs_to_no_project_is_an_orphan() -> None:
    assert orphans(["s:gone:1", "s:strange", "s::"], "s", [Spared(ONE, "s:one:1")]) == [
        *("s::", "s:gone:1", "s:strange"),
    ]


def test_another_supervisors_are_none_of_ours() -> None:
    assert orphans(["t:one:1", "s2:one:1", "one:1", ""], "s", []) == []


names = st.sampled_from(["one", "two", "a:b", ""])
markers = st.builds(lambda s, p, g: f"{s}:{p}:{g}", st.sampled_from("st"), names, st.integers(0, 3))


@given(found=st.sets(markers), live=st.dictionaries(names, st.none() | st.integers(0, 3)))
def test_nothing_spared_and_nothing_foreign_is_ever_an_orphan(
    found: set[str], live: dict[str, int | None]
) -> None:
    spared = [
        Spared(ProjectId(name), None if number is None else f"s:{name}:{number}")
        for name, number in live.items()
    ]
    swept = set(orphans(found, "s", spared))
    assert swept <= {marker for marker in found if marker.startswith("s:")}
    for each in spared:
        of_project = {m for m in found if m.rpartition(":")[0] == f"s:{each.project}"}
        assert not swept & (of_project if each.marker is None else {each.marker})
    known = {f"s:{name}" for name in live}
    assert {m for m in found if m.startswith("s:") and m.rpartition(":")[0] not in known} <= swept


class Ticks:
    """A clock that waits for nobody, and ends the test after so many waits."""

    def __init__(self, ticks: int) -> None:
        self.left = ticks

    def now(self) -> datetime:
        return datetime(2020, 1, 1, tzinfo=UTC)

    def monotonic(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        assert seconds == 60
        self.left -= 1
        if self.left < 0:
            raise asyncio.CancelledError


class Listed:
    """A runtime whose answers are told."""

    def __init__(self, *answers: set[str] | Exception) -> None:
        self.answers = list(answers)
        self.swept: list[str] = []

    async def markers(self, prefix: str) -> set[str]:
        assert prefix == "s:"
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def sweep(self, marker: str) -> int:
        self.swept.append(marker)
        if marker == "s:bad:1":
            raise OSError("it cannot be removed")
        return 1


async def test_a_runtime_that_fails_is_asked_again() -> None:
    runtime = Listed(OSError("away"), {"s:bad:1", "s:one:1"}, {"s:one:1"}, {"s:one:2"})
    live = iter(["s:one:1", "s:one:1", ""])
    with pytest.raises(asyncio.CancelledError):
        await relist(
            runtime,  # type: ignore[arg-type]  # all that is used of one
            "s",
            lambda: [Spared(ONE, next(live))],
            clock=Ticks(4),
            seconds=60,
        )
    assert runtime.swept == ["s:bad:1", "s:one:2"]


async def test_a_generation_that_begins_while_the_runtime_looks_is_spared() -> None:
    live = [""]

    class Slow(Listed):
        async def markers(self, prefix: str) -> set[str]:
            live[0] = "s:one:2"
            return await super().markers(prefix)

    runtime = Slow({"s:one:1", "s:one:2"})
    await sweep_once(runtime, "s", lambda: [Spared(ONE, live[0])])  # type: ignore[arg-type]
    assert runtime.swept == ["s:one:1"]
