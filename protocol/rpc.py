"""MessagePack-RPC as bytes: cutting a stream into messages, decoding and encoding them. No I/O.

Nothing large is built from a message before it is there as a whole and within its limits: an incomplete one is only
walked over (`Unpacker.skip`), so a peer that announces nested arrays or four gigabytes makes us allocate nothing. The
reader owns an `Unpacker` (44 KiB) only while a message is incomplete, so an idle connection costs next to nothing.

Errors say what is left of the connection: after a `CodecError` it is dead; a `BadMessage` can still be answered.
"""

from __future__ import annotations

import re
from string import hexdigits
from typing import Any, Final, TypeVar

import msgpack
import msgspec
from msgspec import Struct

from protocol.messages import Access, Borrow, Crypt, ErrorBody, GiveBack, Lend, Params

T = TypeVar("T", bound=Struct)

_HEX: Final = frozenset(hexdigits)

CHUNK: Final = 65_536
"""How many bytes are taken from a socket at once."""


class MessageLimits(Struct, frozen=True):
    """What one message may hold: bytes in all, elements of an array and of a map, bytes of a text and of a binary."""

    total: int
    array: int
    map: int
    text: int
    binary: int


BEFORE_GREETING: Final = MessageLimits(total=4_096, array=16, map=32, text=1_024, binary=64)
"""A stranger needs one `hello`, which is some 200 bytes."""

FROM_CLIENT: Final = MessageLimits(total=16_384, array=64, map=64, text=1_024, binary=64)
"""The longest request has some ten fields, the longest text 255 characters, the longest binary a 64-byte challenge."""

FROM_OPERATOR: Final = MessageLimits(total=131_072, array=16_384, map=64, text=1_024, binary=65_536)
"""Over the control socket come an update file, which has 64 KiB at most, and the handles that an operator was shown."""

FROM_SERVER: Final = MessageLimits(total=4 * 1024 * 1024, array=16_384, map=64, text=65_536, binary=131_072)
"""A page of 1,000 accesses at 2 KB each, a container's contents or request file of 80 KiB, with room to spare."""


HOPED: Final = 64
"""Up to this limit of an array, bytes are decoded in the hope that they are one whole message. If they are not, 1,024
nested announcements (the decoder's depth) have taken 1,024 * 64 * 8 bytes = 512 KiB for a moment, and no more."""


class CodecError(Exception):
    """The peer's bytes are no messages, or break a limit; the connection cannot go on."""


class BadMessage(Exception):
    """A whole message with a fault that can be answered.

    `msgid` is the request's number; the text says what is wrong.
    """

    def __init__(self, msgid: int, text: str) -> None:
        super().__init__(text)
        self.msgid = msgid


class Request(Struct, frozen=True, gc=False):
    """`[0, msgid, method, params]`, the params still as they came."""

    msgid: int
    method: str
    params: object


class Response(Struct, frozen=True, gc=False):
    """`[1, msgid, error, result]`."""

    msgid: int
    error: object
    result: object


class Notification(Struct, frozen=True, gc=False):
    """`[2, method, params]`."""

    method: str
    params: object


Message = Request | Response | Notification


class Reader:
    """Bytes in, messages out. `limits` may be changed between messages."""

    __slots__ = ("_held", "_start", "_walked", "_walker", "limits")

    def __init__(self, limits: MessageLimits) -> None:
        self.limits = limits
        self._held = b""
        self._start = 0  # where in _held the next message begins
        self._walker: msgpack.Unpacker | None = None
        self._walked = 0  # bytes the walker had consumed where _held[0] is

    def feed(self, data: bytes) -> None:
        """Take bytes from the peer: at most `CHUNK` at once, and only when `next` has no more messages to give."""
        self._held = self._held[self._start :] + data if self._held else data
        if self._walker is not None:
            self._walked += self._start
            self._walker.feed(data)
        self._start = 0

    def next(self) -> Message | None:
        """Return the next whole message, or None if more bytes are needed. Raises CodecError, BadMessage."""
        if not self._held:
            return None
        if self._walker is None and len(self._held) <= self.limits.total and self.limits.array <= HOPED:
            # The common case of a server, by far: what arrived is exactly one message. The rest is sorted out below.
            try:
                value = _decode(self._held, self.limits)
            except (ValueError, msgpack.UnpackException):
                pass
            else:
                self._held = b""
                return _message(value)
        frame = self._cut()
        return None if frame is None else _message(_decode_frame(frame, self.limits))

    def _cut(self) -> bytes | None:
        if self._walker is None:
            # Its buffer is bounded by ours: it holds what `_held` does, and the limits may rise while it lives.
            self._walker = msgpack.Unpacker(read_size=512, max_buffer_size=FROM_SERVER.total + CHUNK)
            self._walker.feed(self._held)
            self._walked = 0
        try:
            self._walker.skip()
        except msgpack.OutOfData:
            if len(self._held) - self._start > self.limits.total:
                raise CodecError(self._too_long()) from None
            if self._start == len(self._held):
                self._held, self._start, self._walker = b"", 0, None
            return None
        except (ValueError, msgpack.UnpackException) as error:
            msg = "the bytes are no MessagePack, or nest too deep"
            raise CodecError(msg) from error
        end = self._walker.tell() - self._walked
        frame = self._held[self._start : end]
        if len(frame) > self.limits.total:
            raise CodecError(self._too_long())
        self._start = end
        if end == len(self._held):
            self._held, self._start, self._walker = b"", 0, None
        return frame

    def _too_long(self) -> str:
        return f"a message is longer than {self.limits.total} bytes"


