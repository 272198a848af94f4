"""Text as every engine can hold it."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from supervisor.stores.rows import KEY_LIMIT, holdable, holdable_key, holdable_text
from tests.contract.stored import event, intent, thread

# Everything a str can hold, with what is refused made frequent.
TEXT = st.text(
    st.one_of(
        st.characters(exclude_categories=()),
        st.sampled_from(["\0", "\ud800", "\udfff", "a", "é", "😀"]),
    )
)


def holds(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


@given(TEXT)
def test_what_comes_out_can_be_held(text: str) -> None:
    assert holds(holdable_text(text, None))


@given(TEXT)
def test_text_that_can_be_held_is_left_alone(text: str) -> None:
    assert (holdable_text(text, None) is text) == holds(text)


@given(TEXT)
def test_replacing_again_changes_nothing(text: str) -> None:
    once = holdable_key(text)
    assert holdable_key(once) is once


@given(TEXT, TEXT)
def test_different_texts_stay_different(one: str, other: str) -> None:
    assert (holdable_key(one) == holdable_key(other)) == (one == other)


@given(st.text("aé😀", min_size=KEY_LIMIT // 4, max_size=KEY_LIMIT + 50))
def test_a_key_never_takes_more_bytes_than_an_index_entry_has(text: str) -> None:
    kept = holdable_key(text)
    assert len(kept.encode()) <= KEY_LIMIT
    assert (kept is text) == (len(text.encode()) <= KEY_LIMIT)


def test_a_replaced_text_says_why_in_json() -> None:
    said = msgspec.json.decode(holdable_text("a\0", None), type=dict[str, str])
    assert said["refused"] == "U+0000"
    assert len(said["sha256"]) == 64


def test_a_row_without_bad_text_is_the_same_row() -> None:
    row = thread("t1", name="😀", cwd="x" * 10_000)
    assert holdable(row) is row


def test_only_indexed_text_is_bounded() -> None:
    long = "x" * (KEY_LIMIT + 1)
    kept = holdable(intent("r", method=long, idempotency_key=long, thread_id=None))
    assert kept.method == long
    assert kept.idempotency_key == holdable_key(long) != long
    assert kept.thread_id is None


def test_bytes_are_left_alone() -> None:
    row = event(1, message=b"\0\xff\xed\xa0\x80")
    assert holdable(row) is row
