"""Makes the lengths, checksums and signatures of changed bytes right again, as far as their own lengths lead.

Without it hardly anything that a fuzzer thinks up would get behind the first checksum. The private keys are those of
`tests.drivers.samples`; what is not in its place stays as it is.
"""

from __future__ import annotations

import struct
import zlib
from hashlib import sha256

from drivers import keys
from tests.drivers.samples import CONTAINER_KEY, LICENSOR_KEY

_WHOLE, _CHANGE = b"cmstate\x00\x01", b"cmchange\x00\x02"
_STATE_HEAD, _SEAL = struct.Struct("<QqHHHH32sq"), 1 + 64 + 4
_SIGNATURE, _KEY = keys.SIGNATURE_LENGTH, keys.LENGTH
_HEADER, _OWNER = 72, slice(16, 56)
_ITEM_HEAD, _ITEM_TAIL = 38, _SIGNATURE + 4
_UPDATE_HEAD, _FIRM_HEAD = 50, 12
_REQUEST_HEAD, _REQUEST_TAIL, _MESSAGE = 14, 48, 129


def slot(octets: bytes, owner: bytes, prefix: bytes = _WHOLE) -> bytes:
    """Return a state slot that the container of `owner` (40 bytes) signed, if the slot says that it did."""
    if len(octets) < _SEAL:
        return octets
    signed = octets[: -_SIGNATURE - 4]
    signature = keys.sign(CONTAINER_KEY, prefix + owner + signed) if signed[-1] else bytes(_SIGNATURE)
    return _checked(signed + signature)


def state(octets: bytes, owner: bytes) -> bytes:
    """Return a whole state and the changes behind it, each with the next number and signed if it says so."""
    done, prefix, sequence = b"", _WHOLE, 0
    while len(octets) >= _STATE_HEAD.size + _SEAL:
        number, floor, items, loans, receipts, struck, nonce, asked = _STATE_HEAD.unpack_from(octets)
        sequence = number if prefix is _WHOLE else sequence + 1
        if sequence >= 2**64:
            break
        head = _STATE_HEAD.pack(sequence, floor, items, loans, receipts, struck, nonce, asked)
        length = len(head) + 20 * items + 68 * loans + 32 * receipts + 16 * struck + _SEAL
        done += slot(head + octets[len(head) : length], owner, prefix)
        octets, prefix = octets[length:], _CHANGE + sha256(done).digest()
    return done + octets


def image(octets: bytes) -> bytes:
    """Return an image whose lengths add up, and whose signatures are its container's and its licensor's."""
    if len(octets) < _HEADER:
        return octets
    (version,) = struct.unpack_from("<H", octets, 8)
    (items_length, limit, text_length) = struct.unpack_from("<IIH", octets, 58)
    header_length = _HEADER + text_length
    state_at = len(octets) - 2 * limit if version == 1 else header_length + items_length
    if not header_length <= state_at <= len(octets):
        return octets
    total = len(octets) if version == 1 else state_at
    counts = octets[56:58] + struct.pack("<II", state_at - header_length, limit)
    header = octets[:10] + struct.pack("<HI", header_length & 0xFFFF, total) + octets[_OWNER] + counts
    header += octets[len(header) : header_length - 4]
    fixed, rest, owner = _checked(header) + _items(octets[header_length:state_at]), octets[state_at:], octets[_OWNER]
    if version == 1:
        return fixed + slot(rest[:limit], owner) + slot(rest[limit:], owner)
    return fixed + state(rest, owner)


def _items(octets: bytes) -> bytes:
    if len(octets) < _ITEM_HEAD + _ITEM_TAIL:
        return octets
    end = _ITEM_HEAD + struct.unpack_from("<I", octets, 34)[0]
    if end + _ITEM_TAIL > len(octets):
        return octets
    signature = keys.sign(LICENSOR_KEY, octets[_ITEM_HEAD:end]) if octets[0] else bytes(_SIGNATURE)
    return _checked(octets[:end] + signature) + _items(octets[end + _ITEM_TAIL :])


def update(octets: bytes) -> bytes:
    """Return an update that the licensor signed, the firm item in it included; the item takes all the room there is."""
    body, tail = octets[: -_KEY - _SIGNATURE], octets[-_KEY - _SIGNATURE : -_SIGNATURE]
    signed_at = _UPDATE_HEAD + _FIRM_HEAD
    if len(body) >= signed_at + _SIGNATURE and body[9] == 1:
        signed = body[signed_at:-_SIGNATURE]
        length = struct.pack("<I", len(signed))
        body = body[: signed_at - 4] + length + signed + keys.sign(LICENSOR_KEY, signed)
    covered = body + tail
    return covered + keys.sign(LICENSOR_KEY, covered)


def request(octets: bytes) -> bytes:
    """Return a request that its container signed, for the image in it as that is once it is sealed too."""
    if len(octets) < _REQUEST_HEAD + _SIGNATURE + _MESSAGE:
        return octets
    contents = image(octets[_REQUEST_HEAD : -_SIGNATURE - _MESSAGE])
    message = octets[-_MESSAGE:-32] + sha256(contents).digest()
    head = octets[:10] + struct.pack("<I", len(contents))
    return head + contents + keys.sign(CONTAINER_KEY, message) + message


def _checked(octets: bytes) -> bytes:
    return octets + struct.pack("<I", zlib.crc32(octets))
