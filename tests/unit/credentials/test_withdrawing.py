"""Which changes of the settings a running proxy may not outlive."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from supervisor.credentials import messages
from supervisor.credentials.packets import MAX_PACKET
from supervisor.settings_groups import ProxySettings

HOSTS = ("index.example:443", "*.files.example:443")
OLD: dict[str, Any] = {
    "base_url": "https://one.example/v1",
    "key_file": Path("/etc/one"),
    "connect_allow": HOSTS,
}


def welcome(**settings: Any) -> messages.Welcome:
    """Of a proxy that runs with these."""
    made = ProxySettings(**settings)
    return messages.Welcome(
        protocol=messages.PROTOCOL,
        pid=1,
        base_url=made.base_url,
        credential=True,
        settings=messages.fingerprint(made),
        on_demand=True,
        served=0,
        active=0,
        requests={},
        key_source=messages.key_source(made),
        connect_allow=messages.told_hosts(made),
    )


@pytest.mark.parametrize(
    "change",
    [
        {"base_url": "https://two.example/v1"},
        {"key_file": Path("/etc/two")},
        {"key_file": None},
        {"key_file": None, "credential": "openai"},
        {"connect_allow": HOSTS[:1]},
        {"connect_allow": ()},
        {"connect_allow": (HOSTS[0], "*.files.example:80")},
    ],
)
def test_a_model_a_key_or_a_host_that_is_taken_away(change: dict[str, Any]) -> None:
    assert messages.withdraws(ProxySettings(**{**OLD, **change}), welcome(**OLD))


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"connect_allow": (*HOSTS[::-1], "more.example:443")},
        {"idle_timeout_seconds": 1.0, "connect_timeout_seconds": 1.0},
        {"socket": Path("/run/proxy.sock")},
    ],
)
def test_nothing_is_taken_away(change: dict[str, Any]) -> None:
    assert not messages.withdraws(ProxySettings(**{**OLD, **change}), welcome(**OLD))


def test_more_hosts_than_fit_into_a_packet_are_not_told_and_taken_for_withdrawn() -> None:
    many = {**OLD, "connect_allow": tuple(f"host-{n}.example:443" for n in range(10_000))}
    told = welcome(**many)
    assert told.connect_allow is None
    assert len(msgspec.json.encode(told)) < MAX_PACKET
    assert messages.withdraws(ProxySettings(**many), told)


def test_a_proxy_that_does_not_tell_is_taken_for_one_that_lets_more_through() -> None:
    fields = msgspec.to_builtins(welcome(**OLD))
    del fields["connect_allow"]
    older = msgspec.convert(fields, messages.Welcome)
    assert messages.withdraws(ProxySettings(**OLD), older)
