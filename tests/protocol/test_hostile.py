"""What a peer may send to do harm: the reader takes little memory for it and says what is left of the connection."""

from __future__ import annotations

import tracemalloc
from contextlib import suppress

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import messages, rpc
from tests.protocol.cases import CASES, Case

LIMITS = [rpc.BEFORE_GREETING, rpc.FROM_CLIENT, rpc.FROM_SERVER]
every_limit = pytest.mark.parametrize("limits", LIMITS, ids=["before_greeting", "from_client", "from_server"])
LITTLE = 1024 * 1024
"""Bytes that the reader may take for a moment, for whatever a peer announces."""


def outcome(data: bytes, limits: rpc.MessageLimits) -> rpc.Message | Exception | None:
    """Return what the reader makes of the bytes: a message, one of its two errors, or None if it wants more."""
    reader = rpc.Reader(limits)
    message = None
    try:
        for start in range(0, len(data), rpc.CHUNK):
            reader.feed(data[start : start + rpc.CHUNK])
            message = reader.next()
    except (rpc.CodecError, rpc.BadMessage) as error:
        return error
    return message


def parameters(params: object, method: str = "release", *, raw: bytes | None = None) -> object:
    """Return what becomes of a request's params: the value, or the sentence of the refusal."""
    read = outcome(raw if raw is not None else msgpack.packb([0, 7, method, params]), rpc.FROM_CLIENT)
    if isinstance(read, rpc.Request):
        try:
            return rpc.parameters(read, messages.METHODS[method])
        except rpc.BadMessage as error:
            read = error
    assert isinstance(read, rpc.BadMessage)
    assert read.msgid == 7
    return str(read)


