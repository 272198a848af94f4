"""Lines come out whole whatever the chunking; endless ones are refused, not kept."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.protocol.framing import LineFramer, Oversized, utf8_chunks

LIMIT = 8


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(p % (len(data) + 1) for p in places), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


def expected(data: bytes, limit: int) -> list[bytes | Oversized]:
    """Independent of the framer: a newline at a time."""
    lines: list[bytes | Oversized] = []
    while b"\n" in data:
        line, data = data.split(b"\n", 1)
        lines.append(line if len(line) <= limit else Oversized(len(line)))
    return lines


streams = st.lists(st.sampled_from([b"\n", b"\r", b"a", b"\x00\xff", b"{}", b"123456789"])).map(
    b"".join
)


@given(streams | st.binary(), st.lists(st.integers(min_value=0)))
def test_any_chunking_yields_what_the_whole_does(data: bytes, places: list[int]) -> None:
    framer = LineFramer(LIMIT)
    lines = [line for piece in cut(data, places) for line in framer.feed(piece)]
    assert lines == expected(data, LIMIT)
    assert framer.pending == len(data.rsplit(b"\n", 1)[-1])


@given(streams, st.lists(st.integers(min_value=0)))
def test_pending_tells_the_offset_of_the_unfinished_line(data: bytes, places: list[int]) -> None:
    framer = LineFramer(LIMIT)
    fed = b""
    for piece in cut(data, places):
        framer.feed(piece)
        fed += piece
        assert len(fed) - framer.pending == fed.rfind(b"\n") + 1


def test_endless_line_is_refused_not_buffered() -> None:
    framer = LineFramer(limit=1000)
    for _ in range(1000):
        assert framer.feed(b"x" * 900) == []
        assert sum(map(len, framer._parts)) <= 1000
    assert framer.pending == 900_000
    assert framer.feed(b"y\nnext\n") == [Oversized(900_001), b"next"]


def test_a_line_of_exactly_the_limit_passes_and_one_byte_more_does_not() -> None:
    framer = LineFramer(limit=4)
    assert framer.feed(b"1234\n12345\n") == [b"1234", Oversized(5)]
    assert [*framer.feed(b"12"), *framer.feed(b"34\n")] == [b"1234"]
    assert [*framer.feed(b"1234"), *framer.feed(b"\n")] == [b"1234"]
    assert [*framer.feed(b"12"), *framer.feed(b"345\n")] == [Oversized(5)]
    assert [*framer.feed(b"12345"), *framer.feed(b"\n")] == [Oversized(5)]


def test_an_oversized_line_in_the_middle_of_a_chunk_costs_only_itself() -> None:
    assert LineFramer(limit=3).feed(b"a\nbbbb\nc\n") == [b"a", Oversized(4), b"c"]


def test_empty_lines_count_and_a_carriage_return_stays() -> None:
    assert LineFramer().feed(b"\n\na\r\n") == [b"", b"", b"a\r"]


def test_reset_forgets_the_unfinished_line() -> None:
    framer = LineFramer()
    framer.feed(b"old generation")
    framer.reset()
    assert framer.pending == 0
    assert framer.feed(b"new\n") == [b"new"]


def test_reset_also_ends_the_refusal_of_a_line() -> None:
    framer = LineFramer(limit=3)
    framer.feed(b"too long")
    framer.reset()
    assert framer.feed(b"ok\n") == [b"ok"]


def test_a_limit_below_one_byte_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="at least one byte"):
        LineFramer(0)


text = st.text(st.sampled_from("aé€😀\x00\n") | st.characters(exclude_categories=["Cs"]))


@given(text, st.integers(min_value=4, max_value=40))
def test_chunks_join_back_and_each_is_valid_utf8(words: str, size: int) -> None:
    line = words.encode()
    pieces = [bytes(piece) for piece in utf8_chunks(line, size)]
    assert b"".join(pieces) == line
    for piece in pieces:
        assert 0 < len(piece) <= size
        piece.decode()


def test_chunks_are_as_long_as_characters_allow() -> None:
    assert [bytes(p) for p in utf8_chunks(b"a" * 10, 4)] == [b"aaaa", b"aaaa", b"aa"]
    assert [len(p) for p in utf8_chunks("€€€".encode(), 4)] == [3, 3, 3]
    assert [len(p) for p in utf8_chunks("😀😀".encode(), 4)] == [4, 4]


def test_chunks_default_to_what_a_fifo_takes_at_once() -> None:
    sizes = [len(piece) for piece in utf8_chunks("é".encode() * 5000 + b"x")]
    assert sizes == [4096, 4096, 1809]


def test_nothing_yields_no_chunk() -> None:
    assert list(utf8_chunks(b"")) == []


def test_what_is_not_utf8_is_not_cut_for_ever() -> None:
    with pytest.raises(ValueError, match="not UTF-8"):
        list(utf8_chunks(b"\x80" * 100, 8))


def test_a_piece_too_small_for_a_character_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="room for any character"):
        list(utf8_chunks(b"abc", 3))
