"""What must hold for whatever bytes come: one function for each parser, which raises anything if it does not.

Nothing is raised but what the parser documents, and what it accepts is what its encoder would have written. The first
byte of most inputs says whether they are taken as they are or sealed first (`tests.fuzz.sealing`).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from msgspec.structs import astuple, replace

from drivers import firm_item, image, keys, request, state, statement, update
from drivers.chip import contents
from drivers.chip import update as chip_update
from drivers.chip.flash import LATEST, SECTOR
from drivers.chip.log import whole
from drivers.chip.seal import Seal
from drivers.container import Container, FirmItem
from drivers.cursor import Cursor
from drivers.driver import Faulty, ImageError, Purpose, Signed
from drivers.firm_item import Owner
from drivers.image import SigningKeys
from drivers.state import State
from drivers.trust import ED25519
from protocol import messages, rpc
from tests.drivers import older
from tests.drivers.chips import chip_on, flash_of
from tests.drivers.samples import CONTAINER_KEY, EVERYBODY, FIRM_CODE, LICENSOR, LICENSOR_KEY, OWNER, TRUST
from tests.fuzz import loans, sealing

Target = Callable[[bytes], bool]
"""Returns whether the parser accepted the input."""

AS_IT_IS, SEALED = b"\0", b"\1"
"""What an input begins with: its other bytes are taken as they are, or sealed first."""

_OWNER: Final = firm_item.encode_owner(OWNER)
_UNSIGNED: Final = replace(OWNER, key_algorithm=0, key=bytes(keys.LENGTH))
_PLAIN: Final = firm_item.encode_owner(_UNSIGNED)
_MESSAGE_LENGTH: Final = 129
_LIMITS: Final = (rpc.BEFORE_GREETING, rpc.FROM_CLIENT, rpc.FROM_OPERATOR, rpc.FROM_SERVER)


def _prepared(octets: bytes, seal: Callable[[bytes], bytes]) -> bytes:
    return seal(octets[1:]) if octets[:1] == SEALED else octets[1:]


# --- what a licensor signs ------------------------------------------------------------------------------------------


def firm_item_target(octets: bytes) -> bool:
    """The signed bytes of a firm item: whatever is read from them, the chip reads too, and it can be written again."""
    try:
        owner, item = firm_item.owner_of(octets), firm_item.decode(octets)
    except ImageError:
        return False
    if item.firm_code:
        _chip_reads_it(octets, item)
    if not any(product.unusable for product in item.products):
        _check_rewritten(octets, owner, item)
    return True


def _chip_reads_it(octets: bytes, item: FirmItem) -> None:
    """The firmware, which knows nothing of our parser, sees the same product items, units and usage periods."""
    read = contents.read_firm(b"", octets, b"")
    assert (read.code, read.counter) == (item.firm_code, item.update_counter)
    assert {number: _allowances(each) for number, each in read.products.items()} == {
        product.reference: (
            product.product_code,
            product.units and (product.units.amount, product.units.generation),
            product.usage and (product.usage.amount, product.usage.generation),
        )
        for product in item.products
    }


def _allowances(product: contents.Product) -> tuple[object, ...]:
    units, usage = product.units, product.usage
    return (
        product.code,
        units and (units.amount, units.generation),
        usage and (usage.amount, usage.generation),
    )


def _check_rewritten(octets: bytes, owner: Owner, item: FirmItem) -> bool:
    """Demand that the item can be written and read; return whether these are just the bytes that are written for it.

    They are others if options stand in another order, say nothing, or are unknown and not critical.
    """
    written = firm_item.encode(item, owner)
    assert firm_item.decode(written) == item
    return written == octets


# --- what a container holds -----------------------------------------------------------------------------------------


def state_target(octets: bytes) -> bool:
    """A state slot, signed or not: what is read, written again, is the slot, byte by byte."""
    kind, body = octets[:1], octets[1:]
    owner = OWNER if kind == SEALED else _UNSIGNED
    slot = sealing.slot(body, _OWNER if kind == SEALED else _PLAIN)
    try:
        found = state.decode_whole(slot, owner)
    except ImageError:
        return False
    assert state.encode(found, len(slot), owner, _private(owner), padded=True) == slot
    return True


def changes_target(octets: bytes) -> bool:
    """A whole state with changes behind it, signed or not: it can be written as one, and the chip reads the same."""
    kind, body = octets[:1], octets[1:]
    owner = OWNER if kind == SEALED else _UNSIGNED
    sealed = sealing.state(body, _OWNER if kind == SEALED else _PLAIN)
    try:
        found = state.decode(sealed, owner)
    except ImageError:
        return False
    written = state.encode(found, len(sealed), owner, _private(owner))
    assert state.decode(written, owner) == found
    if owner is OWNER:
        flash = flash_of()
        flash.write(1, sealed.ljust(SECTOR, b"\xff"))
        read = chip_on(flash)._state
        assert (read.sequence, read.floor, read.nonce, read.asked) == (
            found.sequence,
            found.time_floor,
            found.nonce,
            found.asked,
        )
        assert [(*item, *used) for item, used in read.used.items()] == [*map(astuple, found.items)]
        assert [(name, *loan) for name, loan in read.loans.items()] == [*map(astuple, found.loans)]
        assert [(key, *receipt) for key, receipt in read.receipts.items()] == [*map(astuple, found.receipts)]
    return True


def _private(owner: Owner) -> bytes | None:
    return CONTAINER_KEY if owner.key_algorithm else None


def image_target(octets: bytes) -> bool:
    """An image: what is read, written again, is the image; the chip reads the same; belief is for the listed alone."""
    octets = _prepared(octets, sealing.image)
    try:
        found = image.parse(octets, EVERYBODY)
    except ImageError:
        return False
    if found.owner.key in {OWNER.key, bytes(keys.LENGTH)} and _version(octets) == 1:
        first, second = octets[found.fixed_length :][: found.state_limit], octets[-found.state_limit :]
        written = state.encode(found.state, found.state_limit, found.owner, _private(found.owner), padded=True)
        assert written in {first, second}
    _check_belief(octets, found)
    if not any(firm.unusable or any(item.unusable for item in firm.products) for firm in found.container.firm_items):
        _check_image(octets, found)
    return True


def _check_image(octets: bytes, found: image.Image) -> None:
    container, fixed = found.container, octets[: found.fixed_length]
    read = contents.Contents(fixed)
    assert read.owner == firm_item.encode_owner(found.owner)
    assert list(read.firms) == [firm.firm_code for firm in container.firm_items]
    canonical = [_check_rewritten(found.sealed[each.firm_code].octets, found.owner, each) for each in _pure(container)]
    if all(canonical) and (signing := _signing(found)):
        if _version(octets) == 1:
            written = older.encode(container, (State(), State()), found.state_limit, signing[0])
        elif found.state_limit == image.STATE_LIMIT:
            written = image.encode(container, signing=signing[0])
        else:
            return
        assert written[: len(fixed)] == fixed


def _version(octets: bytes) -> int:
    return int.from_bytes(octets[8:10], "little")


def _pure(container: Container) -> list[FirmItem]:
    return [firm_item.pure(firm) for firm in container.firm_items]


def _signing(found: image.Image) -> tuple[SigningKeys | None] | None:
    """Return the keys with which the image was made, if they are those of the samples."""
    signed = {code: item.licensor for code, item in found.sealed.items() if item.algorithm}
    if {item.algorithm for item in found.sealed.values()} - {0, ED25519}:
        return None
    if set(signed.values()) - {LICENSOR} or found.owner.key not in {OWNER.key, bytes(keys.LENGTH)}:
        return None
    if not found.owner.key_algorithm:
        return None if signed else (None,)
    return (SigningKeys(CONTAINER_KEY, dict.fromkeys(signed, LICENSOR_KEY)),)


def _check_belief(octets: bytes, found: image.Image) -> None:
    """Whoever lists one licensor believes what that one signed for this very container, and nothing else."""
    for firm in image.decode(octets, TRUST).firm_items:
        sealed = found.sealed[firm.firm_code]
        if firm.unusable:
            assert firm == FirmItem(firm.firm_code, unusable=firm.unusable)
        else:
            assert firm.firm_code == FIRM_CODE
            assert keys.verify(LICENSOR, sealed.signature, sealed.octets)
            assert firm_item.encode_owner(found.owner) in sealed.octets


# --- what comes and goes as a file ----------------------------------------------------------------------------------


def update_target(octets: bytes) -> bool:
    """An update: what is read, written again, is the update; what the chip makes of it, the daemon can read."""
    octets = _prepared(octets, sealing.update)
    try:
        found = update.decode(octets)
    except ImageError:
        found = None
    if found is not None and found.licensor == LICENSOR:
        _check_update(octets, found)
    _apply(octets, sound=found is not None)
    return found is not None


def _check_update(octets: bytes, found: update.FirmUpdate | update.TimeUpdate) -> None:
    if isinstance(found, update.TimeUpdate):
        assert update.encode_time(found.owner, found.nonce, found.time, LICENSOR_KEY) == octets
    elif not any(product.unusable for product in found.item.products):
        written = update.encode_firm(found.owner, found.item, found.base, LICENSOR_KEY)
        assert update.decode(written) == found
        if firm_item.encode(found.item, found.owner) in octets:
            assert written == octets


def _apply(octets: bytes, *, sound: bool) -> None:
    """The firmware takes it or refuses it; if the daemon would have passed it on, the daemon reads what comes of it."""
    try:
        fixed, after = chip_update.applied(octets, _CHIP._contents, _CHIP._state)
    except chip_update.Refused:
        return
    if sound and len(fixed or b"") <= image.FIXED_LIMIT:
        image.parse((_CHIP._banks.fixed if fixed is None else fixed) + whole(after, LATEST, _SEAL), EVERYBODY)


_CHIP: Final = chip_on(flash_of())
_SEAL: Final = Seal(_OWNER, CONTAINER_KEY)


def request_target(octets: bytes) -> bool:
    """A customer's request: what is read, written again, is the request, and its container has signed all of it."""
    octets = _prepared(octets, sealing.request)
    try:
        found = request.decode(octets)
    except ImageError:
        return False
    signature, message = octets[-keys.SIGNATURE_LENGTH - _MESSAGE_LENGTH : -_MESSAGE_LENGTH], octets[-_MESSAGE_LENGTH:]
    assert request.encode(found.octets, Signed(message, signature)) == octets
    assert keys.verify(found.image.owner.key, signature, message)
    return True