def peak(data: bytes, limits: rpc.MessageLimits) -> int:
    """Return how many bytes of memory reading takes at its peak."""
    tracemalloc.start()
    try:
        outcome(data, limits)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def of_length(length: int, limits: rpc.MessageLimits) -> bytes:
    """Return a notification of so many bytes, no element of which is too large."""
    texts = ["x" * 256] * (length // 259 - 1)
    for last in range(600):
        rows = [[*texts, "x" * last][start : start + limits.array] for start in range(0, len(texts) + 1, limits.array)]
        data: bytes = msgpack.packb([2, "x", rows])
        if len(data) == length:
            return data
    pytest.fail("the test cannot build its message")


ANNOUNCEMENTS = {
    "str": b"\xdb\xff\xff\xff\xff",
    "bin": b"\xc6\xff\xff\xff\xff",
    "array": b"\xdd\xff\xff\xff\xff",
    "map": b"\xdf\xff\xff\xff\xff",
    "ext": b"\xc9\xff\xff\xff\xff\x01",
}


@every_limit
@pytest.mark.parametrize("announcement", ANNOUNCEMENTS.values(), ids=ANNOUNCEMENTS.keys())
@pytest.mark.parametrize("before", [b"", b"\x94\x00\x01", b"\x94\x00\x01\xa7release\x91\x81\xa1x"])
def test_four_gigabytes_announced(announcement: bytes, before: bytes, limits: rpc.MessageLimits) -> None:
    """An announcement of 4 GiB takes next to nothing, and is refused at the latest when the limit is reached."""
    data = before + announcement + b"\x00" * 100
    assert peak(data, limits) < LITTLE
    assert not isinstance(outcome(data, limits), rpc.Request | rpc.Response | rpc.Notification)
    filled = data + b"\x00" * limits.total
    assert isinstance(outcome(filled, limits), rpc.CodecError)


@every_limit
@pytest.mark.parametrize("closing", [b"", b"\xc0"], ids=["open", "closed"])
def test_nested_10_000_deep(closing: bytes, limits: rpc.MessageLimits) -> None:
    """Deep nesting ends the connection instead of the stack."""
    for opening in (b"\x91", b"\x81\xa1x"):
        data = opening * 10_000 + closing
        assert isinstance(outcome(data, limits), rpc.CodecError)
        assert peak(data, limits) < LITTLE


@every_limit
def test_nested_largest_headers(limits: rpc.MessageLimits) -> None:
    """Arrays and maps of the largest allowed size, each announced inside the other, take next to nothing."""
    array = b"\xdc" + limits.array.to_bytes(2, "big")
    one_map = b"\xde" + limits.map.to_bytes(2, "big") + b"\xa1x"
    for header in (array, one_map, array + one_map):
        data = (header * 1_365)[: limits.total - 1]
        assert peak(data, limits) < LITTLE
        assert not isinstance(outcome(data, limits), rpc.Request | rpc.Response | rpc.Notification)


@every_limit
def test_message_at_the_limit(limits: rpc.MessageLimits) -> None:
    """A message of exactly the limit is read, in one piece or two; one more byte is refused, before it is all there."""
    data = of_length(limits.total, limits)
    assert isinstance(outcome(data, limits), rpc.Notification)
    reader = rpc.Reader(limits)
    for start in range(0, len(data), 1_000):
        assert reader.next() is None
        reader.feed(data[start : start + 1_000])
    assert isinstance(reader.next(), rpc.Notification)
    assert isinstance(outcome(of_length(limits.total + 1, limits), limits), rpc.CodecError)


def test_the_limit_rises_with_the_greeting() -> None:
    """What a stranger may not send, a greeted client may: `limits` is changed between messages."""
    data = msgpack.packb([0, 1, "access", [{"text": "x" * 900} | {f"t{number}": "x" * 900 for number in range(9)}]])
    assert len(data) > rpc.BEFORE_GREETING.total
    assert isinstance(outcome(data, rpc.BEFORE_GREETING), rpc.CodecError)
    reader = rpc.Reader(rpc.BEFORE_GREETING)
    reader.feed(CASES["keep_alive-3"].wire)
    assert reader.next() == CASES["keep_alive-3"].read
    reader.limits = rpc.FROM_CLIENT
    reader.feed(data)
    assert isinstance(reader.next(), rpc.Request)


@pytest.mark.parametrize(
    ("value", "part"),
    [
        (["x"] * 17, "an array of 17 is more than the 16"),
        ({str(number): 1 for number in range(33)}, "a map of 33 is more than the 32"),
        ("x" * 1_025, "a text of 1025 is more than the 1024"),
        (b"x" * 65, "a binary of 65 is more than the 64"),
        (msgpack.ExtType(5, b"x"), "extension types are not used here"),
    ],
    ids=["array", "map", "text", "binary", "ext"],
)
def test_each_limit_of_one_element(value: object, part: str) -> None:
    """A request whose one element is too large is answered with the limit it breaks; the connection lives."""
    refused = outcome(msgpack.packb([0, 7, "hello", [{"x": value}]]), rpc.BEFORE_GREETING)
    assert isinstance(refused, rpc.BadMessage)
    assert refused.msgid == 7
    assert part in str(refused)


@pytest.mark.parametrize(
    "value",
    [
        None,
        3,
        "x",
        b"x",
        1.5,
        {},
        {"a": 1},
        [],
        [0, 1],
        [0, 1, "release"],
        [0, 1, "release", [], []],
        [0, True, "release", []],
        [0, -1, "release", []],
        [0, 2**32, "release", []],
        [0, 1.0, "release", []],
        [0, "1", "release", []],
        [0, 1, 2, []],
        [0, 1, b"release", []],
        [1, 1, None],
        [1, -1, None, None],
        [2, "x"],
        [2, 3, []],
        [3, 1, "release", []],
        [-1, 1, "release", []],
        ["0", 1, "release", []],
    ],
    ids=repr,
)
def test_no_message(value: object) -> None:
    """Whatever is not one of the three arrays ends the connection."""
    assert isinstance(outcome(msgpack.packb(value), rpc.FROM_CLIENT), rpc.CodecError)


def test_reserved_byte() -> None:
    """The byte 0xc1, which MessagePack never uses, ends the connection wherever it stands."""
    for data in (b"\xc1", b"\x94\x00\x01\xa1x\x91\xc1", b"\x94\xc1", b"\x94\x00\x01\xa7release\x91\x81\xc1\x01"):
        assert isinstance(outcome(data, rpc.FROM_CLIENT), rpc.CodecError)


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({}, "params must be an array with one map"),
        (None, "params must be an array with one map"),
        ([{}, {}], "params must be an array with one map"),
        ([3], "Expected `object`, got `int`"),
        ([[]], "Expected `object`, got `array`"),
        ([], "Object missing required field `handle`"),
        ([{"handle": True}], "Expected `int`, got `bool` - at `$.handle`"),
        ([{"handle": 1.0}], "Expected `int`, got `float` - at `$.handle`"),
        ([{"handle": "1"}], "Expected `int`, got `str` - at `$.handle`"),
        ([{"handle": None}], "Expected `int`, got `null` - at `$.handle`"),
        ([{"handle": 0}], "Expected `int` >= 1 - at `$.handle`"),
        ([{"handle": -1}], "Expected `int` >= 1 - at `$.handle`"),
        ([{"handle": 2**53}], "Expected `int` <= 9007199254740991 - at `$.handle`"),
        ([{"handle": 2**64 - 1}], "Expected `int` <= 9007199254740991 - at `$.handle`"),
        ([{b"handle": 1}], "Expected `str`"),
        ([{1: 1}], "a key of a map is not a text"),
    ],
    ids=repr,
)
def test_bad_parameters(params: object, sentence: str) -> None:
    """A request with a faulty value is refused with a sentence that names the place, and can be answered."""
    assert sentence in str(parameters(params))


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"firm_code": -1}, "firm_code"),
        ({"firm_code": 2**32}, "firm_code"),
        ({"product_code": True}, "product_code"),
        ({"feature_code": 2**32}, "feature_code"),
        ({"mode": "shared"}, "mode"),
        ({"kind": "box"}, "kind"),
        ({"container": "3-3448482\n"}, "container"),
        ({"container": "3"}, "container"),
        ({"container": "\u0663-\u0661\u0662"}, "container"),
        ({"item": -1}, "item"),
        ({"key": b"x" * 15}, "key"),
        ({"key": b"x" * 17}, "key"),
        ({"key": "0" * 31}, "key"),
        ({"key": "0" * 31 + "g"}, "key"),
        ({"key": "00 " * 10 + "00"}, "key"),
        ({"key": None}, "key"),
    ],
    ids=repr,
)
def test_bad_access(params: dict[str, object], field: str) -> None:
    """Each field of an access is checked by itself: type, range, length and spelling."""
    sound = {"key": bytes(16), "firm_code": 1}
    assert isinstance(parameters([sound], "access"), messages.Access)
    assert f"$.{field}" in str(parameters([{**sound, **params}], "access"))


