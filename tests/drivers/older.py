"""Images of the first version, as older containers have them: their state is in two slots, whole in each."""

from __future__ import annotations

import struct
import zlib

from drivers import image, state
from drivers.container import Container
from drivers.image import SigningKeys
from drivers.state import State
from drivers.trust import Trust
from tests.drivers.samples import SLOT_LENGTH


def encode(
    container: Container,
    states: tuple[State, State] = (State(sequence=1), State()),
    slot_length: int = SLOT_LENGTH,
    signing: SigningKeys | None = None,
) -> bytes:
    """Return the image of a container. Raises ImageError if it holds anything that cannot be read."""
    newer = image.encode(container, signing=signing)
    found = image.parse(newer, Trust())
    private = None if signing is None else signing.container
    slots = b"".join(state.encode(each, slot_length, found.owner, private, padded=True) for each in states)
    (header_length,) = struct.unpack_from("<H", newer, 10)
    total = found.fixed_length + len(slots)
    header = newer[:8] + struct.pack("<HHI", 1, header_length, total) + newer[16:62] + struct.pack("<I", slot_length)
    header += newer[66 : header_length - 4]
    return header + struct.pack("<I", zlib.crc32(header)) + newer[header_length : found.fixed_length] + slots
