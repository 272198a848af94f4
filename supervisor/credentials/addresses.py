"""Which addresses a tunnel may lead to: those of the public internet, and no other. Pure."""

import ipaddress
from typing import Final

_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_NAT64_LOCAL: Final = ipaddress.ip_network("64:ff9b:1::/48")
_V4_COMPATIBLE: Final = ipaddress.ip_network("::/96")

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def is_public(text: str) -> bool:
    """False for what is no address, and for loopback, private, link-local (where clouds keep their
    metadata), multicast, reserved and unspecified ones, also where one is wrapped in another."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return all(_is_plain(each) for each in (address, *_within(address)))


def _is_plain(address: _Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address) and address in _NAT64:
        # What it stands for is looked at by itself.
        return True
    return address.is_global and not (
        address.is_multicast or address.is_reserved or address.is_link_local
    )


def _within(address: _Address) -> list[_Address]:
    """The IPv4 addresses that gateways on the way may take this one for."""
    if isinstance(address, ipaddress.IPv4Address):
        return []
    found: list[_Address | None] = [address.ipv4_mapped, address.sixtofour]
    found += address.teredo or ()
    if any(address in net for net in (_NAT64, _NAT64_LOCAL, _V4_COMPATIBLE)):
        found.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return [each for each in found if each is not None]
