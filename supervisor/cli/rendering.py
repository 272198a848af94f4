"""From the events of a thread to what a person reads. Pure: no terminal, no clock.

Deltas flow as they come. What completes an item shows only the part of it that did not flow
before, so that nothing is read twice and nothing is missed, whatever was replayed or lost.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from supervisor.cli.pieces import (
    PATCH_LINES,
    Piece,
    change_pieces,
    command_piece,
    listed,
    marked,
    output_pieces,
    problem,
    seconds,
    told,
    unix_lines,
    word,
)

_WRITTEN_BY_US = frozenset({"userMessage", "agentMessage", "reasoning", "commandExecution"})
_ENDS = {"completed": "green", "interrupted": "yellow", "failed": "bold red"}
Params = Mapping[str, Any]


class View:
    """One thread as one reader has seen it so far. `root` is the project's directory."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._flowed: dict[str, int] = {}
        """Characters shown of each open item."""
        self._announced: set[str] = set()
        self._items: dict[str, dict[str, Any]] = {}
        self._restarting = False
        self._seen_whole: set[str] = set()

    def item(self, item_id: object) -> dict[str, Any]:
        """What is known of an open item: approvals of file changes do not say what changes."""
        return self._items.get(word(item_id), {})

    def seen_whole(self, item_id: object) -> None:
        """Its changes were shown, to be approved: their diffs need not come again."""
        self._seen_whole.add(word(item_id))

    def take(self, payload: Mapping[str, object]) -> list[Piece]:
        """What a payload of `subscribe` adds."""
        match payload.get("type"):
            case "event":
                message = told(payload.get("message"))
                show = _METHODS.get(word(message.get("method")))
                return [] if show is None else list(show(self, told(message.get("params"))))
            case "snapshot":
                return list(self._snapshot(payload))
            case "expired":
                return [Piece("some events are gone; what is known now follows", "yellow")]
            case _:
                return []

    def _snapshot(self, payload: Mapping[str, object]) -> Iterable[Piece]:
        for thread in map(told, listed(payload.get("threads"))):
            for one in map(told, listed(thread.get("openItems"))):
                yield from self._started({"item": one.get("item")})
                style = _flow_style(word(one.get("type")))
                if style is not None:
                    yield from self._rest(word(one.get("itemId")), word(one.get("text")), style)

    # -- items

    def _started(self, params: Params) -> Iterable[Piece]:
        item = told(params.get("item"))
        item_id, kind = word(item.get("id")), word(item.get("type"))
        self._items[item_id] = item
        if item_id in self._announced:
            return
        self._announced.add(item_id)
        if kind == "commandExecution":
            yield command_piece(item.get("command"), item.get("cwd"), self._root)
        elif kind not in _WRITTEN_BY_US and kind != "fileChange":
            yield Piece(f"• {_described(item)}", "dim")

    def _message_delta(self, params: Params) -> Iterable[Piece]:
        return self._flow(params, "")

    def _reasoning_delta(self, params: Params) -> Iterable[Piece]:
        return self._flow(params, "dim italic")

    def _output_delta(self, params: Params) -> Iterable[Piece]:
        return self._flow(params, "dim")

    def _flow(self, params: Params, style: str) -> Iterable[Piece]:
        item_id, delta = word(params.get("itemId")), word(params.get("delta"))
        self._flowed[item_id] = self._flowed.get(item_id, 0) + len(delta)
        yield Piece(unix_lines(delta), style, stream=item_id)

    def _rest(self, item_id: str, text: str, style: str) -> Iterable[Piece]:
        """What of `text` did not flow yet."""
        missing = text[self._flowed.get(item_id, 0) :]
        self._flowed[item_id] = max(len(text), self._flowed.get(item_id, 0))
        if missing:
            yield Piece(unix_lines(missing), style, stream=item_id)

    def _completed(self, params: Params) -> Iterable[Piece]:
        item = told(params.get("item"))
        item_id = word(item.get("id"))
        yield from self._started(params)
        match item.get("type"):
            case "agentMessage":
                yield from self._rest(item_id, word(item.get("text")), "")
            case "reasoning":
                summary = "\n".join(map(word, listed(item.get("summary"))))
                if item_id not in self._flowed:
                    yield from self._rest(item_id, summary, "dim italic")
            case "commandExecution":
                yield from self._command_ended(item_id, item)
            case "fileChange":
                yield from self._files_changed(item_id, item)
        for known in (self._items, self._flowed):
            known.pop(item_id, None)
        for ids in (self._announced, self._seen_whole):
            ids.discard(item_id)

    def _command_ended(self, item_id: str, item: dict[str, Any]) -> Iterable[Piece]:
        if item_id not in self._flowed:
            yield from output_pieces(word(item.get("aggregatedOutput")))
        code, status = item.get("exitCode"), word(item.get("status"))
        took = seconds(item.get("durationMs"))
        if isinstance(code, int):
            yield Piece(f"exit {code}  {took}".rstrip(), "green" if code == 0 else "red")
        else:
            yield Piece(status or "ended", "yellow")

    def _files_changed(self, item_id: str, item: dict[str, Any]) -> Iterable[Piece]:
        status = word(item.get("status"))
        if status == "completed":
            limit = 0 if item_id in self._seen_whole else PATCH_LINES
            yield from change_pieces(item.get("changes"), self._root, limit)
        else:
            paths = [marked(word(told(c).get("path"))) for c in listed(item.get("changes"))]
            yield Piece(f"not changed ({status}): {', '.join(paths)}", "yellow")

    # -- the turn, and what goes wrong

    def _turn_completed(self, params: Params) -> Iterable[Piece]:
        turn = told(params.get("turn"))
        status = word(turn.get("status"))
        parts = [f"turn {status}", seconds(turn.get("durationMs"))]
        if turn.get("error"):
            parts.append(problem(told(turn.get("error"))))
        if params.get("synthesised"):
            parts.append("the app-server ended in it")
        yield Piece(" · ".join(part for part in parts if part), _ENDS.get(status, "dim"))

    def _error(self, params: Params) -> Iterable[Piece]:
        retrying = params.get("willRetry") is True
        yield Piece(problem(told(params.get("error"))), "yellow" if retrying else "red")

    def _warning(self, params: Params) -> Iterable[Piece]:
        said = word(params.get("message")) or word(params.get("summary"))
        if said:
            yield Piece(f"warning: {said}", "yellow")

    # -- the supervisor's own

    def _agent_exited(self, params: Params) -> Iterable[Piece]:
        if params.get("kind") != "asked":
            self._restarting = True
            detail = word(params.get("detail")).strip()
            yield Piece(
                f"the app-server ended: {word(params.get('kind'))} {detail}".rstrip(), "red"
            )

    def _agent_ready(self, params: Params) -> Iterable[Piece]:
        del params
        if self._restarting:
            self._restarting = False
            yield Piece("the app-server is ready again", "green")

    def _quarantined(self, params: Params) -> Iterable[Piece]:
        reason = word(params.get("reason")) or word(params.get("kind"))
        yield Piece(f"the project is quarantined: {reason}", "bold red")

    def _thread_lost(self, params: Params) -> Iterable[Piece]:
        del params
        yield Piece("the thread is lost: it had no turn when the app-server ended", "red")

    def _request_failed(self, params: Params) -> Iterable[Piece]:
        yield Piece(f"not done: {problem(told(params.get('error')))}", "red")

    def _line_refused(self, params: Params) -> Iterable[Piece]:
        yield Piece(f"codex wrote a line that is no message: {params.get('reason')}", "yellow")


