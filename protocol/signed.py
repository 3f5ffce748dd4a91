"""What a licensor and a container signed, taken apart; `docs/protocol.md` has the layout of both, byte by byte.

Nothing is believed or compared here: that is `protocol.proof`'s. No I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct as Layout
from typing import Any, Final

from msgspec import Struct

KEY_LENGTH: Final = 32
NO_KEY: Final = bytes(16)
"""Stands in an answer for the key of a use, if there was none."""

_FIRM_PREFIX: Final = b"cmfirm\x00\x01"
_ANSWER_PREFIX: Final = b"cmsign\x00\x02\x02"
"""The last two bytes are the version and the purpose: what a container signs for other purposes is no answer."""
_CERTIFICATE_PREFIX: Final = b"cmsign\x00\x01\x04"
_RETURN_PREFIX: Final = b"cmreturn\x00\x01"
_OWNER: Final = Layout(f"<HIBB{KEY_LENGTH}s")
_ED25519: Final = 1
_FIRM: Final = Layout("<II")
_LENGTH: Final = Layout("<H")
_PRODUCT: Final = Layout("<IIH")
_OPTION: Final = Layout("<HH")
_ANSWERED: Final = Layout("<IIIIqQ16sIIq")
_CERTIFIED: Final = Layout("<16s32s32sIIIIIqq")
_NO_UNITS: Final = 2**32 - 1
_TAG: Final = 0x7FFF
_TERMS: Final = {
    4: ("feature_map", Layout("<I")),
    5: ("activation", Layout("<q")),
    6: ("expiration", Layout("<q")),
    7: ("usage", Layout("<I4x")),
    8: ("maintenance", Layout("<qq")),
}
"""The options that are compared, by their tags: the field of `Terms` and the layout of the value."""


class Malformed(Exception):
    """These bytes are not what they should be; the text says how."""


class Terms(Struct, frozen=True):
    """On what terms the licensor gave a product item; None is an option that it does not have.

    `feature_map` is a set of 32 bits. It is valid from `activation` to `expiration` (Unix seconds), and for `usage`
    seconds after its first use, for software whose release date is in `maintenance`: from the first second on, up to
    and without the other.
    """

    feature_map: int | None = None
    activation: int | None = None
    expiration: int | None = None
    usage: int | None = None
    maintenance: tuple[int, int] | None = None


class FirmItem(Struct, frozen=True):
    """A firm item. `owner` are the bytes that name the container it was made for, `key` is that one's public key.

    `options` are those of each product item, not taken apart, by its reference and product code.
    """

    owner: bytes
    container: str
    key: bytes
    firm_code: int
    update_counter: int
    options: Mapping[tuple[int, int], bytes]


class Answer(Struct, frozen=True):
    """What a container says. `key` is that of the use, NO_KEY if there is none: `units` were taken for it.

    `time` is license time, and `usage_start` when the usage period began (Unix seconds, 0: not). `units_left` is None
    for an item without units.
    """

    owner: bytes
    nonce: bytes
    firm_code: int
    product_code: int
    item: int
    update_counter: int
    time: int
    handle: int
    key: bytes
    units: int
    units_left: int | None
    usage_start: int


class Certificate(Struct, frozen=True):
    """What a container certifies of a loan: this license is lent to this holder's key, for use at this station.

    `id` has 16 bytes, `station` and `holder` 32. `start` is license time when it was signed, `end` when the loan ends
    (Unix seconds).
    """

    owner: bytes
    id: bytes
    station: bytes
    holder: bytes
    firm_code: int
    product_code: int
    item: int
    update_counter: int
    quantity: int
    start: int
    end: int


def firm_item(octets: bytes) -> FirmItem:
    """Return the firm item that these signed bytes are. Raises Malformed."""
    reader = _Reader(octets)
    if reader.take(len(_FIRM_PREFIX)) != _FIRM_PREFIX:
        raise Malformed("what the licensor signed is no firm item of this version")
    owner = reader.take(_OWNER.size)
    mask, serial, _, algorithm, key = _OWNER.unpack(owner)
    if algorithm != _ED25519:
        raise Malformed("the container has no key")
    firm_code, counter = reader.unpack(_FIRM)
    reader.take(*reader.unpack(_LENGTH))
    (count,) = reader.unpack(_LENGTH)
    options: dict[tuple[int, int], bytes] = {}
    for _ in range(count):
        reference, product_code, length = reader.unpack(_PRODUCT)
        options[reference, product_code] = reader.take(length)
    return FirmItem(owner, f"{mask}-{serial}", key, firm_code, counter, options)


def terms(options: bytes) -> Terms:
    """Return what a product item's options say. Raises Malformed."""
    reader = _Reader(options)
    found: dict[str, Any] = {}
    while not reader.done:
        tag, length = reader.unpack(_OPTION)
        value = reader.take(length)
        if option := _TERMS.get(tag & _TAG):
            name, layout = option
            values = _exactly(layout, value)
            found[name] = values if len(values) > 1 else values[0]
    return Terms(**found)


def answer(octets: bytes) -> Answer:
    """Return the answer that these signed bytes are. Raises Malformed."""
    reader = _Reader(octets)
    if reader.take(len(_ANSWER_PREFIX)) != _ANSWER_PREFIX:
        raise Malformed("what the container signed is no answer of this version")
    owner = reader.take(_OWNER.size)
    nonce = reader.take(reader.take(1)[0])
    *said, units_left, usage_start = _exactly(_ANSWERED, reader.rest())
    said += [None if units_left == _NO_UNITS else units_left, usage_start]
    return Answer(owner, nonce, *said)


def certificate(octets: bytes) -> Certificate:
    """Return the certificate of a loan that these signed bytes are. Raises Malformed."""
    reader = _Reader(octets)
    if reader.take(len(_CERTIFICATE_PREFIX)) != _CERTIFICATE_PREFIX:
        raise Malformed("what the container signed is no certificate of a loan of this version")
    owner = reader.take(_OWNER.size)
    return Certificate(owner, *_exactly(_CERTIFIED, reader.rest()))


def receipt(owner: bytes, loan: bytes) -> bytes:
    """Return what the holder of a loan signs to give it back to the container of these owner bytes."""
    return _RETURN_PREFIX + owner + loan


def _exactly(layout: Layout, octets: bytes) -> tuple[Any, ...]:
    if len(octets) != layout.size:
        raise Malformed(f"the answer has {len(octets)} bytes in a place of {layout.size}")
    return layout.unpack(octets)


class _Reader:
    """Reads bytes from front to back. Raises Malformed where they end too early."""

    def __init__(self, octets: bytes) -> None:
        self._octets = octets
        self._at = 0

    @property
    def done(self) -> bool:
        return self._at == len(self._octets)

    def take(self, length: int) -> bytes:
        if self._at + length > len(self._octets):
            raise Malformed("the answer is too short")
        self._at += length
        return self._octets[self._at - length : self._at]

    def unpack(self, layout: Layout) -> tuple[Any, ...]:
        return layout.unpack(self.take(layout.size))

    def rest(self) -> bytes:
        return self.take(len(self._octets) - self._at)
