"""Text that proves its own completeness: numbered pieces of a fixed width.

The scripted model streams them, and an oracle that sees only the text can tell a lost piece from
a doubled one and from one out of order. Widths count characters, not bytes.
"""

from collections.abc import Iterator
from typing import Final

DIGITS: Final = 6
MINIMUM_SIZE: Final = DIGITS + 1
DEFAULT_SIZE: Final = 7
UNICODE_SIZE: Final = 12
MAXIMUM_COUNT: Final = 10**DIGITS

_ASCII_FILLER: Final = "."
_UNICODE_FILLER: Final = "é漢😀ßЖ\u0301"
"""Two, three and four bytes in UTF-8, and a combining mark: what cuts at byte borders break."""


def numbered_piece(index: int, size: int = DEFAULT_SIZE, *, unicode: bool = False) -> str:
    """Piece `index`: its number in six digits, filler, one space; `size` characters in all.

    `size` is at least `MINIMUM_SIZE` and `index` below `MAXIMUM_COUNT`: `ValueError` otherwise.
    """
    if size < MINIMUM_SIZE or not 0 <= index < MAXIMUM_COUNT:
        raise ValueError(f"no piece {index} of size {size}")
    return f"{index:0{DIGITS}d}{_filler(size - MINIMUM_SIZE, unicode=unicode)} "


def numbered_pieces(
    count: int, size: int = DEFAULT_SIZE, *, unicode: bool = False
) -> Iterator[str]:
    """Pieces 0 to `count - 1`, one at a time."""
    if size < MINIMUM_SIZE or not 0 <= count <= MAXIMUM_COUNT:
        raise ValueError(f"no {count} pieces of size {size}")
    tail = f"{_filler(size - MINIMUM_SIZE, unicode=unicode)} "
    return (f"{index:0{DIGITS}d}{tail}" for index in range(count))


def numbered_text(count: int, size: int = DEFAULT_SIZE, *, unicode: bool = False) -> str:
    """The whole text of `count` pieces: what a client must have seen in the end."""
    return "".join(numbered_pieces(count, size, unicode=unicode))


def check_numbered(text: str, size: int = DEFAULT_SIZE, *, unicode: bool = False) -> int:
    """How many whole pieces `text` is made of.

    `ValueError` names the first piece that is lost, doubled, out of order or damaged; a last piece
    cut short is damaged.
    """
    for start in range(0, len(text), size):
        expected = numbered_piece(start // size, size, unicode=unicode)
        found = text[start : start + size]
        if found != expected:
            raise ValueError(f"piece {start // size}: expected {expected!r}, found {found!r}")
    return len(text) // size


def _filler(width: int, *, unicode: bool) -> str:
    source = _UNICODE_FILLER if unicode else _ASCII_FILLER
    return (source * (width // len(source) + 1))[:width]
