"""How deep a line may be nested: one bound for all, whatever a decoder's own limit is."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.protocol.encoding import MAX_LINE_DEPTH, is_too_deep
from supervisor.protocol.jsonrpc import Kind, Problem, parse


def nested(levels: int, inside: str = "1") -> bytes:
    """A line of so many levels, lists and objects in turn."""
    opened = ["[" if n % 2 else '{"k":' for n in range(levels)]
    closed = ["]" if n % 2 else "}" for n in reversed(range(levels))]
    return ("".join(opened) + inside + "".join(closed)).encode()


@pytest.mark.parametrize("inside", ["1", '"[[[{{{"', '"\\\\"', '"\\"[["', '"\\\\\\"["', '"é[\\n["'])
def test_the_bound_is_exact_and_strings_do_not_count(inside: str) -> None:
    assert not is_too_deep(nested(MAX_LINE_DEPTH, inside))
    assert is_too_deep(nested(MAX_LINE_DEPTH + 1, inside))


def test_brackets_beside_each_other_or_in_a_string_are_no_depth() -> None:
    assert not is_too_deep(json.dumps({"a": [[]] * 10_000}).encode())
    assert not is_too_deep(json.dumps({"a": "[" * 10_000}).encode())
    assert not is_too_deep(json.dumps(["\\", '"', "{" * 1000] * 3).encode())


@pytest.mark.parametrize("levels", [MAX_LINE_DEPTH - 2, MAX_LINE_DEPTH, 500, 994, 1000, 100_000])
def test_a_line_is_read_or_too_deep_and_nothing_between(levels: int) -> None:
    line = b'{"method":"x","params":{"z":%b}}' % (b"[" * levels + b"]" * levels)
    parsed = parse(line)
    if levels + 2 <= MAX_LINE_DEPTH:
        assert parsed.kind is Kind.NOTIFICATION
    else:
        assert parsed.problem is Problem.TOO_DEEP


def depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


TEXT = st.text(st.sampled_from('[]{}"\\é\n '), max_size=6)
JSON = st.recursive(
    TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=30,
)


@given(JSON, st.integers(MAX_LINE_DEPTH - 6, MAX_LINE_DEPTH + 1), st.booleans())
def test_any_json_is_as_deep_as_it_is(value: Any, around: int, ascii_: bool) -> None:
    line = nested(around, json.dumps(value, ensure_ascii=ascii_))
    assert is_too_deep(line) == (around + depth(value) > MAX_LINE_DEPTH)


@given(st.binary(max_size=2000))
def test_any_bytes_have_an_answer(data: bytes) -> None:
    assert is_too_deep(data) in {True, False}
    parse(data)
