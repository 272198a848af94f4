"""The hash chain of a project's audit records. Pure.

A record's hash is the sha256, in hex, of the hash before it, a newline, and the record's canonical
JSON: every field of `AuditRow` but `hash`, keys sorted, no spaces, `detail` as the JSON text it is
stored as. The first record has `seq` 1 and follows `GENESIS`. Whoever cannot rewrite the records
that come after one cannot change it unseen; where the chain's end is kept elsewhere (the
checkpoint, a signed one later), its tail cannot be cut unseen either.
"""

from collections.abc import Iterable
from enum import StrEnum, unique
from hashlib import sha256

import msgspec

from supervisor.audit.record import Draft
from supervisor.ids import ProjectId
from supervisor.ports.store import AuditRow

TEXT_LIMIT = 512
"""Bytes of an id or a name; a longer one is nothing Codex or a client of ours makes."""
GENESIS = "0" * 64
"""What the first record follows."""
FIRST_SEQ = 1


class Chain:
    """The end of one project's chain. Owned by the project's actor, like its numbers.

    `seq` is the next record's number and `head` the last record's hash: both go into the
    checkpoint of the batch that carries the records (`audit_seq`, `audit_hash`).
    """

    __slots__ = ("_head", "_host", "_project", "_seq")

    def __init__(
        self,
        project: ProjectId,
        host: str,
        seq: int = FIRST_SEQ,
        head_hash: str = GENESIS,
    ) -> None:
        self._project = project
        self._host = host
        self._seq = seq
        self._head = head_hash

    @property
    def seq(self) -> int:
        """The number the next record takes."""
        return self._seq

    @property
    def head(self) -> str:
        """The hash of the last record, or `GENESIS`."""
        return self._head

    def append(self, draft: Draft, at: float) -> AuditRow:
        """Give the draft its place, and move the end past it. `at` is POSIX seconds.

        A text that some engine cannot hold is replaced before it is hashed, as the store would
        replace it after: what is hashed is what is stored.
        """
        row = AuditRow(
            project=self._project,
            seq=self._seq,
            at=at,
            kind=draft.kind.value,
            phase=draft.phase.value,
            account=_storable(draft.account),
            principal=_storable(draft.principal),
            source=_storable(draft.source),
            client=_storable(draft.client),
            host=self._host,
            generation=draft.generation,
            n=draft.n,
            thread_id=None if draft.thread_id is None else _storable(draft.thread_id),
            turn_id=None if draft.turn_id is None else _storable(draft.turn_id),
            item_id=None if draft.item_id is None else _storable(draft.item_id),
            detail=draft.detail,
            hash="",
        )
        row = msgspec.structs.replace(row, hash=record_hash(self._head, row))
        self._seq += 1
        self._head = row.hash
        return row


def record_hash(before: str, row: AuditRow) -> str:
    """The hash `row` has if it follows a record of hash `before`. Its own `hash` does not count.

    Raises `UnicodeError` for a `detail` that is not UTF-8, or a text no engine holds.
    """
    record: dict[str, object] = msgspec.structs.asdict(row)
    del record["hash"]
    record["detail"] = row.detail.decode()
    canonical = msgspec.json.encode(record, order="sorted")
    return sha256(before.encode() + b"\n" + canonical).hexdigest()


@unique
class Problem(StrEnum):
    """What is wrong with a chain, as far as the first wrong record shows it."""

    EDITED = "edited"
    """The record is not what its hash says, or does not follow the one before it."""
    GAP = "gap"
    """Records before this one are missing."""
    REORDERED = "reordered"
    """A record comes again, or too late."""
    CUT = "cut"
    """The records end before the chain does."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What `verify` found. `problem` and `at_seq` are None for a whole chain."""

    checked: int
    """Good records before the problem, or all of them."""
    head: str
    """The hash of the last good record."""
    next_seq: int
    problem: Problem | None = None
    at_seq: int | None = None
    """The number of the first wrong record; of the first missing one for `cut`."""

    @property
    def ok(self) -> bool:
        """The chain is whole."""
        return self.problem is None


def verify(
    rows: Iterable[AuditRow],
    *,
    start_hash: str = GENESIS,
    start_seq: int = FIRST_SEQ,
    end: tuple[int, str] | None = None,
) -> Verdict:
    """Check records in the order given, the first of which must be `start_seq`.

    `end` is (next seq, head hash) as the checkpoint has them: with it a cut tail is found too.
    """
    head, seq = start_hash, start_seq
    for row in rows:
        problem = _problem(head, seq, row)
        if problem is not None:
            return _verdict(start_seq, seq, head, problem, row.seq)
        head, seq = row.hash, seq + 1
    if end is None or end == (seq, head):
        return _verdict(start_seq, seq, head)
    problem = Problem.CUT if end[0] > seq else Problem.EDITED
    return _verdict(start_seq, seq, head, problem, min(seq, end[0]))


def _problem(head: str, seq: int, row: AuditRow) -> Problem | None:
    if row.seq != seq:
        return Problem.GAP if row.seq > seq else Problem.REORDERED
    try:
        expected = record_hash(head, row)
    except UnicodeError:
        return Problem.EDITED
    return None if expected == row.hash else Problem.EDITED


def _verdict(
    start: int, seq: int, head: str, problem: Problem | None = None, at: int | None = None
) -> Verdict:
    return Verdict(checked=seq - start, head=head, next_seq=seq, problem=problem, at_seq=at)


def _storable(text: str) -> str:
    """`text`, or a JSON text saying why no engine would hold it as it is."""
    encoded = text.encode("utf-8", "surrogatepass")
    if "\0" in text:
        why = "U+0000"
    elif not text.isascii() and encoded != text.encode("utf-8", "replace"):
        why = "lone surrogate"
    elif len(encoded) > TEXT_LIMIT:
        why = f"longer than {TEXT_LIMIT} bytes"
    else:
        return text
    return msgspec.json.encode({"refused": why, "sha256": sha256(encoded).hexdigest()}).decode()
