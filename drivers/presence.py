"""Reads a container together with its proof that it holds what was read, now, and has the key that it says.

An image alone proves nothing of now: each one that the container ever gave was signed by it, and an earlier one is a
later one with its end cut off. What signs for presence names the number of its state.
"""

from __future__ import annotations

import os

from drivers import image, statement
from drivers.driver import Device, Faulty, Purpose
from drivers.image import Image
from drivers.trust import Trust


def read(device: Device, trust: Trust) -> Image:
    """Return what a device holds. One without a key has nothing to prove it with. Raises DriverError.

    Nobody else may ask the device meanwhile: what it counted between the two would look like a deceit.
    """
    found = image.parse(device.read(), trust)
    if found.owner.key_algorithm and (sequence := prove(device)) != found.state.sequence:
        msg = (
            f"The container says that its state is number {sequence}, and the one that was read is number "
            f"{found.state.sequence}; plug it in again, and see what is between it and here."
        )
        raise Faulty(msg)
    return found


def prove(device: Device) -> int:
    """Have a container sign a nonce, which a copy of its image cannot; return the number of its state.

    Raises DriverError.
    """
    nonce = os.urandom(statement.NONCE_LENGTH)
    return statement.sequence(device.sign(Purpose.PRESENCE, nonce))
