"""Which addresses a tunnel may lead to: those of the public internet, and no other. Pure."""

import ipaddress
from typing import Final

_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def is_public(text: str) -> bool:
    """False for what is no address, and for loopback, private, link-local (where clouds keep their
    metadata), multicast, reserved and unspecified ones, also where one is wrapped in another."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return all(_is_plain(each) for each in _meant(address))


def _is_plain(address: _Address) -> bool:
    # All of them, for they do not agree with each other, nor one version of Python with the next.
    if isinstance(address, ipaddress.IPv6Address) and address.is_site_local:
        return False
    inward = (
        *(address.is_private, address.is_loopback, address.is_link_local, address.is_multicast),
        *(address.is_reserved, address.is_unspecified),
    )
    return address.is_global and not any(inward)


def _meant(address: _Address) -> list[_Address]:
    """The addresses it may be taken for: here, or by a gateway on the way."""
    if isinstance(address, ipaddress.IPv4Address):
        return [address]
    if address.ipv4_mapped is not None:
        return [address.ipv4_mapped]
    if address in _NAT64:
        return [ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)]
    inside = [address.sixtofour, *(address.teredo or ())]
    return [address, *(each for each in inside if each is not None)]
