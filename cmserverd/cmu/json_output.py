"""The listings, and what was done, as JSON, for programs.

One document each, its fields named as in the protocol, none ever left out. Bytes are hexadecimal digits.
"""

from __future__ import annotations

import json

from msgspec import Struct

from cmserverd.cmu.borrowing import Done, LoanListing
from cmserverd.cmu.deallocating import Freed
from cmserverd.cmu.fetch import LicenseUse, Listing, ServerState
from cmserverd.cmu.updating import Requested, Updated
from cmserverd.cmu.usage import UsageListing, mean
from cmserverd.cmu.watching import TakenOver
from protocol.messages import ErrorBody, TrackingProof


def listing(found: Listing) -> str:
    """Return a listing as a document."""
    return _document(_plain(found))


def servers(found: tuple[ServerState, ...]) -> str:
    """Return the servers as a document."""
    return _document({"servers": [{"answers": one.info is not None, **_fields(one)} for one in found]})


def usage(listing: UsageListing) -> str:
    """Return the usage history as a document."""
    rows = [{**_fields(row), "mean": mean(row)} for row in listing.rows]
    return _document({**_fields(listing), "rows": rows})


def proof(what: TrackingProof) -> str:
    """Return how sound license tracking is as a document."""
    return _document(_plain(what))


def loans(listing: LoanListing) -> str:
    """Return what is borrowed as a document."""
    return _document(_plain(listing))


def done(what: Requested | Updated | Freed | Done | TakenOver) -> str:
    """Return what was done as a document."""
    return _document(_plain(what))


def version(text: str) -> str:
    """Return the tool's version as a document."""
    return _document({"version": text})


def error(body: ErrorBody) -> str:
    """Return an error as a document."""
    return _document({"error": _plain(body)})


def _document(value: object) -> str:
    return json.dumps(value, indent=2)  # in ASCII: nothing in it can steer a terminal


def _plain(value: object) -> object:
    if isinstance(value, LicenseUse):
        return {**_fields(value.counts), "accesses": _plain(value.accesses)}
    if isinstance(value, Struct):
        return _fields(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return value


def _fields(value: Struct) -> dict[str, object]:
    return {name: _plain(getattr(value, name)) for name in value.__struct_fields__}
