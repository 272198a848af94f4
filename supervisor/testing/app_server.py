"""A tiny app-server that misbehaves on request; for tests of what must survive it.

It speaks just enough of the protocol: initialize, thread/start, thread/resume, thread/read,
thread/loaded/list, turn/start, turn/interrupt. The text of a turn says what happens in it:

    text n=3            that many deltas, then the end of the turn
    slow n=50 delay=D   the same, D seconds apart
    ask                 a command approval; the turn ends when it is answered
    hang                nothing, until turn/interrupt
    deaf                nothing ever again: stdin is closed, and the process stays
    exit:CODE, die      the process ends: with that code, or by SIGKILL
    tail                half a line is written, then the process ends by SIGKILL
    junk:NAME           one piece of junk (see `JUNK`), then as `text`
    raw:BASE64 times=N  these bytes N times, then as `text`; in them @T@ is the thread's id, @U@
                        the turn's, @N@ the count

`--behaviour` chooses how it starts: `ok`, `silent` (never answers initialize), `exit-at-once`,
`bad-version` (says it is 0.1.0). Every other argument is ignored, as `install` needs it to be.
Turns are kept in CODEX_HOME, where there is one, so that a successor can tell of them.

Standard library only, importing nothing of ours, so that it starts in a few hundredths of a second.
"""

import base64
import json
import os
import select
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

VERSION: Final = "0.163.0"
WRONG_VERSION: Final = "0.1.0"
FOREVER: Final = float("inf")
BEHAVIOURS: Final = ("ok", "silent", "exit-at-once", "bad-version")

Message = dict[str, Any]
Turn = Iterator[float]
"""A running turn: yields the seconds until it wants to go on."""


def install(directory: Path, behaviour: str = "ok", *, log: Path | None = None) -> Path:
    """Write an executable `codex` into `directory` that is this program; return its path.

    `log` gets every line the program reads, as it came.
    """
    if behaviour not in BEHAVIOURS:
        raise ValueError(f"no behaviour {behaviour}")
    command = [sys.executable, "-I", "-S", str(Path(__file__).resolve()), "--behaviour", behaviour]
    if log is not None:
        command += ["--log", str(log)]
    script = directory / "codex"
    script.write_text(f'#!/bin/sh\nexec {shlex.join(command)} -- "$@"\n')
    script.chmod(0o755)
    return script


def _item_event(thread: str, turn: str, text: str) -> bytes:
    """An `item/completed` whose text is put in as JSON source, so that it may be wrong."""
    item = '{"type":"agentMessage","id":"junk","text":"' + text + '"}'
    params = f'{{"item":{item},"threadId":"{thread}","turnId":"{turn}","completedAtMs":1}}'
    return f'{{"method":"item/completed","params":{params},"emittedAtMs":1}}\n'.encode()


def _long_line(thread: str, turn: str, size: str) -> bytes:
    return _item_event(thread, turn, "x" * int(size or "1048576"))


def _request(method: str) -> Callable[[str, str, str], bytes]:
    def junk(thread: str, turn: str, _argument: str) -> bytes:
        params = {"threadId": thread, "turnId": turn}
        return json.dumps({"method": method, "id": 4711, "params": params}).encode() + b"\n"

    return junk


JUNK: Final[dict[str, Callable[[str, str, str], bytes]]] = {
    "not-json": lambda _t, _u, _a: b"this is no JSON {\n",
    "not-utf8": lambda t, u, _a: _item_event(t, u, "@").replace(b"@", b"\xff\xc3\x28"),
    "lone-surrogate": lambda t, u, _a: _item_event(t, u, "\\ud800"),
    "nul-escape": lambda t, u, _a: _item_event(t, u, "a\\u0000b"),
    "nul-byte": lambda _t, _u, _a: b'{"method":"a\x00b"}\n',
    "long-line": _long_line,
    "empty-line": lambda _t, _u, _a: b"\n",
    "array": lambda _t, _u, _a: b'[{"method":"turn/started","params":{}}]\n',
    "scalar": lambda _t, _u, _a: b"17\n",
    "deep": lambda _t, _u, _a: b'{"method":"x","params":' + b"[" * 5000 + b"]" * 5000 + b"}\n",
    "wrong-types": lambda _t, _u, _a: b'{"method":5,"params":"x","id":{}}\n',
    "no-params": lambda _t, _u, _a: b'{"method":"turn/completed"}\n',
    "unknown-notification": lambda _t, _u, _a: b'{"method":"new/thing","params":{}}\n',
    "unknown-response-id": lambda _t, _u, _a: b'{"id":"never-asked","result":{}}\n',
    "unknown-server-request": _request("new/request"),
    "current-time": _request("currentTime/read"),
    "attestation": _request("attestation/generate"),
}
"""What `junk:NAME` or `junk:NAME:ARGUMENT` writes, of thread, turn and argument."""


