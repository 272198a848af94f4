"""The oracle's text: every damage a stream can do to it is seen."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.testing.numbered import (
    MAXIMUM_COUNT,
    MINIMUM_SIZE,
    check_numbered,
    numbered_piece,
    numbered_pieces,
    numbered_text,
)

SIZES = st.integers(MINIMUM_SIZE, 40)


def test_pieces_are_what_the_documentation_says() -> None:
    assert numbered_text(3) == "000000 000001 000002 "
    assert numbered_piece(7, 9) == "000007.. "
    assert numbered_piece(7, 10, unicode=True) == "000007é漢😀 "


@given(st.integers(0, 200), SIZES, st.booleans())
def test_a_whole_text_counts_its_pieces(count: int, size: int, unicode: bool) -> None:
    text = numbered_text(count, size, unicode=unicode)
    assert len(text) == count * size
    assert check_numbered(text, size, unicode=unicode) == count


@given(st.integers(2, 50), SIZES, st.booleans(), st.data())
def test_a_lost_doubled_swapped_or_shortened_piece_is_found(
    count: int, size: int, unicode: bool, data: st.DataObject
) -> None:
    pieces = list(numbered_pieces(count, size, unicode=unicode))
    at = data.draw(st.integers(0, count - 2))
    damaged = {
        "lost": pieces[:at] + pieces[at + 1 :],
        "doubled": [*pieces[: at + 1], *pieces[at:]],
        "swapped": [*pieces[:at], pieces[at + 1], pieces[at], *pieces[at + 2 :]],
        "shortened": [*pieces[:at], pieces[at][:-1], *pieces[at + 1 :]],
    }
    with pytest.raises(ValueError, match="expected"):
        check_numbered(
            "".join(damaged[data.draw(st.sampled_from(sorted(damaged)))]), size, unicode=unicode
        )


def test_what_no_fixed_width_can_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="no piece"):
        numbered_piece(MAXIMUM_COUNT)
    with pytest.raises(ValueError, match="no piece"):
        numbered_piece(0, MINIMUM_SIZE - 1)
    with pytest.raises(ValueError, match="pieces"):
        numbered_pieces(MAXIMUM_COUNT + 1)
