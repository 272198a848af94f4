"""Rows as every engine can hold them. Pure.

PostgreSQL refuses U+0000 in text, no engine stores a lone surrogate, and an index takes no long
key. Such a text is replaced by a JSON text that says so and holds its hash: two different texts
stay different, the same text stays the same, and the checkpoint always moves. Queries replace
what they look for in the same way.
"""

from collections.abc import Iterable
from functools import cache
from hashlib import sha256
from typing import TypeVar

import msgspec

from supervisor.stores.tables import INDEXED_TEXT, TABLE_OF

Row = TypeVar("Row", bound=msgspec.Struct)

KEY_LIMIT = 512
"""Bytes of an indexed text: four of them fit into one entry of a PostgreSQL index."""


def holdable(row: Row) -> Row:
    """The row itself, or a copy of it with the texts replaced that cannot be held."""
    changed: dict[str, str] = {}
    for name, limit in _text_fields(type(row)):
        value = getattr(row, name)
        if value is not None and (kept := holdable_text(value, limit)) is not value:
            changed[name] = kept
    return msgspec.structs.replace(row, **changed) if changed else row


def holdable_rows(rows: Iterable[Row]) -> list[Row]:
    """`holdable`, for each."""
    return [holdable(row) for row in rows]


def holdable_key(text: str) -> str:
    """An indexed text as it is stored: what a query has to look for."""
    return holdable_text(text, KEY_LIMIT)


def holdable_text(text: str, limit: int | None) -> str:
    """`text` itself, or the JSON text that stands for it. `limit` is in bytes of UTF-8."""
    if text.isascii():
        if "\0" in text:
            return _refused(text, "U+0000")
        size = len(text)
    else:
        try:
            size = len(text.encode())
        except UnicodeEncodeError:
            return _refused(text, "lone surrogate")
        if "\0" in text:
            return _refused(text, "U+0000")
    if limit is not None and size > limit:
        return _refused(text, f"longer than {limit} bytes")
    return text


def _refused(text: str, why: str) -> str:
    digest = sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return msgspec.json.encode({"refused": why, "sha256": digest}).decode()


@cache
def _text_fields(row_type: type[msgspec.Struct]) -> tuple[tuple[str, int | None], ...]:
    """The text fields of a row type, each with its limit in bytes."""
    return tuple(
        (column.name, KEY_LIMIT if column.name in INDEXED_TEXT else None)
        for column in TABLE_OF[row_type].columns
        if column.type.python_type is str
    )
