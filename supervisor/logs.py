"""Logs: one JSON object a line, with an `action`, a `level`, the `time` and the ids of the context.

`action` is a short constant such as `agent_started`; everything else is a field. Ids (project,
generation, thread, turn, connection) are bound once with `bound` and follow the task. Payloads are
logged at DEBUG only. Values that look like credentials never leave, whatever logs them, and a log
line never raises: a supervisor must outlive its standard error.
"""

import contextlib
import logging
import re
import sys
from collections.abc import Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Literal, Protocol, TypeVar, cast

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

_T = TypeVar("_T")
LogFormat = Literal["json", "console"]

TEXT_LIMIT = 16_384
"""Characters of one value; what is longer is cut, and says so."""
_DEPTH_LIMIT = 8
_ENTRIES_LIMIT = 256
_NUMBER_LIMIT = 2**64
"""What is larger, and NaN, is no JSON number every reader takes: it becomes text."""
_FIRST_KEYS = ("time", "level", "action")
_REDACTED = "[redacted]"

_SECRET_KEYS = re.compile(
    r"(authorization|token|apikey|password|passwd|secret|cookie|credentials?|privatekey)$"
)
_SECRET_VALUES = (
    (re.compile(r"(?i)\b(bearer|basic)\s+[^\s\"',;]+"), rf"\1 {_REDACTED}"),
    (re.compile(r"\bsk-[A-Za-z0-9_-]{8,}"), _REDACTED),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"), _REDACTED),
    (re.compile(r"://[^/\s@]+:[^/\s@]*@"), f"://{_REDACTED}@"),
    (
        re.compile(
            r"(?i)((?:token|api[_-]?key|password|secret)[\"']?\s*[=:]\s*[\"']?)[^\s\"'&,;}\[]+"
        ),
        rf"\1{_REDACTED}",
    ),
)
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}


class Text(Protocol):
    """The part of a text stream that logs need."""

    def write(self, text: str, /) -> object:
        """Take the text."""

    def flush(self) -> object:
        """Pass it on."""


class _Lines:
    """structlog's last stage: one write a line. What the stream cannot take is dropped."""

    def __init__(self, stream: Text) -> None:
        self._stream = stream

    def msg(self, line: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(line.encode("utf-8", "backslashreplace").decode() + "\n")
            self._stream.flush()

    debug = info = warning = error = critical = exception = log = msg


class _LibraryHandler(logging.Handler):
    """What libraries log through the standard library, as lines of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
        except Exception:  # noqa: BLE001 - its bad format string must not reach its caller
            text = str(record.msg)
        get_logger().log(
            max(record.levelno, logging.WARNING),
            "library_message",
            library=record.name,
            message=text,
            exc_info=record.exc_info,
        )


def configure(level: str = "info", fmt: LogFormat = "json", stream: Text | None = None) -> None:
    """Say what is logged, how, and where to; standard error by default. May be called again.

    Libraries are heard from WARNING on, whatever `level`.
    """
    out = sys.stderr if stream is None else stream
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            structlog.processors.format_exc_info,
            structlog.processors.EventRenamer("action"),
            redacted,
            *([structlog.processors.JSONRenderer()] if fmt == "json" else _console(out)),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: _Lines(out),
        # Else a logger made at import would keep the first configuration for ever.
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    for handler in [each for each in root.handlers if isinstance(each, _LibraryHandler)]:
        root.removeHandler(handler)
    root.addHandler(_LibraryHandler(logging.WARNING))
    root.setLevel(logging.WARNING)


def _console(stream: Text) -> list[structlog.typing.Processor]:
    colors = bool(getattr(stream, "isatty", lambda: False)())
    renderer = structlog.dev.ConsoleRenderer(
        colors=colors, event_key="action", timestamp_key="time", sort_keys=False
    )
    return [_without_controls, renderer]


def get_logger() -> FilteringBoundLogger:
    """A logger: `log.info("agent_started", pid=7)`. Cheap to make, safe at module level."""
    return cast(FilteringBoundLogger, structlog.get_logger())


def bound(**ids: object) -> AbstractContextManager[None]:
    """Add ids to every line logged inside, also in tasks started inside."""
    return structlog.contextvars.bound_contextvars(**ids)


def redacted(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """A structlog processor: credentials out, sizes bounded, everything made plain JSON."""
    ordered = sorted(event.items(), key=lambda pair: pair[0] not in _FIRST_KEYS)
    return {_name(key): _clean(_name(key), value, 0) for key, value in ordered}


def _name(key: object) -> str:
    text = str(key) if isinstance(key, str) else _shown(key)
    return text if text.isidentifier() else redact_text(text)


def _clean(key: str, value: object, depth: int) -> object:
    if value is None or isinstance(value, bool):
        return value
    if _SECRET_KEYS.search(key.replace("_", "").replace("-", "").lower()):
        return _REDACTED
    if isinstance(value, int | float) and -_NUMBER_LIMIT < value < _NUMBER_LIMIT:
        return value
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        return _clean_inside(value, depth + 1) if depth < _DEPTH_LIMIT else "[deeper]"
    return redact_text(_shown(value))


def _clean_inside(value: Mapping[object, object] | Collection[object], depth: int) -> object:
    if isinstance(value, Mapping):
        pairs = ((_name(name), inner) for name, inner in _first(value.items()))
        return {name: _clean(name, inner, depth) for name, inner in pairs}
    return [_clean("", inner, depth) for inner in _first(value)]


def _first(values: Iterable[_T]) -> Iterable[_T]:
    return (value for value, _ in zip(values, range(_ENTRIES_LIMIT), strict=False))


def _shown(value: object) -> str:
    if isinstance(value, bytes | bytearray):
        return value[: 2 * TEXT_LIMIT].decode("utf-8", "backslashreplace")
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - any __str__ may raise anything
        return f"<{type(value).__name__}>"


def redact_text(text: str) -> str:
    """The text without what looks like a credential, and not longer than `TEXT_LIMIT`."""
    cut = text[: 2 * TEXT_LIMIT]
    for pattern, replacement in _SECRET_VALUES:
        cut = pattern.sub(replacement, cut)
    kept = cut[:TEXT_LIMIT]
    more = len(text) - len(kept) if len(text) > TEXT_LIMIT else 0
    return f"{kept}… [{more} more]" if more > 0 else kept


def _without_controls(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """For terminals: nothing an agent says may move the cursor or fake a line."""
    for key, value in event.items():
        if key != "exception" and not isinstance(value, int | float | None):
            event[key] = str(value).translate(_CONTROLS)
    return event
