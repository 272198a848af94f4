import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.errors import ErrorCode, SupervisorError
from supervisor.rpc.methods import NESTING_LIMIT, check_nesting
from supervisor.rpc.paths import inside, is_inside

PROJECT = "/home/me/p"


@pytest.mark.parametrize(
    ("path", "whole"),
    [
        (".", PROJECT),
        ("a", PROJECT + "/a"),
        ("./a//b/", PROJECT + "/a/b"),
        (PROJECT, PROJECT),
        (PROJECT + "/a", PROJECT + "/a"),
        ("..a/b..", PROJECT + "/..a/b.."),
    ],
)
def test_a_path_inside_is_made_absolute(path: str, whole: str) -> None:
    assert inside("cwd", PROJECT, path) == whole


@given(st.text(alphabet="./ap\0", max_size=24))
def test_whatever_is_let_through_is_inside_and_climbs_nowhere(path: str) -> None:
    try:
        whole = inside("cwd", PROJECT, path)
    except SupervisorError as error:
        assert error.code is ErrorCode.PROJECT_PATH_REFUSED  # noqa: PT017  # either is fine
        return
    assert (whole + "/").startswith(PROJECT + "/")
    assert "/../" not in whole + "/"
    assert "\0" not in whole


@pytest.mark.parametrize("path", ["/home/me/p2", "/home/me", "/home/me/p/../q", "p", ""])
def test_a_neighbour_is_not_inside(path: str) -> None:
    assert not is_inside(PROJECT, path)


def nested(levels: int) -> object:
    value: object = 1
    for _ in range(levels):
        value = [{"a": value}]
    return value


def test_nesting_is_followed_to_the_limit_and_not_past_it() -> None:
    check_nesting("result", nested(NESTING_LIMIT // 2 - 1))
    with pytest.raises(SupervisorError) as caught:
        check_nesting("result", nested(NESTING_LIMIT // 2))
    assert caught.value.code is ErrorCode.BAD_REQUEST
