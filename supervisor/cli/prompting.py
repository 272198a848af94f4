"""What is asked of a person when Codex waits, and what the typed answer means. Pure.

Nothing is an answer by default: an empty line, or one that is not understood, is asked again.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from supervisor.cli.output import plain
from supervisor.cli.pieces import (
    Piece,
    change_pieces,
    command_piece,
    listed,
    marked,
    told,
    word,
)
from supervisor.protocol.answers import (
    COMMAND,
    ELICITATION,
    EXEC_LEGACY,
    FILE_CHANGE,
    PATCH_LEGACY,
    PERMISSIONS,
    TOOL_CALL,
    USER_INPUT,
)

APPROVAL_LINES = 1000
"""Of each file's diff: an approval has to show what it allows."""
LONG_ROWS = 10
"""From so many rows on, the begin of what is asked may have left the screen."""
_ROW = 80
_BEGIN = 50
"""Characters of the begin of what is asked, where it is repeated: they fit on a line."""

_WORDS = {
    "accept": ("y", "yes", "accept"),
    "decline": ("n", "no", "decline"),
    "acceptForSession": ("a", "always", "acceptforsession"),
    "cancel": ("q", "cancel", "quit"),
}
_SHOWN = {
    "accept": "[y]es",
    "decline": "[n]o",
    "acceptForSession": "[a]lways in this session",
    "cancel": "[q] stop the turn",
}
_ALL = ("accept", "decline", "acceptForSession", "cancel")
_DECISIONS = {
    COMMAND: _ALL,
    FILE_CHANGE: _ALL,
    PERMISSIONS: ("accept", "decline", "acceptForSession"),
    ELICITATION: ("accept", "decline", "cancel"),
    TOOL_CALL: ("decline",),
    PATCH_LEGACY: _ALL,
    EXEC_LEGACY: _ALL,
}


def decisions(method: str) -> tuple[str, ...]:
    """The words that answer a server request; none for questions."""
    return _DECISIONS.get(method, ())


@dataclass(frozen=True, slots=True)
class Question:
    """One thing Codex wants to know."""

    id: str
    text: str
    options: tuple[str, ...]
    free: bool
    """Whether other answers than the options are taken."""

    def answer(self, line: str) -> str | None:
        """The option a line names, by number or by its words; the line itself where it may be."""
        if line.isascii() and line.isdigit() and 1 <= int(line) <= len(self.options):
            return self.options[int(line) - 1]
        for option in self.options:
            if line.casefold() == option.casefold():
                return option
        return line if self.free and line else None


def questions(params: Mapping[str, Any]) -> list[Question]:
    """Those of a `requestUserInput`."""
    found = []
    for one in map(told, listed(params.get("questions"))):
        options = tuple(word(told(o).get("label")) for o in listed(one.get("options")))
        free = not options or one.get("isOther") is True
        found.append(Question(word(one.get("id")), word(one.get("question")), options, free))
    return found


