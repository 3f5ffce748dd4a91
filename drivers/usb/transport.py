"""One open dongle's endpoints: a command goes out, its reply comes in, whole and checked.

pyusb blocks and cannot be interrupted, so every wait is cut into steps of 50 ms, and between them it is asked whether
to go on. A command that did not end well leaves unknown bytes in the dongle; the next one begins by discarding them.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

import usb.core

from drivers import wire
from drivers.driver import CheckCancelled, Faulty
from drivers.usb import frames
from drivers.usb.faults import translated

_T = TypeVar("_T")

ENDPOINT_OUT: Final = 0x01
ENDPOINT_IN: Final = 0x81
INTERFACE: Final = 0

_STEP_MS: Final = 50
_DISCARD_TYPE: Final = 0x41  # vendor request, to an interface, from the host
_DISCARD: Final = 1


class Transport:
    """Exchanges frames with a claimed device. `timeout` is the longest that one answer may take, in seconds."""

    def __init__(self, device: usb.core.Device, timeout: float, check_cancelled: CheckCancelled) -> None:
        self._device = device
        self._timeout = timeout
        self._check_cancelled = check_cancelled
        self._tag = 0
        self._clean = False

    def exchange(self, command: wire.Command, payload: bytes = b"") -> bytes:
        """Return the payload of the reply.

        After a stall the command is sent once more: each one changes nothing, or is of a kind of which a second one
        is harmless: it carries a key, or is refused as done already. Raises DriverError, and whatever
        `check_cancelled` raises.
        """
        with translated():
            try:
                return self._exchange(command, payload)
            except usb.core.USBError as error:
                if error.errno != errno.EPIPE:
                    raise
            self._device.clear_halt(ENDPOINT_OUT)
            self._device.clear_halt(ENDPOINT_IN)
            return self._exchange(command, payload)

    def _exchange(self, command: wire.Command, payload: bytes) -> bytes:
        deadline = time.monotonic() + self._timeout
        if not self._clean:
            self._step(
                lambda: self._device.ctrl_transfer(_DISCARD_TYPE, _DISCARD, 0, INTERFACE, b"", _STEP_MS), deadline
            )
        self._clean = False
        self._tag = (self._tag + 1) % 2**16
        self._write(frames.encode_command(command, self._tag, payload), deadline)
        first = self._read(frames.PACKET, deadline)
        header = frames.decode_reply_header(first)
        reply = self._whole(first, frames.HEADER_LENGTH + header.length, deadline)
        self._clean = header.tag == self._tag
        frames.check_reply(header, command, self._tag)
        wire.check_status(command, header.status)
        return reply[frames.HEADER_LENGTH :]

    def _whole(self, first: bytes, length: int, deadline: float) -> bytes:
        """Return the whole frame of `length` bytes that begins with the packet `first`."""
        frame = first
        while len(frame) < length:
            if len(frame) % frames.PACKET:
                msg = f"The dongle's reply ends after {len(frame)} of {length} bytes; plug the dongle in again."
                raise Faulty(msg)
            packets = -(-(length - len(frame)) // frames.PACKET)
            frame += self._read(packets * frames.PACKET, deadline)
        if len(frame) > length:
            msg = f"The dongle's reply has {len(frame)} bytes instead of {length}; plug the dongle in again."
            raise Faulty(msg)
        return frame

    def _read(self, length: int, deadline: float) -> bytes:
        """Return what comes, at most `length` bytes, in whole packets; fewer if a step ends before they are there."""
        octets = bytes(self._step(lambda: self._device.read(ENDPOINT_IN, length, _STEP_MS), deadline))
        if not octets:
            msg = "The dongle sent an empty packet; plug it in again."
            raise Faulty(msg)
        return octets

    def _write(self, frame: bytes, deadline: float) -> None:
        while frame:
            written = self._step(partial(self._device.write, ENDPOINT_OUT, frame, _STEP_MS), deadline)
            frame = frame[written:]

    def _step(self, transfer: Callable[[], _T], deadline: float) -> _T:
        """Return what the transfer gives; it is repeated as long as it times out and there is time left."""
        while True:
            self._check_cancelled()
            try:
                return transfer()
            except usb.core.USBTimeoutError:
                if time.monotonic() >= deadline:
                    raise