class AppServer:
    """One process: stdin to stdout, turns interleaved by deadline."""

    def __init__(self, behaviour: str, home: Path | None, log: Path | None) -> None:
        self._behaviour = behaviour
        self._home = home / "fake-threads" if home is not None and home.is_dir() else None
        self._log = log.open("ab", buffering=0) if log is not None else None
        self._threads: dict[str, Message] = {}
        self._turns: dict[str, tuple[str, float, Turn]] = {}
        """By turn id: thread, when to go on, and how."""
        self._asked: dict[int, str] = {}
        """Approvals: by request id, the turn that waits."""
        self._last_ask = -1
        self._count = 0
        self._open = True

    def run(self) -> None:
        """Until end-of-file."""
        pending = b""
        while self._open:
            timeout = self._until_next()
            if select.select([0], [], [], timeout)[0]:
                chunk = os.read(0, 1 << 16)
                if not chunk:
                    return
                *lines, pending = (pending + chunk).split(b"\n")
                for line in lines:
                    self._take(line)
            self._go_on()

    def _until_next(self) -> float | None:
        due = min((due for _, due, _ in self._turns.values()), default=FOREVER)
        return None if due == FOREVER else max(0.0, due - time.monotonic())

    def _go_on(self) -> None:
        for turn_id, (thread_id, due, turn) in list(self._turns.items()):
            if due > time.monotonic():
                continue
            wait = next(turn, None)
            if wait is None:
                self._end(thread_id, turn_id, "completed")
            else:
                self._turns[turn_id] = (thread_id, time.monotonic() + wait, turn)

    def _take(self, line: bytes) -> None:
        if self._log is not None:
            self._log.write(line + b"\n")
        try:
            message = json.loads(line)
        except ValueError:
            return
        if not isinstance(message, dict):
            return
        if "method" not in message:
            self._answered(message)
        elif "id" in message:
            self._request(message["id"], str(message["method"]), message.get("params") or {})

    def _answered(self, message: Message) -> None:
        self._notify("fake/answered", message)
        turn_id = self._asked.pop(message.get("id", -1), None)
        if turn_id in self._turns:
            thread_id, _, turn = self._turns[turn_id]
            resolved = {"threadId": thread_id, "requestId": message["id"]}
            self._notify("serverRequest/resolved", resolved)
            self._turns[turn_id] = (thread_id, 0.0, turn)

    def _request(self, request_id: object, method: str, params: Message) -> None:
        handlers: dict[str, Callable[[Message], object]] = {
            "initialize": self._initialize,
            "thread/start": self._thread_start,
            "thread/resume": self._thread_resume,
            "thread/read": lambda asked: {"thread": self._thread(asked["threadId"], turns=True)},
            "thread/loaded/list": lambda _: {"data": list(self._threads), "nextCursor": None},
            "turn/interrupt": self._interrupt,
        }
        if method == "initialize" and self._behaviour == "silent":
            return
        if method == "turn/start":
            self._turn_start(request_id, params)
        elif method == "turn/interrupt" and params.get("turnId") not in self._turns:
            error = {"code": -32600, "message": "no active turn to interrupt"}
            self._send({"id": request_id, "error": error})
        elif method in handlers:
            self._send({"id": request_id, "result": handlers[method](params)})
            if method == "thread/start":
                thread = self._threads[list(self._threads)[-1]]
                self._notify("thread/started", {"thread": self._shown(thread)})
        else:
            error = {"code": -32600, "message": f"Invalid request: unknown variant `{method}`"}
            self._send({"id": request_id, "error": error})

    def _initialize(self, params: Message) -> Message:
        version = WRONG_VERSION if self._behaviour == "bad-version" else VERSION
        name = params.get("clientInfo", {}).get("name", "nobody")
        return {
            "userAgent": f"{name}/{version} (Fake 1; x86_64) unknown ({name}; 1)",
            "codexHome": str(self._home.parent) if self._home else "/nowhere",
            "platformFamily": "unix",
            "platformOs": "linux",
        }

    def _thread_start(self, params: Message) -> Message:
        thread = {"id": self._new_id("thread"), "cwd": params.get("cwd") or str(Path.cwd())}
        self._threads[thread["id"]] = {**thread, "turns": []}
        return self._opened(self._threads[thread["id"]])

    def _thread_resume(self, params: Message) -> Message:
        self._thread(params["threadId"], turns=True)
        return self._opened(self._threads[params["threadId"]])

    def _thread(self, thread_id: str, *, turns: bool) -> Message:
        """The thread: known, kept by a predecessor, or made up."""
        if thread_id not in self._threads:
            kept = self._file(thread_id)
            known = json.loads(kept.read_text()) if kept is not None and kept.exists() else None
            fresh = {"id": thread_id, "cwd": str(Path.cwd()), "turns": []}
            self._threads[thread_id] = known or fresh
        return self._shown(self._threads[thread_id], turns=turns)

    def _shown(self, thread: Message, *, turns: bool = False) -> Message:
        running = any(owner == thread["id"] for owner, _, _ in self._turns.values())
        status: Message = {"type": "active", "activeFlags": []} if running else {"type": "idle"}
        shown = {"preview": "", "ephemeral": False, "modelProvider": "fake", "source": "vscode"}
        shown |= {"createdAt": 1, "updatedAt": 1, "cliVersion": VERSION, "path": None}
        return {**shown, **thread, "status": status, "turns": thread["turns"] if turns else []}

    def _opened(self, thread: Message) -> Message:
        return {
            "thread": self._shown(thread),
            "model": "fake",
            "modelProvider": "fake",
            "cwd": thread["cwd"],
            "approvalPolicy": "on-request",
            "sandbox": {"type": "readOnly"},
        }

    def _turn_start(self, request_id: object, params: Message) -> None:
        thread_id = params["threadId"]
        self._thread(thread_id, turns=False)
        text = "".join(part.get("text", "") for part in params.get("input", ()))
        turn_id = self._new_id("turn")
        said: Message = {
            "type": "userMessage",
            "id": self._new_id("item"),
            "clientId": params.get("clientUserMessageId"),
            "content": params.get("input", []),
        }
        turn = {"id": turn_id, "items": [said], "status": "inProgress", "error": None}
        self._threads[thread_id]["turns"].append(turn)
        self._keep(thread_id)
        self._send({"id": request_id, "result": {"turn": {**turn, "items": []}}})
        self._status(thread_id, {"type": "active", "activeFlags": []})
        ids = {"threadId": thread_id, "turnId": turn_id}
        self._notify("turn/started", {"threadId": thread_id, "turn": {**turn, "items": []}})
        for moment in ("started", "completed"):
            self._notify(f"item/{moment}", {"item": said, **ids, f"{moment}AtMs": 1})
        self._turns[turn_id] = (thread_id, 0.0, self._perform(thread_id, turn_id, text))

    def _perform(self, thread_id: str, turn_id: str, text: str) -> Turn:
        verb, _, rest = text.strip().partition(" ")
        options = dict(pair.split("=", 1) for pair in rest.split() if "=" in pair)
        name, _, argument = verb.partition(":")
        if name == "exit":
            sys.exit(int(argument or "1"))
        if name in ("die", "tail"):
            if name == "tail":
                os.write(1, b'{"method":"item/agentMessage/delta","params":{"thr')
            os.kill(os.getpid(), signal.SIGKILL)
        if name == "deaf":
            os.close(0)
            signal.pause()
        if name == "hang":
            yield FOREVER
        if name == "ask":
            self._ask(thread_id, turn_id)
            yield FOREVER
        if name == "junk":
            junk, _, size = argument.partition(":")
            self._write(JUNK[junk](thread_id, turn_id, size))
        if name == "raw":
            data, times = base64.b64decode(argument), int(options.get("times", "1"))
            self._raw(data, times, thread_id, turn_id)
        count = int(options.get("n", "50" if name == "slow" else "3"))
        delay = float(options.get("delay", "0.05" if name == "slow" else "0"))
        yield from self._say(thread_id, turn_id, count, delay)

    def _raw(self, data: bytes, times: int, thread_id: str, turn_id: str) -> None:
        data = data.replace(b"@T@", thread_id.encode()).replace(b"@U@", turn_id.encode())
        for first in range(0, times, 1000):
            counts = range(first, min(first + 1000, times))
            self._write(b"".join(data.replace(b"@N@", b"%d" % count) for count in counts))

    def _say(self, thread_id: str, turn_id: str, count: int, delay: float) -> Turn:
        ids = {"threadId": thread_id, "turnId": turn_id}
        item: Message = {"type": "agentMessage", "id": self._new_id("item"), "text": ""}
        self._notify("item/started", {"item": item, **ids, "startedAtMs": 1})
        for index in range(count):
            delta = f"{index:06d} "
            self._notify("item/agentMessage/delta", {**ids, "itemId": item["id"], "delta": delta})
            if delay:
                yield delay
        item = {**item, "text": "".join(f"{index:06d} " for index in range(count))}
        self._threads[thread_id]["turns"][-1]["items"].append(item)
        self._notify("item/completed", {"item": item, **ids, "completedAtMs": 1})

    def _ask(self, thread_id: str, turn_id: str) -> None:
        self._last_ask += 1
        self._asked[self._last_ask] = turn_id
        params = {"threadId": thread_id, "turnId": turn_id, "itemId": "call_fake"}
        params |= {"command": "true", "cwd": self._threads[thread_id]["cwd"], "reason": "May I?"}
        method = "item/commandExecution/requestApproval"
        self._send({"method": method, "id": self._last_ask, "params": params})

    def _interrupt(self, params: Message) -> Message:
        self._turns[params["turnId"]][2].close()  # type: ignore[attr-defined]
        self._end(params["threadId"], params["turnId"], "interrupted")
        return {}

    def _end(self, thread_id: str, turn_id: str, status: str) -> None:
        del self._turns[turn_id]
        for turn in self._threads[thread_id]["turns"]:
            if turn["id"] == turn_id:
                turn["status"] = status
                self._keep(thread_id)
                self._status(thread_id, {"type": "idle"})
                shown = {**turn, "items": []}
                self._notify("turn/completed", {"threadId": thread_id, "turn": shown})

    def _status(self, thread_id: str, status: Message) -> None:
        self._notify("thread/status/changed", {"threadId": thread_id, "status": status})

    def _file(self, thread_id: str) -> Path | None:
        return None if self._home is None else self._home / f"{Path(thread_id).name}.json"

    def _keep(self, thread_id: str) -> None:
        if (kept := self._file(thread_id)) is not None:
            kept.parent.mkdir(exist_ok=True)
            kept.write_text(json.dumps(self._threads[thread_id]))

    def _new_id(self, kind: str) -> str:
        self._count += 1
        return f"{kind}-{os.getpid()}-{self._count}"

    def _notify(self, method: str, params: Message) -> None:
        self._send({"method": method, "params": params, "emittedAtMs": 1})

    def _send(self, message: Message) -> None:
        self._write(json.dumps(message, separators=(",", ":")).encode() + b"\n")

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(1, view) :]


def main(arguments: list[str]) -> None:
    """`[--behaviour NAME] [--log FILE] [--] ...`: what follows is codex's and ignored."""
    ours = arguments[: arguments.index("--")] if "--" in arguments else arguments
    options = {key: value for key, value in pairwise(ours) if key[:2] == "--"}
    behaviour = options.get("--behaviour", "ok")
    if "--version" in arguments:
        said = WRONG_VERSION if behaviour == "bad-version" else VERSION
        sys.stdout.write(f"codex-cli {said}\n")
        return
    if behaviour == "exit-at-once":
        sys.stderr.write("Error: the fake app-server was told to exit\n")
        sys.exit(1)
    # As Codex: an ordinary end, at once, whatever is running.
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(0))
    # The one program here that stands for Codex itself: it finds its home as Codex does.
    home = os.environ.get("CODEX_HOME")  # noqa: TID251
    log = options.get("--log")
    AppServer(behaviour, Path(home) if home else None, Path(log) if log else None).run()


if __name__ == "__main__":
    main(sys.argv[1:])
