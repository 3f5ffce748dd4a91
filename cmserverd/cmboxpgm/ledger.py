"""The licensor's ledger: which containers are his customers', and what he programmed into each.

One JSON file. It decides whose requests are answered: everybody can make up a container, with a key of his own, that
says that it is a dongle. A lost ledger is made again by enrolling the containers from requests.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from cmserverd.cmboxpgm import files
from drivers import firm_item, keys
from drivers.container import ContainerId, ContainerKind, FirmItem, mask_and_serial
from drivers.driver import Busy, DriverError, Faulty
from drivers.firm_item import Owner, SealedItem
from drivers.image import Image
from drivers.trust import ED25519

LIMIT: Final = 256 * 2**20
"""The most bytes of a ledger: a hundred thousand containers."""
_VERSION: Final = 1

_U32 = Annotated[int, Meta(ge=0, le=2**32 - 1)]
_Key = Annotated[bytes, Meta(min_length=keys.LENGTH, max_length=keys.LENGTH)]


class Programmed(Struct, frozen=True, forbid_unknown_fields=True):
    """A firm item as it was last programmed: who signed it, and the bytes that he signed."""

    firm_code: _U32
    update_counter: _U32
    licensor: _Key
    signed: bytes

    def item(self, owner: Owner) -> FirmItem:
        """Return the firm item. Raises DriverError if the ledger was damaged."""
        decoded = firm_item.decode(self.signed)
        if (decoded.firm_code, decoded.update_counter) != (self.firm_code, self.update_counter) or (
            firm_item.owner_of(self.signed) != owner
        ):
            msg = f"The ledger is damaged: its firm item {self.firm_code} is another one than it says; restore a copy."
            raise Faulty(msg)
        return decoded


class Enrolled(Struct, frozen=True, forbid_unknown_fields=True):
    """A container whose requests are answered. `sequence` is the latest of its states that was seen.

    `clock` is the key that certified its time when it was enrolled, None if none did.
    """

    id: ContainerId
    kind: ContainerKind
    key: _Key
    sequence: Annotated[int, Meta(ge=0)]
    firm_items: tuple[Programmed, ...] = ()
    clock: _Key | None = None

    def __post_init__(self) -> None:
        mask_and_serial(self.id)

    @property
    def owner(self) -> Owner:
        """The container as images and updates name it."""
        return Owner(*mask_and_serial(self.id), self.kind, ED25519, self.key)

    def programmed(self, firm_code: int) -> Programmed | None:
        """Return what was last programmed under a firm code, None if nothing was."""
        return next((each for each in self.firm_items if each.firm_code == firm_code), None)

    def accepts_clock(self, licensor: bytes) -> bool:
        """Whether this key may certify the container's time: it did at the enrolment, or programmed it from here."""
        return licensor == self.clock or any(licensor == each.licensor for each in self.firm_items)

    def after(self, now: Programmed) -> Enrolled:
        """Return this entry once a firm item was programmed."""
        others = (each for each in self.firm_items if each.firm_code != now.firm_code)
        return replace(self, firm_items=tuple(sorted((*others, now), key=lambda each: each.firm_code)))


class _File(Struct, frozen=True, forbid_unknown_fields=True):
    version: int
    containers: tuple[Enrolled, ...]


