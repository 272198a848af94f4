"""Which commands may be said to have ended."""

import pytest

from supervisor.agents.execs import OPEN_LIMIT, OpenExecs
from supervisor.errors import ErrorCode, SupervisorError


def refused(opened: OpenExecs, exec_id: str) -> bool:
    try:
        opened.take(exec_id)
    except SupervisorError as error:
        return error.code is ErrorCode.BAD_REQUEST
    return False


def test_each_ends_once_and_only_one_that_was_begun() -> None:
    opened = OpenExecs()
    opened.add("a")
    assert refused(opened, "b")
    assert not refused(opened, "a")
    assert refused(opened, "a")


@pytest.mark.parametrize("more", [0, 1, 50])
def test_there_are_never_more_than_so_many(more: int) -> None:
    opened = OpenExecs()
    for n in range(OPEN_LIMIT + more):
        opened.add(str(n))
    assert [refused(opened, str(n)) for n in range(more)] == [True] * more
    assert not refused(opened, str(more))