@pytest.mark.parametrize(
    "station", [{"machine": ""}, {"machine": "x" * 65}, {"machine": "a b"}, {"machine": "x\n"}, {"machine": "\u00e4"}]
)
def test_bad_station(station: dict[str, object]) -> None:
    """A station's machine is 1 to 64 visible ASCII characters, so that it can stand in any line."""
    client = {"host": "h", "user": "u", "pid": 1}
    sound = {"versions": [1, 1], "client": client, "station": {"machine": "x"}}
    assert isinstance(parameters([sound], "hello"), messages.Hello)
    assert "$.station.machine" in str(parameters([{**sound, "station": station}], "hello"))


def test_duplicate_keys() -> None:
    """A map with one key twice is refused: two readers could read it in two ways."""
    raw = b"\x94\x00\x07\xa7release\x91\x82\xa6handle\x01\xa6handle\x02"
    assert parameters(None, raw=raw) == "a map has the same key twice"


def test_invalid_utf8() -> None:
    """A text that is not UTF-8 is refused, as a key and as a value."""
    assert parameters(None, raw=b"\x94\x00\x07\xa7release\x91\x81\xa1\xff\x01") == "a text is not UTF-8"
    assert parameters(None, raw=b"\x94\x00\x07\xa7release\x91\x81\xa1x\xa2\xc3\x28") == "a text is not UTF-8"


@pytest.mark.parametrize("key", [b"\x90", b"\x91\x90", b"\x80"], ids=["array", "nested", "map"])
def test_unhashable_key(key: bytes) -> None:
    """A key that no map can have ends the connection, not the process."""
    raw = b"\x94\x00\x07\xa7release\x91\x81" + key + b"\x01"
    assert isinstance(outcome(raw, rpc.FROM_CLIENT), rpc.CodecError | rpc.BadMessage)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_truncated_at_each_byte(case: Case) -> None:
    """A message that breaks off gives nothing, wherever it breaks off."""
    for length in range(len(case.wire)):
        assert outcome(case.wire[:length], rpc.FROM_SERVER) is None


@given(st.binary(max_size=300), st.sampled_from(LIMITS))
def test_any_bytes(data: bytes, limits: rpc.MessageLimits) -> None:
    """Whatever comes: a message, more wanted, or one of the reader's two errors, and nothing else."""
    outcome(data, limits)


@given(st.sampled_from(sorted(CASES)), st.data())
def test_any_damage(name: str, data: st.DataObject) -> None:
    """A sound message with one byte changed never raises anything but the reader's and the converter's own errors."""
    wire = bytearray(CASES[name].wire)
    wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    read = outcome(bytes(wire), rpc.FROM_CLIENT)
    if isinstance(read, rpc.Request) and read.method in messages.METHODS:
        with suppress(rpc.BadMessage):
            rpc.parameters(read, messages.METHODS[read.method])


def test_an_idle_reader_keeps_nothing() -> None:
    """Between messages a reader holds no walker and no bytes, so that idle clients cost little (decision 28)."""
    reader = rpc.Reader(rpc.FROM_CLIENT)
    wire = CASES["access-6"].wire
    reader.feed(wire[:10])
    assert reader.next() is None
    assert reader._walker is not None
    reader.feed(wire[10:])
    assert reader.next() == CASES["access-6"].read
    assert reader.next() is None
    assert reader._walker is None
    assert reader._held == b""