def user_input(given: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """The result for questions: ids with what was said."""
    return {"answers": {question: {"answers": [said]} for question, said in given}}


class Dialog:
    """Asks about one approval, as `listApprovals` shows it, line by line."""

    def __init__(
        self, approval: Mapping[str, Any], item: Mapping[str, Any] | None, root: str
    ) -> None:
        self.approval_id = word(approval.get("approvalId"))
        self._method = word(approval.get("method"))
        self._params = told(approval.get("params"))
        self._decisions = decisions(self._method)
        self._questions = questions(self._params) if self._method == USER_INPUT else []
        self._said: list[tuple[str, str]] = []
        self.pieces = list(described(approval, item, root))
        """What it is about."""
        self._rows = sum(map(_rows, self.pieces))

    @property
    def prompt(self) -> str:
        """What stands before the cursor."""
        return self._words if self._rows < LONG_ROWS else self.repeated

    @property
    def repeated(self) -> str:
        """The same below other text. Whoever asks for much, or writes meanwhile, can move what is
        asked off the screen, and what looks like another into its place: so its begin stands here.
        """
        return self._words if self._questions else f"{self._reminder}\n{self._words}"

    @property
    def _words(self) -> str:
        if not self._questions:
            return "  ".join(_SHOWN[decision] for decision in self._decisions) + "  > "
        asked = self._questions[len(self._said)]
        options = "".join(f"\n  {n}. {marked(text)}" for n, text in enumerate(asked.options, 1))
        return f"{marked(asked.text)}{options}\n> "

    @property
    def _reminder(self) -> str:
        """One line: how what is asked begins, and how long it is."""
        heads = [plain(piece.text).split("\n")[0].expandtabs(1) for piece in self.pieces[:2]]
        head = ": ".join(heads)
        begin = head if len(head) <= _BEGIN else head[:_BEGIN] + "…"
        return f"({begin} - {self._rows} lines in all)"

    def take(self, line: str) -> dict[str, object] | None:
        """The params of `answerApproval`, or None: ask (again, or the next question)."""
        if not self._questions:
            return self._decided(line)
        asked = self._questions[len(self._said)]
        answer = asked.answer(line.strip())
        if answer is not None:
            self._said.append((asked.id, answer))
        if len(self._said) < len(self._questions):
            return None
        return {"approvalId": self.approval_id, "result": user_input(self._said)}

    def _decided(self, line: str) -> dict[str, object] | None:
        said = line.strip().casefold()
        for decision in self._decisions:
            if said in _WORDS[decision]:
                return {"approvalId": self.approval_id, "decision": decision}
        return None

    @property
    def can_be_answered(self) -> bool:
        """False for what only a program can answer."""
        return bool(self._decisions or self._questions)


def _rows(piece: Piece) -> int:
    """How many rows of a terminal it takes, rather too many than too few."""
    lines = plain(piece.text).split("\n")
    return sum(1 + len(line.expandtabs().encode()) // _ROW for line in lines)


def described(
    approval: Mapping[str, Any], item: Mapping[str, Any] | None, root: str
) -> Iterable[Piece]:
    """What an approval allows. `item` is the open item it is about, if that is known."""
    method, params = word(approval.get("method")), told(approval.get("params"))
    describe = _DESCRIBED.get(method)
    if describe is None:
        yield Piece(f"codex asks {marked(method)}:", "bold yellow")
        yield Piece(json.dumps(params, indent=2, ensure_ascii=False))
    else:
        yield from describe(params, item or {}, root)
    if word(params.get("reason")):
        yield Piece(f"reason given: {marked(word(params.get('reason')))}", "yellow")


def _command(params: Mapping[str, Any], item: Mapping[str, Any], root: str) -> Iterable[Piece]:
    network = told(params.get("networkApprovalContext"))
    if network:
        host = f"{word(network.get('protocol'))} {word(network.get('host'))}"
        yield Piece(f"codex wants to reach {marked(host)} for", "bold yellow")
    else:
        yield Piece("codex wants to run", "bold yellow")
    command = params.get("command") or item.get("command")
    yield command_piece(command, params.get("cwd") or item.get("cwd"), root)
    if params.get("additionalPermissions"):
        wanted = json.dumps(params["additionalPermissions"], ensure_ascii=False)
        yield Piece(f"with more permissions: {wanted}", "yellow")


def _file_change(params: Mapping[str, Any], item: Mapping[str, Any], root: str) -> Iterable[Piece]:
    yield Piece("codex wants to change files", "bold yellow")
    changes = item.get("changes")
    if changes:
        yield from change_pieces(changes, root, APPROVAL_LINES)
    else:
        yield Piece("(what changes is not known here)", "yellow")
    if word(params.get("grantRoot")):
        below = marked(word(params.get("grantRoot")))
        yield Piece(f"and to write below {below} from now on", "yellow")


def _permissions(params: Mapping[str, Any], item: Mapping[str, Any], root: str) -> Iterable[Piece]:
    del item, root
    yield Piece("codex wants more permissions", "bold yellow")
    yield Piece(json.dumps(params.get("permissions"), indent=2, ensure_ascii=False))


def _question(params: Mapping[str, Any], item: Mapping[str, Any], root: str) -> Iterable[Piece]:
    del params, item, root
    yield Piece("codex asks", "bold yellow")


_DESCRIBED: dict[str, Callable[[Mapping[str, Any], Mapping[str, Any], str], Iterable[Piece]]] = {
    COMMAND: _command,
    FILE_CHANGE: _file_change,
    PERMISSIONS: _permissions,
    USER_INPUT: _question,
}
