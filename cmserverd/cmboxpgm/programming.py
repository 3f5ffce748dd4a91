"""From a change to a container that has it: which firm item is changed, who signs it, and what becomes of it.

An update always brings a whole firm item, and builds on none before it: whichever of several a customer applies, the
latest one has everything, and after it no earlier one is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from cmserverd.cmboxpgm import files
from cmserverd.cmboxpgm.ledger import Enrolled, Ledger, Programmed, clock_of
from drivers import firm_item, keys, state, update
from drivers.container import EARLIEST, FirmItem
from drivers.driver import Device, DriverError, Faulty
from drivers.firm_item import Owner
from drivers.image import FIXED_LIMIT, Image, ImageError
from drivers.state import RECEIPTS, ItemState, Receipt
from drivers.trust import ED25519

_RECORD: Final = 106
"""Bytes that a firm item takes in an image besides those that its licensor signs (`docs/drivers.md`)."""

Change = Callable[[FirmItem], FirmItem]


class Target(Struct, frozen=True):
    """What is to be programmed: a container's image, and the open device or the update's place."""

    image: Image
    place: Device | Path


def program(book: Ledger, target: Target, firm_code: int, private: bytes, change: Change, *, new_key: bool) -> FirmItem:
    """Have the change in the container, or in the update file, and in the ledger; return the new firm item.

    `new_key` if the ledger need not know yet that the key is the firm code's. Raises DriverError; then nothing is
    changed, unless only the ledger could not be written: the container's own update counter then says what is there.
    """
    entry = book.enrolled(target.image)
    owner, public = target.image.owner, keys.public_of(private)
    present = _present(target.image, entry, firm_code, public)
    if not new_key and firm_code not in target.image.sealed:
        book.check_key(firm_code, public)
    _check_clock(target.image, entry, public)
    after = change(present)
    octets = update.encode_firm(owner, after, update.ANY, private)
    signed = firm_item.encode(after, owner)
    _check_room(target, firm_code, signed)
    _check_state(target.image, after)
    programmed = Programmed(firm_code, after.update_counter, public, signed)
    changed = not isinstance(target.place, Path)  # then what was there before the update is an old copy from now on
    kept = replace(entry.after(programmed), sequence=entry.sequence + int(changed))
    _deliver(octets, target.place, lambda: book.keep(kept))
    return after


def certify(book: Ledger, target: Target, private: bytes, now: int) -> None:
    """Have the update that certifies a time (Unix seconds) for the nonce in the container's state.

    Raises DriverError if the container waits for none, or would not take it.
    """
    if now < EARLIEST:
        msg = "This machine's clock cannot be right: it is before the year 2000; set it, then certify."
        raise DriverError(msg)
    entry = book.enrolled(target.image)
    nonce = target.image.state.nonce
    if not any(nonce):
        msg = "The request asks for no certified time; have the customer make one that does (cmboxpgm request --time)."
        raise DriverError(msg)
    first = clock_of(target.image)
    if first is None or keys.public_of(private) != first.licensor:
        msg = "The container takes a certified time from the licensor of its first firm item only; this key is not his."
        raise DriverError(msg)
    octets = update.encode_time(target.image.owner, nonce, now, private)
    _deliver(octets, target.place, lambda: book.keep(entry))


def _present(image: Image, entry: Enrolled, firm_code: int, licensor: bytes) -> FirmItem:
    """Return the firm item to be changed: the later one of the container's and the ledger's.

    The ledger's is later as long as a customer has not applied his update; the container's, if the ledger was lost.
    """
    candidates: list[FirmItem] = []
    programmed, sealed = entry.programmed(firm_code), image.sealed.get(firm_code)
    for there in (programmed, sealed):
        if there is not None and there.licensor != licensor:
            msg = (
                f"Firm item {firm_code} of container {image.container.id} is of another key than this one; take that "
                "key: the container takes a change from nobody else."
            )
            raise DriverError(msg)
    if sealed is not None:
        if sealed.algorithm != ED25519 or not keys.verify(licensor, sealed.signature, sealed.octets):
            msg = f"The signature of firm item {firm_code} is not this key's; the container is damaged, exchange it."
            raise Faulty(msg)
        candidates.append(_decoded(sealed.octets, image.owner))
    if programmed is not None:
        programmed.item(image.owner)
        candidates.append(_decoded(programmed.signed, image.owner))
    if len(set(candidates)) > len({each.update_counter for each in candidates}):
        msg = (
            f"Container {image.container.id} and the ledger have different firm items {firm_code} with one update "
            f"counter, {candidates[0].update_counter}: an old copy of the ledger was put back. The container keeps "
            "its own; to take that into the ledger, enroll the container again, then program what is missing."
        )
        raise DriverError(msg)
    return max(candidates, key=lambda item: item.update_counter, default=FirmItem(firm_code))


def _decoded(signed: bytes, owner: Owner) -> FirmItem:
    """Return a firm item. Raises DriverError if there is more in it than can be written again."""
    found = firm_item.decode(signed)
    if firm_item.encode(found, owner) != signed:
        msg = f"Firm item {found.firm_code} has something that this software does not know and would drop; update it."
        raise DriverError(msg)
    return found


def _check_clock(image: Image, entry: Enrolled, licensor: bytes) -> None:
    """Raise DriverError if somebody else certifies the container's time, and the ledger does not know him.

    A customer who is the first in an empty container sets its clock back as he likes, and no date in it counts.
    """
    first = clock_of(image)
    if first is not None and first.licensor != licensor and not entry.accepts_clock(first.licensor):
        msg = (
            f"The first firm item of container {image.container.id}, {first.firm_code}, is of the key "
            f"{keys.to_text(first.licensor)}, whose owner can set its clock back, and no date of yours would count. "
            "Find out whose it is; if you accept that, enroll the container again."
        )
        raise DriverError(msg)


def _check_state(image: Image, after: FirmItem) -> None:
    """Raise DriverError if more would be counted than the container's state has room for.

    Nothing is counted before the first use, so that a customer's last items would never begin.
    """
    others = sum(_counted(_item_of(each.octets)) for code, each in image.sealed.items() if code != after.firm_code)
    sealed = image.sealed.get(after.firm_code)
    before = 0 if sealed is None else _counted(_item_of(sealed.octets))
    needed = _counted(after)
    if needed > before and not _fits(image, others + needed):
        msg = (
            f"Container {image.container.id} cannot count so much: it would have {others + needed} items with units "
            "or a usage period, and has no room for what is used of the last ones; remove some, or make one of several."
        )
        raise DriverError(msg)


def _counted(firm: FirmItem) -> int:
    return sum(1 for each in firm.products if each.units is not None or each.usage is not None)


def _item_of(octets: bytes) -> FirmItem:
    """Return another's firm item; an empty one if it cannot be read, since nothing of it is ever counted."""
    try:
        return firm_item.decode(octets)
    except ImageError:
        return FirmItem(firm_item.firm_code_of(octets))


