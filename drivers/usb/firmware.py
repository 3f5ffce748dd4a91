"""The dongle's USB: packets and frames around the chip, as a model that is driven by USB packets and nothing else.

It is written from `docs/drivers.md`, as firmware in C would be, and so shares no code with the host's side: a mistake
in one of the two shows. Whoever drives it is the USB: the in-process backend here, a USB/IP peer, or a gadget; calls
must not overlap.
"""

from __future__ import annotations

import struct
from collections import deque
from typing import Final

from drivers.chip.chip import PAYLOAD_LIMIT, VERSION, Memory
from drivers.chip.status import WRONG_VERSION

VENDOR_ID: Final = 0x1209
PRODUCT_ID: Final = 0x0001
ENDPOINT_OUT: Final = 0x01
ENDPOINT_IN: Final = 0x81
PACKET: Final = 64

_MANUFACTURER, _PRODUCT = "cmserverd project", "CmContainer dongle"
_LANGUAGE: Final = 0x0409
_DEVICE, _CONFIGURATION, _STRING = 1, 2, 3
_DEVICE_DESCRIPTOR: Final = struct.pack(
    "<BBHBBBBHHHBBBB", 18, _DEVICE, 0x0200, 0xFF, 0, 0, PACKET, VENDOR_ID, PRODUCT_ID, 0x0100, 1, 2, 0, 1
)
_INTERFACE_DESCRIPTOR: Final = struct.pack("<9B", 9, 4, 0, 0, 2, 0xFF, 0x43, 0x01, 0)
_ENDPOINT_DESCRIPTORS: Final = struct.pack("<BBBBHB", 7, 5, ENDPOINT_OUT, 2, PACKET, 0) + struct.pack(
    "<BBBBHB", 7, 5, ENDPOINT_IN, 2, PACKET, 0
)
_CONFIGURATION_DESCRIPTOR: Final = (
    struct.pack("<BBHBBBBB", 9, _CONFIGURATION, 9 + 9 + 14, 1, 1, 0, 0x80, 50)
    + _INTERFACE_DESCRIPTOR
    + _ENDPOINT_DESCRIPTORS
)


class Stall(Exception):
    """The dongle refuses a transfer, as USB says it: STALL."""


class Firmware:
    """One dongle with this chip, or with a memory alone."""

    def __init__(self, chip: Memory) -> None:
        self._chip = chip
        self.configuration = 0
        self._halted: set[int] = set()
        self._command = b""
        self._reply: deque[bytes] = deque()

    def reset(self) -> None:
        """Be reset by the bus, as happens at each plug."""
        self.configuration = 0
        self._halted.clear()
        self._discard()

    # --- endpoint 0 -------------------------------------------------------------------------------------------------

    def control(self, request_type: int, request: int, value: int, index: int, length: int) -> bytes:
        """Answer a control request of `length` bytes, which are empty if they are the host's.

        Raises Stall for what the dongle does not know.
        """
        if length and not request_type & 0x80:
            raise Stall
        match (request_type, request):
            case (0x80, 6):
                return self._descriptor(value >> 8, value & 0xFF)[:length]
            case (0x80, 0) | (0x81, 0):  # GET_STATUS of device and interface
                return bytes(2)[:length]
            case (0x82, 0):  # GET_STATUS of an endpoint
                return bytes([index & 0xFF in self._halted, 0])[:length]
            case (0x80, 8):
                return bytes([self.configuration])[:length]
            case (0x00, 9) if value in {0, 1}:
                self.reset()
                self.configuration = value
            case (0x81, 10):
                return bytes(1)[:length]
            case (0x01, 11) if value == 0:
                pass
            case (0x02, 1) if value == 0:  # CLEAR_FEATURE of an endpoint: its halt
                self._halted.discard(index & 0xFF)
            case (0x41, 1) if index == 0:  # ours: discard
                self._discard()
            case _:
                raise Stall
        return b""

    def _descriptor(self, kind: int, index: int) -> bytes:
        match (kind, index):
            case (1, 0):
                return _DEVICE_DESCRIPTOR
            case (2, 0):
                return _CONFIGURATION_DESCRIPTOR
            case (3, 0):
                return struct.pack("<BBH", 4, _STRING, _LANGUAGE)
            case (3, 1 | 2):
                text = (_MANUFACTURER, _PRODUCT)[index - 1].encode("utf-16-le")
                return bytes([2 + len(text), _STRING]) + text
            case _:
                raise Stall

    def _discard(self) -> None:
        self._command = b""
        self._reply.clear()

    # --- the bulk endpoints -----------------------------------------------------------------------------------------

    def out_packet(self, endpoint: int, packet: bytes) -> bool:
        """Take a packet of a command; False means not now (NAK): a reply is still to be fetched.

        Raises Stall if what comes is no frame; both endpoints are then halted until the host clears them.
        """
        self._check(endpoint, ENDPOINT_OUT)
        if self._reply:
            return False
        self._command += packet
        if len(self._command) < 8:
            self._halt()
        length = 8 + int.from_bytes(self._command[4:6], "little")
        if length > 8 + PAYLOAD_LIMIT or len(self._command) > length:
            self._halt()
        if len(self._command) == length:
            frame, self._command = self._command, b""
            reply = self.answer(frame)
            self._reply.extend(reply[at : at + PACKET] for at in range(0, len(reply), PACKET))
        elif len(packet) < PACKET:
            self._halt()
        return True

    def in_packet(self, endpoint: int) -> bytes | None:
        """Return the next packet of a reply; None means not now (NAK): there is none. Raises Stall if halted."""
        self._check(endpoint, ENDPOINT_IN)
        return self._reply.popleft() if self._reply else None

    def _check(self, endpoint: int, expected: int) -> None:
        if endpoint != expected or endpoint in self._halted or not self.configuration:
            raise Stall

    def _halt(self) -> None:
        self._halted |= {ENDPOINT_OUT, ENDPOINT_IN}
        self._discard()
        raise Stall

    # --- the frames -------------------------------------------------------------------------------------------------

    def answer(self, frame: bytes) -> bytes:
        """Return the whole reply to a whole command."""
        version, command, tag, _, _ = struct.unpack_from("<BBHHH", frame)
        status, payload = self._chip.answer(command, frame[8:]) if version == VERSION else (WRONG_VERSION, b"")
        return struct.pack("<BBHHH", VERSION, command & 0x7F | 0x80, tag, len(payload), status) + payload
