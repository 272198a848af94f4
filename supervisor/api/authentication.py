"""Who may come in over HTTP: token, Host and Origin.

A browser on this computer reaches a loopback port too, for any page it shows. `Origin` tells
pages from programs; `Host` tells a page whose name was re-pointed at 127.0.0.1 (DNS rebinding).
"""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address

from supervisor.errors import ErrorCode, SupervisorError
from supervisor.policy.access import LOCAL_ACCOUNT, Principal

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_SCHEME = "bearer "


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """What a request must show."""

    token: str = field(repr=False)
    """At least 16 characters."""
    account: str = LOCAL_ACCOUNT
    principal: str = "token"
    """The name of whoever holds the token."""
    hosts: frozenset[str] = LOOPBACK_NAMES
    """Names in `Host` that are ours, without a port."""
    origins: frozenset[str] = frozenset()
    """Origins of web pages that may connect, such as `https://ide.example.org`."""

    def __post_init__(self) -> None:
        if len(self.token) < 16:
            raise SupervisorError(
                ErrorCode.SETTINGS_INVALID, "the token has fewer than 16 characters"
            )

    def check_host(self, headers: Mapping[str, str]) -> None:
        """Raises `forbidden` for a name that is not ours."""
        if host_name(headers.get("Host", "")) not in self.hosts:
            raise SupervisorError(
                ErrorCode.FORBIDDEN,
                "the Host header names another host",
                hint="Use the address the supervisor printed, or allow the name.",
            )

    def check_origin(self, headers: Mapping[str, str]) -> None:
        """Raises `forbidden` for a web page that is not allowed."""
        origin = headers.get("Origin")
        if origin is not None and origin not in self.origins:
            raise SupervisorError(
                ErrorCode.FORBIDDEN,
                "this origin is not allowed",
                hint="Allow the web page's origin in the settings.",
            )

    def admit(self, headers: Mapping[str, str], source: str) -> Principal:
        """The principal of a request with the right token; else `unauthenticated`."""
        given = headers.get("Authorization", "")
        scheme, token = given[: len(_SCHEME)], given[len(_SCHEME) :].strip()
        same = hmac.compare_digest(_octets(token), _octets(self.token))
        if scheme.lower() != _SCHEME or not same:
            raise SupervisorError(
                ErrorCode.UNAUTHENTICATED,
                "no token, or a wrong one (Authorization: Bearer <token>)",
            )
        return Principal(
            account=self.account,
            principal=self.principal,
            source=source,
            client=_claimed(headers.get("User-Agent", "")),
        )


def host_name(header: str) -> str:
    """The name in a Host header: no port, no brackets, lower case; "" for what is none."""
    if header.startswith("["):
        name, bracket, rest = header[1:].partition("]")
        ok = bracket and (not rest or (rest[0] == ":" and rest[1:].isdigit()))
        return name.lower() if ok else ""
    name, _, port = header.partition(":")
    return name.lower() if not port or port.isdigit() else ""


def is_loopback(host: str) -> bool:
    """Whether an address to listen on can be reached from this computer alone."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _octets(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _claimed(user_agent: str) -> str:
    return "".join(c for c in user_agent[:64] if c.isprintable() and c.isascii()) or "unknown"
