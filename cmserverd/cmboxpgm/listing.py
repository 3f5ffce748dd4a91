"""What containers, requests, updates and ledgers hold, as plain values for JSON, and the words for the tables."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from cmserverd.cmboxpgm.ledger import Enrolled, clock_of
from cmserverd.cmboxpgm.values import MODES
from drivers import image, keys
from drivers.container import (
    EVERY_LICENSE,
    Allowance,
    Borrowing,
    FirmItem,
    Loan,
    ProductItem,
    QuantityFlag,
    container_id,
)
from drivers.image import Image
from drivers.trust import ED25519, Trust
from drivers.update import ANY, FirmUpdate, TimeUpdate

Document = dict[str, Any]
"""Times are in Unix seconds, keys in base64; no field is ever left out."""


def container(octets: bytes) -> Document:
    """Return all that an image holds. Each firm item is verified with the key that lies beside it, which is shown.

    Raises ImageError if the image is damaged.
    """
    parsed = image.parse(octets, Trust())
    sealed = parsed.sealed
    signed = {code: each.licensor for code, each in sealed.items() if each.algorithm == ED25519}
    unsigned = frozenset(code for code, each in sealed.items() if each.algorithm == 0)
    found = image.parse(octets, Trust(signed, unsigned))
    return {
        "id": found.container.id,
        "kind": found.container.kind.value,
        "text": found.container.text,
        "public_key": _key(found.owner.key),
        "state": found.state.sequence,
        "time_floor": found.state.time_floor,
        "asks_for_time": any(found.state.nonce),
        "clock": clock(parsed),
        "loans": [_loan(each) for each in found.state.loans],
        "firm_items": [firm(each, signed.get(each.firm_code, b"")) for each in found.container.firm_items],
    }


def clock(found: Image) -> Document | None:
    """Return who certifies a container's time, None if nobody does."""
    first = clock_of(found)
    return None if first is None else {"firm_code": first.firm_code, "licensor": _key(first.licensor)}


def whose(clock: Document | None) -> str:
    """Return the words for whoever certifies a container's time."""
    if clock is None:
        return "time certified by nobody"
    return f"time certified by licensor {clock['licensor']} (firm code {clock['firm_code']})"


def enrolled(entry: Enrolled) -> Document:
    """Return a ledger's entry: a container, with the firm items as they were last programmed."""
    return {
        "id": entry.id,
        "kind": entry.kind.value,
        "public_key": _key(entry.key),
        "state": entry.sequence,
        "firm_items": [firm(each.item(entry.owner), each.licensor) for each in entry.firm_items],
    }


def update(found: FirmUpdate | TimeUpdate) -> Document:
    """Return what an update brings."""
    owner = found.owner
    document: Document = {
        "container": container_id(owner.mask, owner.serial),
        "kind": owner.kind.value,
        "public_key": _key(owner.key),
        "licensor": _key(found.licensor),
        "time": None,
        "base": None,
        "firm_item": None,
    }
    if isinstance(found, TimeUpdate):
        return document | {"time": found.time}
    return document | {
        "base": None if found.base == ANY else found.base,
        "firm_item": firm(found.item, found.licensor),
    }


def words(item: Document) -> list[str]:
    """Return an item's options, but for text and quantity, as people read them."""
    said = [f"denied {mode}" for mode in item["denied"]]
    if item["local_only"]:
        said.append("local only")
    if item["feature_map"] is not None:
        said.append(f"feature map 0x{item['feature_map']:08x}")
    if item["activation"] is not None:
        said.append(f"valid from {instant(item['activation'])}")
    if item["expiration"] is not None:
        said.append(f"valid until {instant(item['expiration'])}")
    if usage := item["usage"]:
        since = f", begun {instant(item['usage_start'])}" if item["usage_start"] else ""
        said.append(f"usage period {span(usage['amount'])}{since}")
    if period := item["maintenance"]:
        said.append(f"maintenance {instant(period['start'])} to {instant(period['end'])}")
    if units := item["units"]:
        said.append(f"units {max(0, units['amount'] - item['units_used'])} of {units['amount']}")
    if item["linger"]:
        said.append(f"linger {span(item['linger'])}")
    if borrowing := item["borrowing"]:
        many = "" if borrowing["licenses"] is None else f", {borrowing['licenses']} at a time"
        said.append(f"may be borrowed for {span(borrowing['seconds'])}{many}")
    if item["minimum_runtime"]:
        said.append(f"runtime {item['minimum_runtime']} or later")
    said += [
        f"{name.replace('_', ' ')} {_readable(item[name])}" for name in ("protected_data", "user_data") if item[name]
    ]
    return said


def instant(seconds: int) -> str:
    """Return a time as people read it, in UTC."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError):
        return str(seconds)


def span(seconds: int) -> str:
    """Return a duration in the largest unit that fits, as it may be typed."""
    for letter, unit in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds % unit == 0 and seconds:
            return f"{seconds // unit}{letter}"
    return f"{seconds}s"


def firm(found: FirmItem, licensor: bytes) -> Document:
    """Return a firm item; `licensor` is empty if nobody signed it."""
    return {
        "firm_code": found.firm_code,
        "text": found.text,
        "update_counter": found.update_counter,
        "licensor": _key(licensor) if licensor else None,
        "unusable": found.unusable,
        "items": [_item(each) for each in found.products],
    }


def _item(found: ProductItem) -> Document:
    denied = [name for name, flag in MODES.items() if found.flags & flag]
    runtime = found.minimum_runtime
    return {
        "item": found.reference,
        "product_code": found.product_code,
        "text": found.text,
        "quantity": found.quantity,
        "denied": denied,
        "local_only": bool(found.flags & QuantityFlag.LOCAL_ONLY),
        "feature_map": found.feature_map,
        "activation": found.activation,
        "expiration": found.expiration,
        "usage": _allowance(found.usage),
        "maintenance": msgspec.to_builtins(found.maintenance),
        "units": _allowance(found.units),
        "linger": found.linger,
        "borrowing": _borrowing(found.borrowing),
        "minimum_runtime": f"{runtime.major}.{runtime.minor}" if runtime else None,
        "protected_data": found.protected_data.hex(),
        "user_data": found.user_data.hex(),
        "units_used": found.units_used,
        "usage_start": found.usage_start,
        "unusable": found.unusable,
    }


def _allowance(found: Allowance | None) -> Document | None:
    return None if found is None else {"amount": found.amount, "generation": found.generation}


def _borrowing(found: Borrowing | None) -> Document | None:
    if found is None:
        return None
    return {"seconds": found.seconds, "licenses": None if found.licenses == EVERY_LICENSE else found.licenses}


def _loan(found: Loan) -> Document:
    return {
        "id": found.id.hex(),
        "firm_code": found.firm_code,
        "item": found.reference,
        "quantity": found.quantity,
        "end": found.end,
        "holder": keys.to_text(found.holder),
    }


def _key(octets: bytes) -> str | None:
    return keys.to_text(octets) if any(octets) else None


def _readable(digits: str) -> str:
    """Return data as the text that they are, if they are one that can be shown, else their digits."""
    octets = bytes.fromhex(digits)
    text = octets.decode(errors="replace")
    return f'"{text}"' if text.isprintable() and "\ufffd" not in text else f"0x{digits}"
