"""What tells hosts apart: whoever has one address of a network may have a great many."""

from __future__ import annotations

import ipaddress


def host_of(address: str) -> str:
    """Return the host of an address: an IPv4 address, or the /64 of an IPv6 one, of which a host has all.

    What is no address of a network stands for itself.
    """
    if ":" not in address:
        return address
    try:
        return str(ipaddress.IPv6Network((address, 64), strict=False))
    except ValueError:
        return address
