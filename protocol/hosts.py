"""What tells hosts apart: whoever has one address of a network may have a great many."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network


def host_of(address: str) -> str:
    """Return what tells hosts apart: an IPv4 address; of IPv6 the /64, since a host has as many of one as it likes.

    What is no address of a network stands for itself.
    """
    if ":" not in address:
        return address
    try:
        ip = IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    return str(ip.ipv4_mapped or IPv6Network((ip, 64), strict=False))
