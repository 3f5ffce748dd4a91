"""Ed25519 keys and signatures, and the files in which private keys lie.

A key is its 32 raw bytes. People see a public key as base64; a private key is in a file that nobody else can read.
"""

from __future__ import annotations

import base64
import binascii
import os
import stat
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from drivers import newfile
from drivers.driver import DriverError, Faulty, NoPermission

LENGTH: Final = 32
"""Bytes of a key, private or public."""

SIGNATURE_LENGTH: Final = 64

_FILE_LIMIT: Final = 4096
"""More bytes than any file of one key has."""


def generate() -> bytes:
    """Return a new private key."""
    return Ed25519PrivateKey.generate().private_bytes_raw()


def public_of(private: bytes) -> bytes:
    """Return the public key that goes with a private one."""
    return Ed25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def sign(private: bytes, message: bytes) -> bytes:
    """Return the signature over a message, 64 bytes."""
    return Ed25519PrivateKey.from_private_bytes(private).sign(message)


def verify(public: bytes, signature: bytes, message: bytes) -> bool:
    """Whether this is the public key's signature over the message; bytes that are no key have signed nothing."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def to_text(public: bytes) -> str:
    """Return a public key as people see it: base64."""
    return base64.b64encode(public).decode()


def from_text(text: str) -> bytes:
    """Return the public key that a text spells. Raises ValueError, in words for people, if it spells none."""
    try:
        public = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        public = b""
    if len(public) != LENGTH:
        msg = f"{text!a} is no public key: expected is base64 of {LENGTH} bytes, 44 characters"
        raise ValueError(msg)
    return public


def write(path: Path, private: bytes) -> None:
    """Write a private key into a new file that only its owner can read, wholly or not at all.

    Raises DriverError if that fails, also if anything is there.
    """
    pem = Ed25519PrivateKey.from_private_bytes(private).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        with newfile.appearing(path) as descriptor, os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(pem)
    except OSError as error:
        msg = f"The key file {path} cannot be written: {error.strerror}."
        raise DriverError(msg) from error


def read(path: Path) -> bytes:
    """Return the private key in a file.

    Raises NoPermission if it may not be read, or if others may; Faulty if there is no Ed25519 key in it.
    """
    try:
        # A FIFO would be waited for until somebody writes into it: for ever.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            status = os.fstat(file.fileno())
            pem = file.read(_FILE_LIMIT) if stat.S_ISREG(status.st_mode) else b""
    except PermissionError:
        msg = f"The key file {path} may not be read; let whoever runs this read it, and nobody else."
        raise NoPermission(msg) from None
    except OSError as error:
        msg = f"The key file {path} cannot be read: {error.strerror}; put the key there."
        raise Faulty(msg) from error
    if status.st_mode & 0o077:
        msg = f"The key file {path} can be read by others than its owner; chmod 600 it."
        raise NoPermission(msg)
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        msg = f"The key file {path} has no Ed25519 key in PKCS8 PEM without a password; put the key there."
        raise Faulty(msg)
    return key.private_bytes_raw()