_METHODS: dict[str, Callable[[View, Params], Iterable[Piece]]] = {
    "item/started": View._started,
    "item/completed": View._completed,
    "item/agentMessage/delta": View._message_delta,
    "item/plan/delta": View._message_delta,
    "item/reasoning/summaryTextDelta": View._reasoning_delta,
    "item/commandExecution/outputDelta": View._output_delta,
    "turn/completed": View._turn_completed,
    "error": View._error,
    "warning": View._warning,
    "configWarning": View._warning,
    "guardianWarning": View._warning,
    "supervisor/agentExited": View._agent_exited,
    "supervisor/agentReady": View._agent_ready,
    "supervisor/agentQuarantined": View._quarantined,
    "supervisor/threadLost": View._thread_lost,
    "supervisor/requestFailed": View._request_failed,
    "supervisor/lineRefused": View._line_refused,
}


def _flow_style(kind: str) -> str | None:
    return {"agentMessage": "", "reasoning": "dim italic", "commandExecution": "dim"}.get(kind)


def _described(item: Params) -> str:
    """One line for kinds of items that have no form of their own."""
    kind = word(item.get("type")) or "item"
    for key in ("tool", "query", "path", "review", "name"):
        if word(item.get(key)):
            return f"{kind}: {marked(word(item.get(key))[:200])}"
    return kind