def encode_request(msgid: int, params: Params) -> bytes:
    """Return the bytes of a request."""
    return _encode((0, msgid, params.method, (params,)))


def encode_result(msgid: int, result: Struct) -> bytes:
    """Return the bytes of a response that grants."""
    return _encode((1, msgid, None, result))


def encode_error(msgid: int, error: ErrorBody) -> bytes:
    """Return the bytes of a response that refuses."""
    return _encode((1, msgid, error, None))


def granted(response: bytes) -> tuple[int, int] | None:
    """Return the request's number and the handle that one of our own responses tells of, if it does."""
    kind, msgid, *outcome = msgpack.unpackb(response)
    result = outcome[-1]
    return (msgid, result["handle"]) if kind == 1 and type(result) is dict and "handle" in result else None


def encode_notification(method: str, body: Struct) -> bytes:
    """Return the bytes of a notification."""
    return _encode((2, method, (body,)))


def parameters(request: Request, kind: type[T]) -> T:
    """Return a request's parameters as a value of `kind`. Raises BadMessage in words for the client."""
    params = request.params
    if type(params) is not list or len(params) > 1:
        raise BadMessage(request.msgid, "params must be an array with one map")
    value = params[0] if params else {}
    if (kind is Access or kind in _SPELLED) and type(value) is dict:
        for name in _SPELLED[kind]:
            if type(value.get(name)) is str:
                value[name] = _octets_of(request.msgid, name, value[name])
    try:
        return convert(value, kind)
    except msgspec.ValidationError as error:
        raise BadMessage(request.msgid, str(error)) from None


def convert(value: object, kind: type[T]) -> T:
    """Return a decoded map as a value of `kind`. Raises msgspec.ValidationError."""
    return msgspec.convert(value, kind, builtin_types=(bytes,))


_SPELLED: Final[dict[type[Any], tuple[str, ...]]] = {
    Access: ("key",),
    Crypt: ("key", "nonce"),
    Borrow: ("id", "holder"),
    Lend: ("id", "holder"),
    GiveBack: ("id", "signature"),
}
"""The fields that are bytes."""

_SPELLINGS: Final = {
    "key": "a key is 16 bytes, or 32 hexadecimal digits",
    "nonce": "a nonce is 16 to 64 bytes, or twice as many hexadecimal digits",
    "id": "the id of a loan is 16 bytes, or 32 hexadecimal digits",
    "holder": "a public key is 32 bytes, or 64 hexadecimal digits",
    "signature": "a signature is 64 bytes, or 128 hexadecimal digits",
}


def _octets_of(msgid: int, name: str, text: str) -> bytes:
    """Return the bytes that hexadecimal digits spell, for clients that have no byte strings."""
    if len(text) % 2 or not _HEX.issuperset(text) or (name == "key" and len(text) != 32):
        raise BadMessage(msgid, f"{_SPELLINGS[name]} - at `$.{name}`")
    return bytes.fromhex(text)


_encode = msgspec.msgpack.Encoder().encode


def _unique(pairs: list[tuple[object, object]]) -> dict[object, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        msg = "a map has the same key twice"
        raise ValueError(msg)
    return found


def _decode(data: bytes, limits: MessageLimits) -> object:
    value: object = msgpack.unpackb(
        data,
        object_pairs_hook=_unique,
        max_array_len=limits.array,
        max_map_len=limits.map,
        max_str_len=limits.text,
        max_bin_len=limits.binary,
        max_ext_len=0,
    )
    return value


def _decode_frame(frame: bytes, limits: MessageLimits) -> object:
    """Decode one whole frame; where it is faulty, find the request's number so that it can be answered."""
    try:
        return _decode(frame, limits)
    except (ValueError, msgpack.UnpackException) as error:
        text = _in_words(error)
    try:
        value = msgpack.unpackb(frame, unicode_errors="replace", strict_map_key=False)
    except (ValueError, TypeError, msgpack.UnpackException):
        raise CodecError(text) from None
    if type(value) is list and len(value) == 4 and type(value[0]) is int and value[0] == 0 and _is_msgid(value[1]):
        raise BadMessage(value[1], text)
    raise CodecError(text)


_NAMES: Final = {"array": "an array", "map": "a map", "str": "a text", "bin": "a binary"}


def _in_words(error: Exception) -> str:
    """Say for people what msgpack says for programmers."""
    if isinstance(error, UnicodeDecodeError):
        return "a text is not UTF-8"
    if "max_ext_len" in str(error):
        return "extension types are not used here"
    if found := re.fullmatch(r"(\d+) exceeds max_(\w+)_len\((\d+)\)", str(error)):
        size, what, limit = found.groups()
        return f"{_NAMES[what]} of {size} is more than the {limit} that are allowed"
    if "map key" in str(error):
        return "a key of a map is not a text"
    return str(error) or "it cannot be decoded"


def _is_msgid(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**32


def _message(value: object) -> Message:
    if type(value) is list and len(value) > 2:
        kind = value[0] if type(value[0]) is int else None
        if kind == 0 and len(value) == 4 and _is_msgid(value[1]) and type(value[2]) is str:
            return Request(value[1], value[2], value[3])
        if kind == 1 and len(value) == 4 and _is_msgid(value[1]):
            return Response(value[1], value[2], value[3])
        if kind == 2 and len(value) == 3 and type(value[1]) is str:
            return Notification(value[1], value[2])
    msg = "a message must be [0, msgid, method, params], [1, msgid, error, result] or [2, method, params]"
    raise CodecError(msg)