def statement_target(octets: bytes) -> bool:
    """What a container signed when it was asked something: accepted is an answer to just that."""
    cursor = Cursor(octets, "the input")
    try:
        number, length = cursor.unpack(struct.Struct("<BB"))
        body, message = cursor.take(length), cursor.rest()
    except ImageError:
        return False
    purpose = sorted(Purpose)[number % len(Purpose)]
    try:
        statement.check(purpose, body, OWNER, Signed(message, keys.sign(CONTAINER_KEY, message)))
    except Faulty:
        return False
    beginning = b"cmsign\x00" + bytes([2 if purpose is Purpose.CRYPT else 1, purpose]) + _OWNER
    assert message.startswith(beginning)
    said = message[len(beginning) :]
    if purpose is Purpose.CRYPT:
        nonce, asked = body[1:-40], struct.unpack("<IIqQ16s", body[-40:])
        firm_code, _, reference, _, time, handle, key, units, left, start = struct.unpack("<IIIIqQ16sIIq", said[-64:])
        assert body == statement.crypt_body(nonce, *asked)
        assert said[:-64] == bytes([len(nonce)]) + nonce
        assert (firm_code, reference, handle, key) == (asked[0], asked[1], *asked[3:])
        assert time >= asked[2]
        counts = statement.counts(Signed(message, b""))
        assert counts == statement.Counts(units, None if left == 2**32 - 1 else left, start)
        assert start >= 0
    elif purpose is Purpose.BORROW:
        certificate = statement.lent(Signed(message, b""))
        assert said == struct.pack("<16s32s32sIIIIIqq", *astuple(certificate))
        assert body == statement.borrow_body(certificate.id, certificate.station)
        assert certificate.quantity
    elif purpose is Purpose.TRACKING:
        *record, now = struct.unpack("<QQ32sq", body)
        time = statement.vouched(message, keys.sign(CONTAINER_KEY, message)).time
        assert said == struct.pack("<QQ32sq", *record, time)
        assert time >= now
    else:
        assert said[:32] == body
        assert len(said) == {Purpose.PRESENCE: 40, Purpose.REQUEST: 80}[purpose]
    return True


