"""Lines as codex writes them: a turn with a reasoning item, a command, and an answer in deltas."""

from collections.abc import Iterator

import msgspec

AT = 1_795_174_336_113
"""Milliseconds; every `emittedAtMs`."""
USAGE = {
    "totalTokens": 150,
    "inputTokens": 100,
    "cachedInputTokens": 10,
    "outputTokens": 50,
    "reasoningOutputTokens": 5,
}


def turn_lines(number: int, deltas: int) -> Iterator[bytes]:
    """The lines of one turn, each without its newline. One thread in ten is a new one."""
    thread = f"01a1f8ba-863a-7271-913b-{number // 10:012d}"
    turn = f"01a1f8ba-864f-74a3-8534-{number:012d}"
    if number % 10 == 0:
        yield _line("thread/started", thread=_thread(thread))
    yield _line("thread/status/changed", threadId=thread, status={"type": "active"})
    yield _line("turn/started", threadId=thread, turn=_turn(turn, "inProgress"))
    yield from _items(thread, turn, number)
    answer = f"msg_{number:012x}"
    yield _item("item/started", thread, turn, {"type": "agentMessage", "id": answer, "text": ""})
    words = [f"{n:06d} " for n in range(deltas)]
    for word in words:
        ids = {"threadId": thread, "turnId": turn, "itemId": answer}
        yield _line("item/agentMessage/delta", **ids, delta=word)
    said = {"type": "agentMessage", "id": answer, "text": "".join(words), "phase": None}
    yield _item("item/completed", thread, turn, said)
    usage = {"total": USAGE, "last": USAGE, "modelContextWindow": 258_400}
    yield _line("thread/tokenUsage/updated", threadId=thread, turnId=turn, tokenUsage=usage)
    yield _line("thread/status/changed", threadId=thread, status={"type": "idle"})
    yield _line("turn/completed", threadId=thread, turn=_turn(turn, "completed"))


def _items(thread: str, turn: str, number: int) -> Iterator[bytes]:
    said = {"type": "userMessage", "id": f"user-{number}", "clientId": None}
    said["content"] = [{"type": "text", "text": "Please fix the test.", "text_elements": []}]
    thought = {"type": "reasoning", "id": f"rs_{number}", "summary": [], "content": []}
    ran = {
        "type": "commandExecution",
        "id": f"call_{number}",
        "command": "/bin/bash -lc 'pytest -q'",
        "cwd": "/workspace",
        "processId": "41",
        "source": "agent",
        "status": "completed",
        "commandActions": [{"type": "unknown", "command": "pytest -q"}],
        "aggregatedOutput": "3 passed in 0.02s\n",
        "exitCode": 0,
        "durationMs": 312,
    }
    for item in (said, thought):
        yield _item("item/started", thread, turn, item)
        yield _item("item/completed", thread, turn, item)
    running = {**ran, "status": "inProgress", "exitCode": None, "aggregatedOutput": None}
    yield _item("item/started", thread, turn, {**running, "durationMs": None})
    yield _item("item/completed", thread, turn, ran)


def _thread(thread: str) -> dict[str, object]:
    return {
        "id": thread,
        "sessionId": thread,
        "preview": "",
        "ephemeral": False,
        "modelProvider": "mock",
        "createdAt": AT // 1000,
        "updatedAt": AT // 1000,
        "status": {"type": "idle"},
        "cwd": "/workspace",
        "cliVersion": "0.163.0",
        "source": "vscode",
        "turns": [],
    }


def _turn(turn: str, status: str) -> dict[str, object]:
    return {"id": turn, "items": [], "itemsView": "notLoaded", "status": status, "error": None}


def _item(method: str, thread: str, turn: str, item: dict[str, object]) -> bytes:
    return _line(method, item=item, threadId=thread, turnId=turn, startedAtMs=AT)


def _line(method: str, /, **params: object) -> bytes:
    return msgspec.json.encode({"method": method, "params": params, "emittedAtMs": AT})