def _fits(image: Image, counted: int) -> bool:
    """Whether a state that is as full as it gets has room for so many items."""
    fullest = replace(
        image.state,
        items=tuple(ItemState(1, reference) for reference in range(counted)),
        receipts=(Receipt(bytes(16), 1, 0, 0, 0),) * RECEIPTS,
    )
    try:
        state.encode(fullest, image.state_limit, image.owner)
    except ImageError:
        return False
    return True


def _check_room(target: Target, firm_code: int, signed: bytes) -> None:
    """Raise DriverError if the container would be too full; its own refusal would come too late for a customer."""
    sealed = target.image.sealed.get(firm_code)
    before = 0 if sealed is None else len(sealed.octets) + _RECORD
    needed = target.image.fixed_length - before + len(signed) + _RECORD
    if needed > FIXED_LIMIT:
        msg = (
            f"Container {target.image.container.id} is full: it would have {needed} bytes, the most is {FIXED_LIMIT}; "
            "remove items, or shorten their texts and data."
        )
        raise DriverError(msg)


def _deliver(octets: bytes, place: Device | Path, keep: Callable[[], None]) -> None:
    """Bring an update to its place, and the ledger up to date.

    A container first: it may refuse. Of a file the ledger first, as soon as all else is safe on the disk: two updates
    with one counter must never leave the house.
    """
    if not isinstance(place, Path):
        place.apply(octets)
        keep()
        return
    files.check_free(place)
    with files.workshop(place) as directory:
        draft = directory / place.name
        files.write(draft, octets, files.SHARED)
        keep()
        files.publish(draft, place)
