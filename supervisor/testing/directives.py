"""The language of prompts that the scripted model obeys: `mock:<name> key=value ...`.

A directive stands at the start of the prompt, of a line, or after a `;`. Values are bare words,
or quoted with `"` or `'` in which a backslash escapes the next character (`\\n` is a newline).
Everything between directives is ignored, however long. Pure: text in, a script out.
"""

import re
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from supervisor.testing.numbered import (
    DEFAULT_SIZE,
    MAXIMUM_COUNT,
    MINIMUM_SIZE,
    UNICODE_SIZE,
    numbered_text,
)

MAXIMUM_STEPS: Final = 1000
ALWAYS: Final = 0
"""`times=0`: misbehave on every attempt."""


class DirectiveError(ValueError):
    """A prompt whose directive cannot be obeyed; the message says which and why."""


class Text(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Stream one message of `n` deltas: numbered pieces, or `msg` cut in `n`."""

    n: int
    size: int = DEFAULT_SIZE
    unicode: bool = False
    msg: str | None = None
    delay: float = 0.0
    """Seconds between deltas."""

    def whole(self) -> str:
        """The message when it is complete."""
        if self.msg is not None:
            return self.msg
        return numbered_text(self.n, self.size, unicode=self.unicode)


class Call(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Call a function tool with these arguments (a JSON object, encoded)."""

    name: str
    arguments: str


class Patch(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Call the freeform `apply_patch` tool with this patch."""

    patch: str


class Fail(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Refuse the request: by HTTP status, or at status 200 by `response.failed` with a code."""

    status: int
    code: str
    msg: str
    times: int
    retry_after: int | None = None


class Cut(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Close the connection after `after` deltas of `text`."""

    text: Text
    after: int
    times: int


class Stall(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Send `after` deltas of `text`, then nothing, until released or the client has gone."""

    text: Text
    after: int
    times: int


Step = Text | Call | Patch | Fail | Cut | Stall
Script = tuple[Step, ...]


class _Arguments:
    """The `key=value` pairs of one directive, each taken once and checked."""

    def __init__(self, directive: str, pairs: Mapping[str, str]) -> None:
        self._directive = directive
        self._pairs = dict(pairs)

    def text(self, key: str, default: str | None = None) -> str:
        value = self._pairs.pop(key, default)
        if value is None:
            raise DirectiveError(f"mock:{self._directive} needs {key}=")
        return value

    def optional(self, key: str) -> str | None:
        return self._pairs.pop(key, None)

    def number(self, key: str, default: int, *, low: int = 0, high: int = MAXIMUM_COUNT) -> int:
        value = self._pairs.pop(key, None)
        if value is None:
            return default
        if not (value.isascii() and value.isdigit() and len(value) <= 9):
            raise DirectiveError(f"mock:{self._directive} {key}= must be a whole number")
        if not low <= int(value) <= high:
            raise DirectiveError(f"mock:{self._directive} {key}= must be {low} to {high}")
        return int(value)

    def seconds(self, key: str, default: float) -> float:
        value = self._pairs.pop(key, None)
        if value is None:
            return default
        if re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,9})?", value) is None:
            raise DirectiveError(f"mock:{self._directive} {key}= must be seconds")
        return float(value)

    def finish(self) -> None:
        if self._pairs:
            unknown = ", ".join(sorted(self._pairs))
            raise DirectiveError(f"mock:{self._directive} does not know {unknown}")


def _read_text(args: _Arguments, *, n: int = 3, delay: float = 0.0) -> Text:
    kind = args.text("text", "ascii")
    if kind not in ("ascii", "unicode"):
        raise DirectiveError("text= must be ascii or unicode")
    unicode = kind == "unicode"
    size = UNICODE_SIZE if unicode else DEFAULT_SIZE
    return Text(
        n=args.number("n", n),
        size=args.number("size", size, low=MINIMUM_SIZE, high=1 << 16),
        unicode=unicode,
        msg=args.optional("msg"),
        delay=args.seconds("delay", delay),
    )


def _slow(args: _Arguments) -> Step:
    return _read_text(args, n=50, delay=0.05)


def _exec(args: _Arguments) -> Step:
    arguments: dict[str, object] = {"cmd": args.text("cmd")}
    if (wait := args.number("yield_ms", -1)) >= 0:
        arguments["yield_time_ms"] = wait
    if args.number("escalate", 0, high=1):
        arguments["sandbox_permissions"] = "require_escalated"
        arguments["justification"] = args.text("why", "May I?")
    return Call(name="exec_command", arguments=_json(arguments))


def _stdin(args: _Arguments) -> Step:
    session, chars = args.number("session", 0), args.text("chars", "")
    return Call(name="write_stdin", arguments=_json({"session_id": session, "chars": chars}))


def _patch(args: _Arguments) -> Step:
    path, operation = args.text("file"), args.text("op", "add")
    if operation == "add":
        body = ["*** Add File: " + path, *("+" + line for line in args.text("text").split("\n"))]
    elif operation == "update":
        old, new = args.text("old").split("\n"), args.text("text").split("\n")
        body = ["*** Update File: " + path, "@@"]
        body += ["-" + line for line in old] + ["+" + line for line in new]
    elif operation == "delete":
        body = ["*** Delete File: " + path]
    else:
        raise DirectiveError("mock:patch op= must be add, update or delete")
    return Patch(patch="\n".join(["*** Begin Patch", *body, "*** End Patch", ""]))


def _ask(args: _Arguments) -> Step:
    choices = args.text("options", "Yes,No").split(",")
    question = {
        "id": "q1",
        "header": args.text("header", "Question"),
        "question": args.text("q"),
        "options": [{"label": choice, "description": f"Choose {choice}."} for choice in choices],
    }
    return Call(name="request_user_input", arguments=_json({"questions": [question]}))


def _tool(args: _Arguments) -> Step:
    return Call(name=args.text("name"), arguments=args.text("args", "{}"))


def _fail(args: _Arguments) -> Step:
    code = args.text("code", "")
    status = args.number("status", 200 if code else 500, low=200, high=599)
    wait = args.number("retry_after", -1)
    return Fail(
        status=status,
        code=code or "server_error",
        msg=args.text("msg", f"scripted failure {status}"),
        times=args.number("times", ALWAYS),
        retry_after=None if wait < 0 else wait,
    )


def _cut(args: _Arguments) -> Step:
    after, times = args.number("after", 3), args.number("times", 1)
    return Cut(after=after, times=times, text=_read_text(args, n=max(10, after)))


def _stall(args: _Arguments) -> Step:
    after, times = args.number("after", 0), args.number("times", ALWAYS)
    return Stall(after=after, times=times, text=_read_text(args, n=max(3, after)))


_DIRECTIVES: Final[Mapping[str, Callable[[_Arguments], Step]]] = {
    "text": _read_text,
    "slow": _slow,
    "exec": _exec,
    "stdin": _stdin,
    "patch": _patch,
    "ask": _ask,
    "tool": _tool,
    "fail": _fail,
    "cut": _cut,
    "stall": _stall,
}
DIRECTIVE_NAMES: Final = tuple(_DIRECTIVES)

_START: Final = re.compile(r"(?:\A|[\n;])[ \t]*mock:([A-Za-z_]*)")
_PAIR: Final = re.compile(
    r"[ \t]+([a-z_]+)="
    r"(?:\"((?:[^\"\\]|\\.)*)\"|'((?:[^'\\]|\\.)*)'|([^\s;\"']*))(?=[\s;]|\Z)",
    re.DOTALL,
)
_ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)
_END: Final = re.compile(r"[ \t]*(?=[\n;]|\Z)")


