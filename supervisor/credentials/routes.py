"""What passes from a container to the model API, and back: a closed table. Pure.

Found with codex 0.163.0: turns, reviews, sub-agents and compaction all are `POST responses`. It
lists models where its provider asks for a login. Not in the table, though Codex knows them: images,
search and realtime calls (tools that are off by default, each a way out of its own), files, and
reading back or deleting stored responses (they are the site's, not the project's).
"""

import re
from collections.abc import Mapping
from typing import Final

import msgspec

BASE: Final = "/v1"
"""Before every path inside of the container, whatever the upstream's own base is."""


class Denied(Exception):  # noqa: N818  # an answer, in the words of HTTP
    """The proxy's own answer to a request."""

    def __init__(self, status: int, code: str, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    @property
    def is_of_upstream(self) -> bool:
        """Whether the request may be right, and the model cannot be had."""
        return self.status in (502, 503, 504)

    def body(self) -> bytes:
        """In the shape of the model API's errors."""
        kind = "server_error" if self.is_of_upstream else "invalid_request_error"
        error = {"message": str(self), "type": kind, "param": None, "code": self.code}
        return msgspec.json.encode({"error": error})


class Route(msgspec.Struct, frozen=True):
    """A method and a path; `query` is the only query there may be, as a pattern."""

    method: str
    path: str
    query: str | None = None


ROUTES: Final = (
    Route("POST", "/responses"),
    # Compaction of other versions of Codex (allow_other_codex_version); no more than a turn can do.
    Route("POST", "/responses/compact"),
    Route("GET", "/models", r"client_version=[0-9A-Za-z.+-]{1,64}"),
)


def upstream_path(method: str, target: str) -> str:
    """What to ask of the upstream, below its base URL. Raises `Denied`.

    `target` is compared as it came: nothing in it is decoded, joined or normalised, so that no two
    readings of it can differ.
    """
    path, question, query = target.partition("?")
    found = [route for route in ROUTES if BASE + route.path == path]
    if not found:
        raise Denied(404, "path_not_allowed", "the proxy does not pass on this path")
    for route in found:
        if route.method != method:
            continue
        if question and (route.query is None or re.fullmatch(route.query, query) is None):
            raise Denied(403, "query_not_allowed", "the proxy does not pass on this query")
        return route.path + question + query
    allowed = ", ".join(sorted({route.method for route in found}))
    message = "the proxy does not pass on this method"
    raise Denied(405, "method_not_allowed", message, Allow=allowed)


# What an upstream may be told. All else stays: credentials and organisations of the container's own
# choice, cookies, and headers by which gateways take another method, path or host.
_UPWARD: Final = frozenset(
    (
        *("accept", "accept-encoding", "content-type", "content-encoding", "user-agent"),
        *("originator", "version", "session-id", "session_id", "thread-id", "conversation_id"),
        *("x-client-request-id", "openai-beta", "x-openai-subagent", "traceparent", "tracestate"),
    )
)
_UPWARD_PREFIXES: Final = ("x-codex-", "x-responsesapi-", "x-stainless-")
_HOP_BY_HOP: Final = frozenset(
    (
        *("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding"),
        *("upgrade", "proxy-authenticate", "proxy-authorization", "proxy-authentication-info"),
    )
)
# Of no use to a container, or of harm: other addresses, and state kept for the site's account.
_KEPT_BACK: Final = frozenset(
    ("set-cookie", "set-cookie2", "alt-svc", "location", "authorization", "content-length")
)


def upward(headers: Mapping[str, str], key: str | None) -> list[tuple[str, str]]:
    """The headers for the upstream."""
    named = _named_by_connection(headers)
    passed = [
        (name, value)
        for name, value in headers.items()
        if _is_known(name.lower()) and name.lower() not in named
    ]
    if key is not None:
        passed.append(("Authorization", f"Bearer {key}"))
    return passed


def downward(headers: Mapping[str, str], key: str | None) -> list[tuple[str, str]]:
    """The headers for the container; none that would tell the key."""
    held_back = _HOP_BY_HOP | _KEPT_BACK | _named_by_connection(headers)
    # A short one, as of a model on one's own machine, may be a part of any word.
    secret = key if key is not None and len(key) >= 16 else None
    return [
        (name, value)
        for name, value in headers.items()
        if name.lower() not in held_back and (secret is None or secret not in value)
    ]


def _is_known(name: str) -> bool:
    return name in _UPWARD or name.startswith(_UPWARD_PREFIXES)


def _named_by_connection(headers: Mapping[str, str]) -> frozenset[str]:
    values = [value for name, value in headers.items() if name.lower() == "connection"]
    return frozenset(part.strip().lower() for value in values for part in value.split(","))
