"""The chip's commands: a payload comes, a status and a payload go. Whatever brings them is another matter.

A command that changes something is answered once it is safe in the flash. Calls must not overlap.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from dataclasses import replace
from enum import IntEnum
from hashlib import sha256
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from drivers.chip.banks import Banks, Damaged
from drivers.chip.contents import Contents, Malformed, Product
from drivers.chip.flash import FIXED_LIMIT, Flash
from drivers.chip.loans import given_back, lent, standing
from drivers.chip.log import Full, Log
from drivers.chip.seal import TAIL, Seal
from drivers.chip.state import NO_NONCE, Loan, Receipt, State, Used, latest, size
from drivers.chip.status import (
    ALREADY_MADE,
    BAD_REQUEST,
    COUNTER_ZERO,
    NO_COUNTER,
    NO_ITEM,
    NO_ROOM,
    OK,
    OUT_OF_RANGE,
    UNDERRUN,
    UNKNOWN_COMMAND,
    UNSUPPORTED,
    No,
    expect,
)
from drivers.chip.update import LATEST, Refused, applied

PAYLOAD_LIMIT: Final = 4096
VERSION: Final = 1

_UPDATE_LIMIT: Final = 64 * 1024
_WITHOUT_UNITS: Final = 2**32 - 1
_NO_KEY: Final = bytes(16)

_SIGN_PREFIX: Final = b"cmsign\x00"
_CRYPT_BODY: Final = struct.Struct("<IIqQ16s")
_CRYPT_SAID: Final = struct.Struct("<IIIIqQ16sIIq")
_CONSUME_BODY: Final = struct.Struct("<16sIIIq")
_BORROW_BODY: Final = struct.Struct("<16sIIIqq32s")
_RETURN_BODY: Final = struct.Struct("<16sq64s")
_CERTIFICATE_BODY: Final = struct.Struct("<16s32s")
_CERTIFICATE_SAID: Final = struct.Struct("<32sIIIIIqq")
_TRACKING_BODY: Final = struct.Struct("<QQ32sq")
_PIECE: Final = struct.Struct("<II")
_I64: Final = struct.Struct("<q")

Answer = tuple[int, bytes]


class Command(IntEnum):
    """The commands."""

    INFO = 1
    READ_IMAGE = 2
    SIGN = 16
    CONSUME = 17
    APPLY = 18
    TIME = 19
    NONCE = 20
    INIT = 21
    BORROW = 22
    RETURN = 23


class _Purpose(IntEnum):
    PRESENCE = 1
    CRYPT = 2
    REQUEST = 3
    BORROW = 4
    TRACKING = 5


_VERSIONS: Final = {**dict.fromkeys(_Purpose, 1), _Purpose.CRYPT: 2}
"""Of what is signed for each purpose."""


class Memory:
    """A dongle without a key: it holds an image, understands nothing of it, and can only be read."""

    def __init__(self, image: bytes) -> None:
        self._octets = image

    @property
    def image(self) -> bytes:
        """The image as it is read."""
        return self._octets

    def answer(self, command: int, payload: bytes) -> Answer:
        """Return status and payload of the reply."""
        try:
            if len(payload) > PAYLOAD_LIMIT:
                raise No(BAD_REQUEST)
            return OK, self._run(command, payload)
        except No as refusal:
            return refusal.status, b""
        except struct.error:  # the payload has another length
            return BAD_REQUEST, b""

    def _run(self, command: int, payload: bytes) -> bytes:
        match command:
            case Command.INFO:
                expect(payload == b"")
                return struct.pack("<BBHI", VERSION, VERSION, PAYLOAD_LIMIT, len(self.image))
            case Command.READ_IMAGE:
                offset, length = struct.unpack("<IH", payload)
                if length > PAYLOAD_LIMIT or offset + length > len(self.image):
                    raise No(OUT_OF_RANGE)
                return self.image[offset : offset + length]
            case Command.INIT:
                raise No(ALREADY_MADE)
            case _:
                raise No(UNSUPPORTED if command in set(Command) else UNKNOWN_COMMAND)


class Chip(Memory):
    """A dongle with a key, which signs, counts and takes updates.

    Raises Damaged if its flash has no sound image, Newer if a later version made it.
    """

    def __init__(self, flash: Flash, private: bytes, random: Callable[[int], bytes] = os.urandom) -> None:
        self._flash = flash
        self._private = private
        self._key = Ed25519PrivateKey.from_private_bytes(private)
        self._random = random
        self._start()

    def _start(self) -> None:
        """Take what the flash holds, and nothing else, for what the container is."""
        self._banks = Banks(self._flash)
        try:
            self._contents = Contents(self._banks.fixed)
        except Malformed:
            raise Damaged from None
        self._log = Log(self._banks, Seal(self._contents.owner, self._private))
        self._update = b""
        self._certain = True

    def answer(self, command: int, payload: bytes) -> Answer:
        """Return status and payload of the reply.

        Raises what the flash raises. Then nobody knows what of a change is in it: it starts anew before it answers
        anything else, or it would build on what is not there, or deny what is.
        """
        if not self._certain:
            self._start()
        self._certain = False
        answered = super().answer(command, payload)
        self._certain = True
        return answered

    @property
    def image(self) -> bytes:
        """The image as it is read."""
        return self._banks.fixed + self._log.image

    @property
    def _state(self) -> State:
        return self._log.state

    def _run(self, command: int, payload: bytes) -> bytes:
        match command:
            case Command.SIGN:
                expect(payload != b"")
                return self._sign(payload[0], payload[1:])
            case Command.CONSUME:
                return self._consume(*_CONSUME_BODY.unpack(payload))
            case Command.APPLY:
                offset, total = _PIECE.unpack_from(payload)
                return self._gather(offset, total, payload[_PIECE.size :])
            case Command.TIME:
                return self._time(*_I64.unpack(payload))
            case Command.NONCE:
                expect(payload == b"")
                return self._nonce()
            case Command.BORROW:
                return self._borrow(*_BORROW_BODY.unpack(payload))
            case Command.RETURN:
                return self._return(*_RETURN_BODY.unpack(payload))
            case _:
                return super()._run(command, payload)

    def _commit(self, state: State) -> None:
        """Make this the state, with the next sequence number."""
        try:
            self._log.put(replace(state, sequence=self._state.sequence + 1))
        except Full:
            raise No(NO_ROOM) from None

    def _later(self, time: int) -> int:
        """Return the floor that this license time makes."""
        expect(0 <= time <= LATEST)
        return max(self._state.floor, time)

    # --- signing ----------------------------------------------------------------------------------------------------

    def _sign(self, purpose: int, body: bytes) -> bytes:
        match purpose:
            case _Purpose.PRESENCE:
                composed = self._nonced(body)
            case _Purpose.CRYPT:
                composed = self._crypt(body)
            case _Purpose.REQUEST:
                composed = self._nonced(body) + _I64.pack(self._state.floor) + sha256(self.image).digest()
            case _Purpose.BORROW:
                composed = body + self._certificate(*_CERTIFICATE_BODY.unpack(body))
            case _Purpose.TRACKING:
                *said, time = _TRACKING_BODY.unpack(body)
                composed = _TRACKING_BODY.pack(*said, self._later(time))
            case _:
                raise No(UNSUPPORTED)
        statement = _SIGN_PREFIX + bytes([_VERSIONS[_Purpose(purpose)], purpose]) + self._contents.owner + composed
        return self._key.sign(statement) + statement

    def _nonced(self, nonce: bytes) -> bytes:
        expect(len(nonce) == len(NO_NONCE))
        return nonce + struct.pack("<Q", self._state.sequence)

    def _crypt(self, body: bytes) -> bytes:
        length = body[0] if body else 0
        expect(16 <= length <= 64)
        nonce = body[: 1 + length]
        firm_code, reference, time, handle, key = _CRYPT_BODY.unpack(body[1 + length :])
        product = self._product(firm_code, reference)
        counter = self._contents.firms[firm_code].counter
        said = (firm_code, product.code, reference, counter, self._later(time), handle)
        units, start = self._state.used.get((firm_code, reference), Used())
        receipt = self._state.receipts.get(key)
        if receipt is None or receipt[:2] != (firm_code, reference):
            receipt = Receipt(firm_code, reference, 0, _units_left(product, units))
        return nonce + _CRYPT_SAID.pack(*said, key, receipt.units, receipt.units_left, start)

    def _certificate(self, name: bytes, _station: bytes) -> bytes:
        loan = standing(self._state, self._state.floor).get(name)
        if loan is None:
            raise No(NO_ITEM)
        firm_code, reference, quantity, end, holder = loan
        product = self._product(firm_code, reference)
        counter = self._contents.firms[firm_code].counter
        return _CERTIFICATE_SAID.pack(
            holder, firm_code, product.code, reference, counter, quantity, self._state.floor, end
        )

    def _product(self, firm_code: int, reference: int) -> Product:
        product = self._contents.product(firm_code, reference)
        if product is None:
            raise No(NO_ITEM)
        return product

    # --- counting ---------------------------------------------------------------------------------------------------

    def _consume(self, key: bytes, firm_code: int, reference: int, delta: int, time: int) -> bytes:
        floor = self._later(time)
        expect(key != _NO_KEY or not delta)
        receipt = self._state.receipts.get(key)
        if receipt is None:
            receipt = self._use(firm_code, reference, delta, floor, key)
        expect(receipt[:2] == (firm_code, reference))
        present = self._state.used.get((firm_code, reference), Used())
        return struct.pack("<IqI", receipt.units_left, present.start, present.units)

    def _use(self, firm_code: int, reference: int, delta: int, floor: int, key: bytes) -> Receipt:
        product = self._product(firm_code, reference)
        units, start = self._state.used.get((firm_code, reference), Used())
        if product.units is not None:
            before = _units_left(product, units)
            if delta > before:
                raise No(UNDERRUN if before else COUNTER_ZERO)
            units += delta
        elif delta:
            raise No(NO_COUNTER)
        if product.usage is not None and not start:
            start = max(floor, 1)  # 0 says that it has not begun
        used = dict(self._state.used)
        if units or start:
            used[firm_code, reference] = Used(units, start)
        receipt = Receipt(firm_code, reference, delta, _units_left(product, units))
        remembered = latest({**self._state.receipts, **({} if key == _NO_KEY else {key: receipt})})
        self._commit(replace(self._state, floor=floor, used=used, receipts=remembered))
        return receipt

    # --- lending ----------------------------------------------------------------------------------------------------

    def _borrow(
        self, name: bytes, firm_code: int, reference: int, quantity: int, end: int, time: int, holder: bytes
    ) -> bytes:
        loan = Loan(firm_code, reference, quantity, end, holder)
        state = lent(self._state, self._contents, self._later(time), name, loan)
        if state is not None:
            self._commit(state)
        return _I64.pack(self._state.loans[name].end)

    def _return(self, name: bytes, time: int, signature: bytes) -> bytes:
        state = given_back(self._state, self._contents.owner, self._later(time), name, signature)
        if state is not None:
            self._commit(state)
        return bytes([state is not None])

    # --- updates and time -------------------------------------------------------------------------------------------

    def _gather(self, offset: int, total: int, piece: bytes) -> bytes:
        """Take the next piece of an update, or the one before once more; apply it with the last one."""
        expect(0 < total <= _UPDATE_LIMIT and bool(piece) and offset + len(piece) <= total)
        before = self._update if offset else b""
        expect(before[offset : offset + len(piece)] in {b"", piece} and len(before) >= offset)
        self._update = before[:offset] + piece
        if len(self._update) == total:
            self._apply(self._update)
        return b""

    def _apply(self, update: bytes) -> None:
        try:
            fixed, state = applied(update, self._contents, self._state)
        except Refused as refusal:
            raise No(refusal.status) from None
        if fixed is None:
            self._commit(state)
            return
        contents = Contents(fixed)
        needed = size(len(state.used.keys() | contents.counted), len(state.loans)) + TAIL
        # Without loans, who makes the items may have more of them than are ever used.
        if len(fixed) > FIXED_LIMIT or (state.loans and needed > contents.state_limit):
            raise No(NO_ROOM)
        self._log.replace(fixed, state)
        self._contents = contents

    def _time(self, time: int) -> bytes:
        floor = self._later(time)
        if floor > self._state.floor:
            self._commit(replace(self._state, floor=floor))
        return _I64.pack(floor)

    def _nonce(self) -> bytes:
        nonce = self._random(len(NO_NONCE))
        self._commit(replace(self._state, nonce=nonce, asked=self._state.floor))
        return nonce + _I64.pack(self._state.asked)


def _units_left(product: Product, used: int) -> int:
    """Return how many units of an item are left."""
    return _WITHOUT_UNITS if product.units is None else max(0, product.units.amount - used)