def parse_script(prompt: str) -> Script:
    """The steps a prompt asks for, in order; none if it holds no directive.

    `DirectiveError` for a name, key or value that is not understood, and past `MAXIMUM_STEPS`.
    """
    steps: list[Step] = []
    position = 0
    while (start := _START.search(prompt, position)) is not None:
        if len(steps) == MAXIMUM_STEPS:
            raise DirectiveError(f"more than {MAXIMUM_STEPS} directives")
        step, position = _parse_one(prompt, start)
        steps.append(step)
    return tuple(steps)


def _parse_one(prompt: str, start: re.Match[str]) -> tuple[Step, int]:
    name, position = start[1], start.end()
    read = _DIRECTIVES.get(name)
    if read is None:
        raise DirectiveError(f"no directive mock:{name}; there are {', '.join(DIRECTIVE_NAMES)}")
    pairs: dict[str, str] = {}
    while (pair := _PAIR.match(prompt, position)) is not None:
        pairs[pair[1]] = _value(pair)
        position = pair.end()
    if _END.match(prompt, position) is None:
        raise DirectiveError(f"mock:{name}: cannot read {prompt[position : position + 40]!r}")
    args = _Arguments(name, pairs)
    step = read(args)
    args.finish()
    return step, position


def _value(pair: re.Match[str]) -> str:
    quoted = pair[2] if pair[2] is not None else pair[3]
    if quoted is None:
        return pair[4]
    return _ESCAPE.sub(lambda found: "\n" if found[1] == "n" else found[1], quoted)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
