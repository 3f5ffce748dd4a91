"""From a change to a container that has it: which firm item is changed, who signs it, and what becomes of it.

An update always brings a whole firm item, and builds on none before it: whichever of several a customer applies, the
latest one has everything, and after it no earlier one is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from msgspec import Struct

from cmserverd.cmboxpgm import files
from cmserverd.cmboxpgm.ledger import Enrolled, Ledger, Programmed
from drivers import firm_item, keys, update
from drivers.container import EARLIEST, FirmItem
from drivers.driver import Device, DriverError, Faulty
from drivers.firm_item import Owner
from drivers.image import IMAGE_LIMIT, Image
from drivers.trust import ED25519

_RECORD: Final = 106
"""Bytes that a firm item takes in an image besides those that its licensor signs (`docs/drivers.md`)."""

Change = Callable[[FirmItem], FirmItem]


class Target(Struct, frozen=True):
    """What is to be programmed: a container's image of `length` bytes, and the open device or the update's place."""

    image: Image
    length: int
    place: Device | Path


def program(book: Ledger, target: Target, firm_code: int, private: bytes, change: Change) -> FirmItem:
    """Have the change in the container, or in the update file, and in the ledger; return the new firm item.

    Raises DriverError; then nothing is changed, unless only the ledger could not be written: the container's own
    update counter then says what is there.
    """
    entry = book.enrolled(target.image)
    owner = target.image.owner
    after = change(_present(target.image, entry, firm_code, keys.public_of(private)))
    octets = update.encode_firm(owner, after, update.ANY, private)
    signed = firm_item.encode(after, owner)
    _check_room(target, firm_code, signed)
    programmed = Programmed(firm_code, after.update_counter, keys.public_of(private), signed)
    _deliver(octets, target.place, lambda: book.keep(entry.after(programmed)))
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
    first = next(iter(target.image.sealed.values()), None)
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
    return max(candidates, key=lambda item: item.update_counter, default=FirmItem(firm_code))


def _decoded(signed: bytes, owner: Owner) -> FirmItem:
    """Return a firm item. Raises DriverError if there is more in it than can be written again."""
    found = firm_item.decode(signed)
    if firm_item.encode(found, owner) != signed:
        msg = f"Firm item {found.firm_code} has something that this software does not know and would drop; update it."
        raise DriverError(msg)
    return found


def _check_room(target: Target, firm_code: int, signed: bytes) -> None:
    """Raise DriverError if the container would be too full; its own refusal would come too late for a customer."""
    sealed = target.image.sealed.get(firm_code)
    before = 0 if sealed is None else len(sealed.octets) + _RECORD
    needed = target.length - before + len(signed) + _RECORD
    if needed > IMAGE_LIMIT:
        msg = (
            f"Container {target.image.container.id} is full: it would have {needed} bytes, the most is {IMAGE_LIMIT}; "
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
