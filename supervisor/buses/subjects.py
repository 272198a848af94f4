"""Subjects and reply inboxes: names with a strict grammar. Pure.

    codex.project-<P>.account-<A>.<service>     one project
    codex.host.account-<A>.<service>            this host
    _INBOX.<token>[.<token>]{0,3}               where answers go

A token is 1 to 64 of `A-Za-z0-9_-`: no wildcard, no separator, no space of any bus gets through.
"""

import re

from supervisor.errors import ErrorCode, SupervisorError
from supervisor.ports.bus import API, Subject

HELLO = "_HELLO"
"""The subject of a connection's first frame: whom the server takes the peer for."""
ERROR = "_ERROR"
"""The subject of errors that belong to no reply inbox."""

_TOKEN = r"[A-Za-z0-9_-]{1,64}"  # noqa: S105  # a pattern, not a password
_TOKEN_RE = re.compile(_TOKEN)
_SUBJECT = re.compile(rf"codex\.(?:project-({_TOKEN})|host)\.account-({_TOKEN})\.({_TOKEN})")
_INBOX = re.compile(rf"_INBOX(?:\.{_TOKEN}){{1,4}}")


def parse_subject(text: str) -> Subject:
    """Raises `bad_request` for anything but a subject."""
    match = _SUBJECT.fullmatch(text)
    if match is None:
        raise SupervisorError(
            ErrorCode.BAD_REQUEST,
            "the subject is not one of codex.host.account-<A>.api, "
            "codex.project-<P>.account-<A>.api",
        )
    return Subject(project=match[1], account=match[2], service=match[3])


def format_subject(project: str | None, account: str, service: str = API) -> str:
    """The subject of a project, or of the host. Raises `bad_request` for what is no token."""
    for token in (account, service) if project is None else (project, account, service):
        if _TOKEN_RE.fullmatch(token) is None:
            raise SupervisorError(
                ErrorCode.BAD_REQUEST, "a name in a subject is 1 to 64 of A-Z a-z 0-9 _ -"
            )
    where = "host" if project is None else f"project-{project}"
    return f"codex.{where}.account-{account}.{service}"


def check_inbox(reply: str | None) -> str:
    """The reply inbox of a request. Raises `bad_request` without one, or for what is none."""
    if reply is None:
        raise SupervisorError(ErrorCode.BAD_REQUEST, "a request needs a reply inbox (`reply`)")
    if _INBOX.fullmatch(reply) is None:
        raise SupervisorError(
            ErrorCode.BAD_REQUEST,
            "the reply inbox is not _INBOX and 1 to 4 names of A-Z a-z 0-9 _ - after dots",
        )
    return reply
