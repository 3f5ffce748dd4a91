"""How a client goes from page to page of a listing."""

from __future__ import annotations

from protocol.errors import ErrorNumber, LicenseError


def next_cursor(cursor: int, following: int | None) -> int | None:
    """Return the following page's cursor. Raises LicenseError if it is the one we come from."""
    if following == cursor:
        raise LicenseError.of(ErrorNumber.NETWORK_FAULT, "the server's pages lead in a circle")
    return following
