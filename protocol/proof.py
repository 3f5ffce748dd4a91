"""Checks that an answer comes from a container that holds the license, with the licensor's public key alone.

    licensor's key -> firm item -> container's key -> answer

The licensor signed the firm item, which names the product, its options and the container's public key; the container
signed the answer, which has the nonce that was just made. So a server without the container cannot answer, and one
that overlooks an expiration is found out. `docs/protocol.md` has the layout of both, byte by byte. No I/O.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from struct import Struct as Layout
from struct import error as LayoutError  # noqa: N812 - an exception, so named like one
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from msgspec import Struct

from protocol.errors import ErrorNumber, LicenseError
from protocol.messages import Access, AccessKey, Crypt, CryptAnswer
from protocol.terms import AccessMode

KEY_LENGTH: Final = 32

_FIRM_PREFIX: Final = b"cmfirm\x00\x01"
_ANSWER_PREFIX: Final = b"cmsign\x00\x01\x02"
"""The last byte is the purpose: what a container signs for other purposes is no answer."""
_OWNER: Final = Layout(f"<HIBB{KEY_LENGTH}s")
_ED25519: Final = 1
_FIRM: Final = Layout("<II")
_LENGTH: Final = Layout("<H")
_PRODUCT: Final = Layout("<IIH")
_OPTION: Final = Layout("<HH")
_DATE: Final = Layout("<q")
_ANSWERED: Final = Layout("<IIIIqQ")
_TAG: Final = 0x7FFF
_ACTIVATION, _EXPIRATION = 5, 6


class Proof(Struct, frozen=True):
    """What is proven: this container holds this product item, which is valid at this license time (Unix seconds)."""

    container: str
    firm_code: int
    product_code: int
    item: int
    update_counter: int
    time: int


def challenge(handle: int, units: int, key: AccessKey | None, mode: AccessMode | None) -> Crypt:
    """Return a question that nobody can have heard before; units are taken with a key of their own if none is given."""
    return Crypt(handle, secrets.token_bytes(32), units, key or AccessKey(secrets.token_bytes(16)), mode)


def check(answer: CryptAnswer, question: Crypt, access: Access, licensor: bytes) -> Proof:
    """Return what the answer proves of an access that was asked for so.

    `licensor` is the licensor's public key, 32 bytes that the program was built with. Raises LicenseError 308, and says
    at which link the chain breaks.
    """
    try:
        return _check(answer, question, access, licensor)
    except (LayoutError, IndexError):
        raise _broken("the answer is too short") from None


def _check(answer: CryptAnswer, question: Crypt, access: Access, licensor: bytes) -> Proof:
    _verify(licensor, answer.firm_signature, answer.firm_item, "the licensor did not sign the firm item")
    firm = _Reader(answer.firm_item)
    if firm.take(len(_FIRM_PREFIX)) != _FIRM_PREFIX:
        raise _broken("what the licensor signed is no firm item of this version")
    owner = firm.take(_OWNER.size)
    mask, serial, _, algorithm, key = _OWNER.unpack(owner)
    if algorithm != _ED25519:
        raise _broken("the container has no key")
    _verify(key, answer.signature, answer.message, "the container did not sign the answer")
    message = _Reader(answer.message)
    if message.take(len(_ANSWER_PREFIX)) != _ANSWER_PREFIX or message.take(_OWNER.size) != owner:
        raise _broken("what the container signed is no answer of this container")
    if message.take(message.take(1)[0]) != question.nonce:
        raise _broken("the answer is to another question")
    firm_code, product_code, item, counter, time, handle = message.unpack(_ANSWERED)
    if not message.done or (firm_code, product_code, handle) != (
        access.firm_code,
        access.product_code,
        question.handle,
    ):
        raise _broken("the answer is about another license")
    if firm.unpack(_FIRM) != (firm_code, counter):
        raise _broken("the firm item is not the one that the container holds")
    activation, expiration = _validity(firm, item, product_code)
    if not activation <= time < expiration:
        raise _broken("the license is not valid at the time that the container signed")
    return Proof(f"{mask}-{serial}", firm_code, product_code, item, counter, time)


def _validity(firm: _Reader, item: int, product_code: int) -> tuple[float, float]:
    """Return from when on, and until when, a product item of the firm item is valid."""
    firm.take(*firm.unpack(_LENGTH))
    (count,) = firm.unpack(_LENGTH)
    for _ in range(count):
        reference, code, length = firm.unpack(_PRODUCT)
        options = _Reader(firm.take(length))
        if (reference, code) == (item, product_code):
            dates = dict(_dates(options))
            return dates.get(_ACTIVATION, float("-inf")), dates.get(_EXPIRATION, float("inf"))
    raise _broken("the licensor signed no such product item")


def _dates(options: _Reader) -> Iterator[tuple[int, int]]:
    while not options.done:
        tag, length = options.unpack(_OPTION)
        value = options.take(length)
        if tag & _TAG in {_ACTIVATION, _EXPIRATION}:
            yield tag & _TAG, _DATE.unpack(value)[0]


def _verify(key: bytes, signature: bytes, message: bytes, otherwise: str) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        raise _broken(otherwise) from None


def _broken(why: str) -> LicenseError:
    return LicenseError.of(ErrorNumber.VERIFY_FAILED, why)


class _Reader:
    """Reads bytes from front to back. Raises struct.error, IndexError where they end too early."""

    def __init__(self, octets: bytes) -> None:
        self._octets = octets
        self._at = 0

    @property
    def done(self) -> bool:
        return self._at == len(self._octets)

    def take(self, length: int) -> bytes:
        if self._at + length > len(self._octets):
            raise IndexError
        self._at += length
        return self._octets[self._at - length : self._at]

    def unpack(self, layout: Layout) -> tuple[int, ...]:
        return layout.unpack(self.take(layout.size))
