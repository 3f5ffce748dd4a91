"""An open container that speaks the commands of `drivers.wire`, whatever brings them to it: USB, or a file's chip.

What it answers is held against what it was asked before anybody believes it.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from drivers import image, statement, update, wire
from drivers.container import ContainerId, ContainerKind, Loan, mask_and_serial
from drivers.driver import Faulty, Purpose, Signed, Used
from drivers.firm_item import Owner
from drivers.trust import ED25519, NOBODY
from drivers.wire import Command

Exchange = Callable[[Command, bytes], bytes]
"""Brings a command's payload to the container and returns that of its answer; raises DriverError for any other."""


class ChipDevice:
    """The `drivers.driver.Device` over an exchange, but for its `close`. Containers of `kind` are the driver's."""

    def __init__(self, exchange: Exchange, kind: ContainerKind) -> None:
        self._exchange = exchange
        self._kind = kind
        self._owner: Owner | None = None

    def read(self) -> bytes:
        """Return the image: its length first, then chunk by chunk; the last check is that its kind is the driver's."""
        info = self._info()
        if not info.image_length:
            raise wire.empty()
        octets = b""
        while len(octets) < info.image_length:
            length = min(info.payload_limit, info.image_length - len(octets))
            chunk = self._exchange(Command.READ_IMAGE, wire.encode_chunk(len(octets), length))
            if len(chunk) != length:
                msg = f"The dongle gave {len(chunk)} bytes of its image instead of {length}; plug it in again."
                raise Faulty(msg)
            octets += chunk
        owner = image.parse(octets, NOBODY).owner
        if owner.kind is not self._kind:
            msg = f"The dongle says that it is {owner.kind}, but it is {self._kind}; have it programmed again."
            raise Faulty(msg)
        self._owner = owner
        return octets

    def sign(self, purpose: Purpose, body: bytes) -> Signed:
        """Have the container sign what it composes for this purpose; it is checked, and so is the signature."""
        signature, message = wire.decode_signed(self._exchange(Command.SIGN, bytes([purpose]) + body))
        if self._owner is None:
            self.read()
        assert self._owner is not None
        signed = Signed(message, signature)
        statement.check(purpose, body, self._owner, signed)
        return signed

    def consume(self, firm_code: int, reference: int, delta: int, key: bytes, now: int) -> Used:
        """Have the container count `delta` units, and begin the item's usage period."""
        return wire.decode_used(self._exchange(Command.CONSUME, wire.encode_use(key, firm_code, reference, delta, now)))

    def apply(self, octets: bytes) -> None:
        """Apply an update file; it is checked before it is sent."""
        update.decode(octets)
        limit = self._info().payload_limit - wire.PIECE_HEAD
        if limit < 1:
            msg = "The dongle takes no payload that an update could come in; exchange it."
            raise Faulty(msg)
        for offset in range(0, len(octets), limit):
            piece = octets[offset : offset + limit]
            self._exchange(Command.APPLY, wire.encode_piece(offset, len(octets), piece))

    def time(self, now: int) -> int:
        """Raise the time floor to `now`, 0 to leave it; return it."""
        return wire.decode_time(self._exchange(Command.TIME, wire.encode_time(now)))

    def nonce(self) -> tuple[bytes, int]:
        """Return a fresh nonce for a certified time, and the time floor."""
        return wire.decode_nonce(self._exchange(Command.NONCE, b""))

    def borrow(self, loan: Loan, now: int) -> int:
        """Have the container write a loan into its ledger, or a later end of one; return the end in force."""
        return wire.decode_end(self._exchange(Command.BORROW, wire.encode_loan(loan, now)), loan.end)

    def give_back(self, loan: bytes, signature: bytes, now: int) -> bool:
        """Have the container strike a loan off its ledger; return whether it was on it.

        The holder's signature is over `drivers.statement.return_receipt`.
        """
        return wire.decode_stood(self._exchange(Command.RETURN, wire.encode_return(loan, signature, now)))

    def is_empty(self) -> bool:
        """Whether nobody has made a container of it yet: then `init` can, and most others raise `Empty`."""
        return not self._info().image_length

    def init(self, name: ContainerId, text: str) -> bytes:
        """Make a container without firm items, and return the public key that belongs to the key which it made itself.

        What it then holds, and that it has that key, is checked. Raises Refused if it is a container already,
        ValueError for a text that no container may have.
        """
        mask, serial = mask_and_serial(name)
        public = wire.decode_public(self._exchange(Command.INIT, wire.encode_init(mask, serial, text)))
        made = image.parse(self.read(), NOBODY)
        if made.owner != Owner(mask, serial, self._kind, ED25519, public) or made.container.text != text:
            msg = "The dongle made another container than it was told to; have it exchanged."
            raise Faulty(msg)
        self.sign(Purpose.PRESENCE, os.urandom(statement.NONCE_LENGTH))
        return public

    def _info(self) -> wire.Info:
        return wire.decode_info(self._exchange(Command.INFO, b""))
