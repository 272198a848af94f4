"""What supervisor and proxy say to each other. Each request has one answer, in order."""

import hashlib
from importlib.metadata import version
from typing import Annotated, Final

import msgspec

from supervisor.settings_groups import ProxySettings

PROTOCOL: Final = 1
PAGE: Final = 64
"""Containers in one answer to `List`: it has to fit into a packet."""

_TOLD_BYTES: Final = 16 * 1024
"""Of hosts in a `Welcome`, for the same reason."""

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """Who are you?"""


class Open(msgspec.Struct, frozen=True, kw_only=True, tag="open"):
    """Serve this container. Descriptors: its init's pidfd, the model's listener, and if there is to
    be a CONNECT proxy, that one's. One that is served already stays as it is."""

    project: _Name
    generation: int
    marker: _Name


class Close(msgspec.Struct, frozen=True, tag="close"):
    """Serve it no longer. An unknown one too is answered `Done`."""

    marker: _Name


class List(msgspec.Struct, frozen=True, tag="list"):
    """What do you serve, of the markers that sort after this one?"""

    after: str = ""


class End(msgspec.Struct, frozen=True, tag="end"):
    """End, as SIGTERM would make you."""


class Welcome(msgspec.Struct, frozen=True, kw_only=True, tag="welcome"):
    """The answer to `Hello`."""

    protocol: int
    pid: int
    base_url: str
    credential: bool
    """Whether there is one to be added now."""
    settings: str
    """`fingerprint` of those it runs with."""
    on_demand: bool
    served: int
    active: int
    """Requests and tunnels under way."""
    requests: dict[str, int]
    """By outcome, since it started."""
    key_source: str = ""
    """Where it has the key from; nothing of the key itself."""
    connect_allow: tuple[str, ...] | None = None
    """The hosts it lets containers connect to; None: more than can be told here."""


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """A container that is served."""

    project: str
    generation: int
    marker: str
    active: int
    requests: dict[str, int]


class Listed(msgspec.Struct, frozen=True, kw_only=True, tag="listed"):
    """The answer to `List`, sorted by marker."""

    containers: list[Served]
    more: bool


class Done(msgspec.Struct, frozen=True, tag="done"):
    """It is so now."""


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """It could not be done. The code is one of `ErrorCode`."""

    code: str
    message: str


Request = Hello | Open | Close | List | End
Answer = Welcome | Listed | Done | Refused


def fingerprint(settings: ProxySettings) -> str:
    """Tells whether two processes run the same program with the same settings."""
    told = settings.model_dump_json(exclude={"socket"})
    return hashlib.sha256(f"{version('codex-supervisor')} {told}".encode()).hexdigest()[:32]


def key_source(settings: ProxySettings) -> str:
    """Which file or systemd credential the key is in; "" if there is to be none."""
    if settings.credential is not None:
        return f"credential {settings.credential}"
    return "" if settings.key_file is None else f"file {settings.key_file}"


def told_hosts(settings: ProxySettings) -> tuple[str, ...] | None:
    """For `Welcome.connect_allow`."""
    fits = len(msgspec.json.encode(settings.connect_allow)) <= _TOLD_BYTES
    return settings.connect_allow if fits else None


def withdraws(settings: ProxySettings, welcome: Welcome) -> bool:
    """Whether these settings take something away that the proxy still lets containers have: its
    model API, its key, or a host. True also where that cannot be told."""
    return (
        welcome.base_url != settings.base_url
        or welcome.key_source != key_source(settings)
        or welcome.connect_allow is None
        or not set(welcome.connect_allow) <= set(settings.connect_allow)
    )
