"""Who comes from where, and by what it is counted how much of something he has."""

from __future__ import annotations

import ipaddress

from starlette.requests import Request

from protocol.hosts import host_of


def address_of(request: Request) -> str:
    """Return from where the connection comes: its other end, whatever a header says."""
    return request.client.host if request.client else "unknown"


def visitor_of(request: Request, name: str) -> str:
    """Return by what is counted how much somebody has done at once: his name, or without one the host he comes from."""
    return name or f"from {host_of(address_of(request))}"


def other_end(client: tuple[str, int] | None) -> str:
    """Return by what a connection's other end is counted: its host; over loopback, where all have one, itself."""
    if client is None:
        return "unknown"
    address, port = client
    return f"{host_of(address)} {port}" if is_loopback(address) else host_of(address)


def is_loopback(address: str) -> bool:
    """Tell whether an address is this machine's own."""
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback
