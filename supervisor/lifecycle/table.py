"""What every lifecycle here is: an enum of states, an enum of events, one table.

Pure: no asyncio, time, random or logging anywhere in this package.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar

S = TypeVar("S", bound=StrEnum)
E = TypeVar("E", bound=StrEnum)

Table = Mapping[tuple[S, E], S]


class IllegalTransition(ValueError):  # noqa: N818 - it reads as what it is
    """The table has no such edge: the caller's picture of the world is wrong."""

    def __init__(self, state: StrEnum, event: StrEnum) -> None:
        super().__init__(f"{type(state).__name__}: no {event.value!r} in {state.value!r}")
        self.state = state
        self.event = event


def step(table: Table[S, E], state: S, event: E) -> S:
    """The state after `event`; `IllegalTransition` if the table has no such edge."""
    following = table.get((state, event))
    if following is None:
        raise IllegalTransition(state, event)
    return following


def terminal_states(table: Table[S, E], states: type[S]) -> frozenset[S]:
    """The states that nothing leads out of."""
    return frozenset(states) - {state for state, _ in table}