class Ledger:
    """The ledger at `path`, which nobody else changes meanwhile."""

    def __init__(self, path: Path, containers: tuple[Enrolled, ...]) -> None:
        self._path = path
        self._containers = {each.id: each for each in containers}
        if len(self._containers) < len(containers):
            msg = f"The ledger {path} is damaged: it has a container twice; restore a copy."
            raise Faulty(msg)

    @property
    def containers(self) -> tuple[Enrolled, ...]:
        """All entries, in the order of their ids."""
        return tuple(sorted(self._containers.values(), key=lambda each: mask_and_serial(each.id)))

    def enroll(self, image: Image, *, older: bool = False) -> bool:
        """Accept a container, and its present state; return whether it is new here. Raises DriverError.

        `older`: it may be one that was enrolled, in a state that is older than one that was seen.
        """
        name, owner = image.container.id, image.owner
        if owner.key_algorithm != ED25519:
            msg = f"Container {name} has no key, so that nobody can tell it from a copy; use one that has."
            raise DriverError(msg)
        before = self._containers.get(name)
        if before is not None and before.owner != owner:
            raise _another(name)
        if before is not None and not older:
            _check_state(before, image)
        entry = Enrolled(name, owner.kind, owner.key, image.state.sequence) if before is None else before
        first = clock_of(image)
        self.keep(
            replace(
                entry,
                sequence=image.state.sequence,
                clock=None if first is None else first.licensor,
                firm_items=tuple(_accepted(each, image) for each in entry.firm_items),
            )
        )
        return before is None

    def enrolled(self, image: Image) -> Enrolled:
        """Return the entry of a container, with its present state.

        Raises DriverError if it is not enrolled, or its state is older than one that was seen before.
        """
        name = image.container.id
        found = self._containers.get(name)
        if found is None:
            msg = (
                f"Container {name} is not enrolled in {self._path}; if you know that it is your customer's, "
                "enroll it (cmboxpgm enroll)."
            )
            raise DriverError(msg)
        if found.owner != image.owner:
            raise _another(name)
        _check_state(found, image)
        return replace(found, sequence=image.state.sequence)

    def check_key(self, firm_code: int, licensor: bytes) -> None:
        """Raise DriverError if a firm code is programmed here with another key, or a key under other firm codes only.

        One of the two is a slip then, and a container would keep what it makes for ever.
        """
        known = {(each.firm_code, each.licensor) for entry in self.containers for each in entry.firm_items}
        if not known or (firm_code, licensor) in known:
            return
        codes = sorted(code for code, key in known if key == licensor)
        keys_of = sorted(keys.to_text(key) for code, key in known if code == firm_code)
        there = (
            f"firm code {firm_code} has the key {' and '.join(keys_of)}"
            if keys_of
            else f"this key has the firm code {' and '.join(map(str, codes))}"
            if codes
            else f"there are neither firm code {firm_code} nor this key"
        )
        msg = (
            f"In the ledger {self._path} {there}; correct --firm-code or --key. If they belong together, say "
            "--new-key: a container keeps a firm item's key for ever."
        )
        raise DriverError(msg)

    def keep(self, entry: Enrolled) -> None:
        """Write an entry into the ledger. Raises DriverError."""
        self._containers[entry.id] = entry
        octets = msgspec.json.encode(_File(_VERSION, self.containers))
        files.replace(self._path, msgspec.json.format(octets, indent=2) + b"\n")


@contextmanager
def opened(path: Path, *, new: bool = False) -> Iterator[Ledger]:
    """Give the ledger, and keep others from it; `new` if it need not be there yet. Raises DriverError."""
    try:
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        msg = f"The ledger {path} cannot be used: {error.strerror}; correct its name."
        raise DriverError(msg) from error
    try:
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            msg = f"Another cmboxpgm has the ledger {path}; let it end, then try again."
            raise Busy(msg) from None
        yield Ledger(path, () if new and not os.path.lexists(path) else read(path))
    finally:
        os.close(directory)


def read(path: Path) -> tuple[Enrolled, ...]:
    """Return the entries of a ledger. Raises DriverError if there is none, or it is damaged."""
    if not os.path.lexists(path):
        msg = f"There is no ledger {path}; correct its name, or begin one by enrolling a container."
        raise DriverError(msg)
    octets = files.read(path, LIMIT, "ledger", link=False)
    try:
        found = msgspec.json.decode(octets, type=_File)
    except msgspec.DecodeError as error:
        msg = f"The ledger {path} is damaged: {error}; restore a copy."
        raise Faulty(msg) from None
    if found.version != _VERSION:
        msg = f"The ledger {path} is of version {found.version}, which this software does not know; update it."
        raise Faulty(msg)
    return found.containers


def clock_of(image: Image) -> SealedItem | None:
    """Return the firm item whose licensor certifies a container's time: the first one, if it is signed."""
    first = next(iter(image.sealed.values()), None)
    return first if first is not None and first.algorithm == ED25519 else None


def _accepted(programmed: Programmed, image: Image) -> Programmed:
    """Return what counts as programmed once a container's state is accepted: of two with one counter, its own."""
    sealed = image.sealed.get(programmed.firm_code)
    if (
        sealed is None
        or firm_item.owner_of(sealed.octets) != image.owner
        or not keys.verify(programmed.licensor, sealed.signature, sealed.octets)
        or firm_item.decode(sealed.octets).update_counter != programmed.update_counter
    ):
        return programmed
    return replace(programmed, signed=sealed.octets)


def _check_state(seen: Enrolled, image: Image) -> None:
    """Raise DriverError if a container's state is older than one that was seen."""
    if image.state.sequence < seen.sequence:
        msg = (
            f"Container {seen.id} was seen in a later state (number {seen.sequence}, now {image.state.sequence}): "
            "the request is an old one, or an old copy of the container was put back. Have a new request made; "
            "if you accept the older state, enroll the container again and say --older."
        )
        raise DriverError(msg)


def _another(name: ContainerId) -> DriverError:
    return DriverError(
        f"Another container is enrolled as {name}: it has another key, and a container's key never changes. "
        "Find out which one is your customer's; the other one is made up."
    )
