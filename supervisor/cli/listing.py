"""Events, a line each: what `events` prints. Pure.

Deltas of one item that follow one another make one line.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from supervisor.cli.pieces import command_line, listed, problem, told, word

WIDTH = 160
"""Characters of a summary, and of the text that deltas make on one line."""

_IDS = frozenset({"threadId", "turnId", "itemId", "startedAtMs", "completedAtMs"})


@dataclass(frozen=True, slots=True)
class Line:
    """One line. Its texts are not yet fit for a terminal."""

    cursor: str
    thread: str
    what: str
    summary: str


class Lines:
    """Makes lines of payloads. What is not said yet, `flush` gives."""

    def __init__(self) -> None:
        self._open: Line | None = None
        self._item = ""

    def take(self, payload: Mapping[str, object]) -> list[Line]:
        """The lines a payload completes."""
        cursor = word(payload.get("cursor"))
        match payload.get("type"):
            case "event":
                return self._event(cursor, told(payload.get("message")))
            case "snapshot":
                return [*self.flush(), *_snapshot(cursor, payload)]
            case "expired":
                said = f"{word(payload.get('asked'))} can no longer be continued from"
                return [*self.flush(), Line("", "", "expired", said)]
            case "lagging":
                return [*self.flush(), Line(cursor, "", "lagging", "catching up")]
            case other:
                return [*self.flush(), Line(cursor, "", str(other), "")]

    def flush(self) -> list[Line]:
        """The line that might still have grown."""
        line, self._open = self._open, None
        return [] if line is None else [line]

    def _event(self, cursor: str, message: Mapping[str, Any]) -> list[Line]:
        method, params = word(message.get("method")), told(message.get("params"))
        thread = word(params.get("threadId"))
        delta = params.get("delta")
        if not isinstance(delta, str):
            return [*self.flush(), Line(cursor, thread, method, summary(method, params))]
        item, before = f"{method} {params.get('itemId')}", self._open
        fits = before is not None and len(before.summary) + len(delta) <= WIDTH
        if before is None or item != self._item or not fits:
            self._item, self._open = item, Line(cursor, thread, method, delta)
            return [] if before is None else [before]
        self._open = Line(cursor, thread, method, before.summary + delta)
        return []


def _snapshot(cursor: str, payload: Mapping[str, object]) -> Iterable[Line]:
    agent = told(payload.get("agent"))
    yield Line(cursor, "", "snapshot", f"agent {word(agent.get('state'))}")
    for thread in map(told, listed(payload.get("threads"))):
        thread_id, turn = word(thread.get("threadId")), told(thread.get("turn"))
        running = f", turn {word(turn.get('turnId'))} runs" if turn else ""
        yield Line(cursor, thread_id, "snapshot", f"thread {thread.get('status')}{running}")
        for item in map(told, listed(thread.get("openItems"))):
            said = f"open {word(item.get('type'))}: {word(item.get('text'))}"
            yield Line(cursor, thread_id, "snapshot", said)
    for one in map(told, listed(payload.get("approvals"))):
        said = f"{word(one.get('approvalId'))} waits: {asked(one)}"
        yield Line(cursor, word(one.get("threadId")), "snapshot", said)


def asked(approval: Mapping[str, object]) -> str:
    """What an approval of `listApprovals` is about, in one line."""
    method, params = word(approval.get("method")), told(approval.get("params"))
    return summary(method, params) or method


def summary(method: str, params: Mapping[str, Any]) -> str:
    """What an event says, as far as one line can hold it."""
    make = _SUMMARIES.get(method)
    if make is not None:
        return make(params)
    if method.startswith("item/") and "item" in params:
        return _item(told(params.get("item")))
    return ", ".join(
        f"{key}={value}"
        for key, value in params.items()
        if key not in _IDS and isinstance(value, str | int | float)
    )


def _item(item: Mapping[str, Any]) -> str:
    kind = word(item.get("type"))
    match kind:
        case "commandExecution":
            code = item.get("exitCode")
            end = "" if code is None else f" (exit {code})"
            return f"{kind} $ {command_line(item.get('command'))}{end}"
        case "fileChange":
            paths = [word(told(one).get("path")) for one in listed(item.get("changes"))]
            return f"{kind} {word(item.get('status'))} {', '.join(paths)}"
        case "userMessage":
            said = [word(told(part).get("text")) for part in listed(item.get("content"))]
            return f"{kind} {' '.join(said)}"
        case _:
            return f"{kind} {word(item.get('text'))}".rstrip()


def _turn(params: Mapping[str, Any]) -> str:
    turn = told(params.get("turn"))
    error = told(turn.get("error"))
    said = f"{word(turn.get('id'))} {word(turn.get('status'))}"
    return f"{said}: {problem(error)}" if error else said


def _error(params: Mapping[str, Any]) -> str:
    return problem(told(params.get("error")))


def _command(params: Mapping[str, Any]) -> str:
    return f"$ {command_line(params.get('command'))}"


def _questions(params: Mapping[str, Any]) -> str:
    return " / ".join(word(told(one).get("question")) for one in listed(params.get("questions")))


def _status(params: Mapping[str, Any]) -> str:
    status = told(params.get("status"))
    flags = ", ".join(map(str, listed(status.get("activeFlags"))))
    return f"{word(status.get('type'))} {flags}".rstrip()


_SUMMARIES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "turn/started": _turn,
    "turn/completed": _turn,
    "error": _error,
    "supervisor/requestFailed": _error,
    "thread/status/changed": _status,
    "item/commandExecution/requestApproval": _command,
    "item/tool/requestUserInput": _questions,
    "account/rateLimits/updated": lambda _: "",
}