# --- the wire -------------------------------------------------------------------------------------------------------


def rpc_target(octets: bytes) -> bool:
    """A peer's bytes: cut anywhere they give the same messages, and a request that is read can be written again."""
    limits, cut, stream = _LIMITS[int.from_bytes(octets[:1]) % len(_LIMITS)], octets[1:2], octets[2 : 2 + rpc.CHUNK]
    whole = _read(stream, limits, len(stream) or 1)
    assert repr(_read(stream, limits, 1 + int.from_bytes(cut))) == repr(whole)  # what is no number equals nothing
    for message in whole:
        if isinstance(message, rpc.Request) and message.method in messages.METHODS:
            _check_request(message, messages.METHODS[message.method])
    return any(not isinstance(message, str) for message in whole)


def _read(stream: bytes, limits: rpc.MessageLimits, size: int) -> list[rpc.Message | str]:
    """Return the messages in these bytes, which come `size` at a time; faults by their names, until the last one."""
    reader = rpc.Reader(limits)
    found: list[rpc.Message | str] = []
    for start in range(0, len(stream), size):
        reader.feed(stream[start : start + size])
        try:
            while (message := _next(reader)) is not None:
                found.append(message)
        except rpc.CodecError:
            return [*found, "dead"]
    return found


def _next(reader: rpc.Reader) -> rpc.Message | str | None:
    try:
        return reader.next()
    except rpc.BadMessage as error:
        return f"{error.msgid}: {error}"


def _check_request(asked: rpc.Request, kind: type[messages.Params]) -> None:
    try:
        params = rpc.parameters(asked, kind)
    except rpc.BadMessage:
        return
    reader = rpc.Reader(rpc.FROM_SERVER)
    reader.feed(rpc.encode_request(asked.msgid, params))
    again = reader.next()
    assert isinstance(again, rpc.Request)
    assert repr(rpc.parameters(again, kind)) == repr(params)


TARGETS: Final[dict[str, Target]] = {
    "firm_item": firm_item_target,
    "state": state_target,
    "changes": changes_target,
    "image": image_target,
    "update": update_target,
    "request": request_target,
    "statement": statement_target,
    "rpc": rpc_target,
    "loan_file": loans.loan_file_target,
    "certificate": loans.certificate_target,
    "loan_store": loans.loan_store_target,
}
"""The targets by their names, which are those of the folders in `corpus`."""
