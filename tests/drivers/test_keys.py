"""Keys and signatures: by the standard's example, in files that nobody else can read, and as people see them."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from drivers import keys
from drivers.driver import DriverError, Faulty, NoPermission

PRIVATE = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
PUBLIC = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
SIGNATURE = bytes.fromhex(
    "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe246551"
    "41438e7a100b"
)
"""RFC 8032, section 7.1, test 1: over no bytes."""


def test_the_standard_s_example() -> None:
    """Public key and signature are those of the standard, so that any Ed25519 fits."""
    assert keys.public_of(PRIVATE) == PUBLIC
    assert keys.sign(PRIVATE, b"") == SIGNATURE
    assert keys.verify(PUBLIC, SIGNATURE, b"")


def test_a_signature_is_for_one_message_and_one_key() -> None:
    """Anything else is none, also what is no key or no signature at all."""
    assert not keys.verify(PUBLIC, SIGNATURE, b"x")
    assert not keys.verify(keys.public_of(keys.generate()), SIGNATURE, b"")
    assert not keys.verify(PUBLIC, bytes(64), b"")
    assert not keys.verify(PUBLIC, SIGNATURE[:63], b"")
    assert not keys.verify(PUBLIC[:31], SIGNATURE, b"")
    assert not keys.verify(bytes([255] * 32), SIGNATURE, b"")


def test_a_key_as_people_see_it() -> None:
    """44 characters there and back; what is no such text says what is expected."""
    assert keys.from_text(keys.to_text(PUBLIC)) == PUBLIC
    for text in ("", "x", keys.to_text(PUBLIC)[:-1], keys.to_text(PUBLIC + b"x"), "é" * 44, "unsigned"):
        with pytest.raises(ValueError, match="is no public key: expected is base64 of 32 bytes, 44 characters"):
            keys.from_text(text)


def test_a_key_in_a_file(tmp_path: Path) -> None:
    """It comes back, nobody else can read it, and no key is ever written over another."""
    path = tmp_path / "one.key"
    keys.write(path, PRIVATE)
    assert path.stat().st_mode & 0o777 == 0o600
    assert keys.read(path) == PRIVATE
    with pytest.raises(DriverError, match="cannot be written: File exists"):
        keys.write(path, keys.generate())
    assert keys.read(path) == PRIVATE


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    """It may be known already; the sentence says what to do."""
    path = tmp_path / "one.key"
    keys.write(path, PRIVATE)
    path.chmod(mode)
    with pytest.raises(NoPermission, match=r"one\.key can be read by others than its owner; chmod 600 it"):
        keys.read(path)


def test_a_file_without_a_key(tmp_path: Path) -> None:
    """No file, a directory, other bytes, a key of another kind: each gives a sentence."""
    other = tmp_path / "other.key"
    other.write_bytes(
        generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    noise = tmp_path / "noise.key"
    noise.write_bytes(b"\xff" * 100_000)
    for path in (other, noise):
        path.chmod(0o600)
        with pytest.raises(Faulty, match="has no Ed25519 key in PKCS8 PEM"):
            keys.read(path)
    for path in (tmp_path / "none.key", tmp_path):
        with pytest.raises(Faulty, match=r"cannot be read: .*put the key there"):
            keys.read(path)


def test_a_pipe_is_no_key_and_holds_nobody_up(tmp_path: Path) -> None:
    """Opening a FIFO waits for a writer, who may never come."""
    path = tmp_path / "pipe.key"
    os.mkfifo(path, 0o600)
    said: list[str] = []

    def read() -> None:
        try:
            keys.read(path)
        except Faulty as error:
            said.append(str(error))

    reader = threading.Thread(target=read)
    reader.start()
    reader.join(10)
    waits = reader.is_alive()
    os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))  # a writer, so that the test ends in any case
    reader.join()
    assert not waits
    assert "has no Ed25519 key" in said[0]
