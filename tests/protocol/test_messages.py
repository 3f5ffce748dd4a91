"""Every message in both directions, whole, byte by byte and with a tail: one table (`cases`) for all of it."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import messages, rpc
from tests.protocol.cases import CASES, REQUESTS, RESULTS, Case

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
TAIL = rpc.encode_request(77, messages.KeepAlive())
TAIL_READ = rpc.Request(77, "keep_alive", [{}])


def read(pieces: list[bytes], limits: rpc.MessageLimits = rpc.FROM_SERVER) -> list[rpc.Message]:
    """Feed the pieces one by one and return all messages."""
    reader = rpc.Reader(limits)
    found = []
    for piece in pieces:
        reader.feed(piece)
        while (message := reader.next()) is not None:
            found.append(message)
    return found


def limits_of(case: Case) -> rpc.MessageLimits:
    """Return the limits under which the receiver of a case reads."""
    if not isinstance(case.read, rpc.Request):
        return rpc.FROM_SERVER
    return rpc.BEFORE_GREETING if case.read.method in {"hello", "resume"} else rpc.FROM_CLIENT


def test_the_table_is_complete() -> None:
    """Each request and each result class has a case, so no message can be added without its bytes."""
    assert {type(params) for params, _ in REQUESTS} == set(messages.RESULTS)
    assert {type(result) for result, _ in RESULTS} == set(messages.RESULTS.values())


@every_case
def test_written(case: Case) -> None:
    """The encoder gives the bytes of the plain form: field by field, defaults left out.

    Only the head of a map may be longer: of one that could have more than 15 fields it is that of a large one.
    """
    assert msgpack.packb(msgpack.unpackb(case.written)) == case.wire


@every_case
def test_read_whole(case: Case) -> None:
    """The reader gives the message, and its body converts into the very value that was written."""
    assert read([case.wire], limits_of(case)) == [case.read]
    assert rpc.convert(case.body_plain, type(case.body)) == case.body


@every_case
def test_read_byte_by_byte(case: Case) -> None:
    """The message is there with its last byte, and not before."""
    reader = rpc.Reader(limits_of(case))
    for at in range(len(case.wire) - 1):
        reader.feed(case.wire[at : at + 1])
        assert reader.next() is None
    reader.feed(case.wire[-1:])
    assert reader.next() == case.read
    assert reader.next() is None


@every_case
def test_read_with_tail(case: Case) -> None:
    """What follows in the same piece is not lost, whether whole or cut anywhere."""
    for cut in range(len(TAIL) + 1):
        assert read([case.wire + TAIL[:cut], TAIL[cut:]], limits_of(case)) == [case.read, TAIL_READ]


@every_case
def test_unknown_fields_are_ignored(case: Case) -> None:
    """A field that a later version may add changes nothing."""
    assert isinstance(case.body_plain, dict)
    assert rpc.convert({**case.body_plain, "added_later": [1, {"x": None}]}, type(case.body)) == case.body


def test_key_as_hexadecimal_digits() -> None:
    """A client without byte strings spells the key as text; both are the same key."""
    request = rpc.Request(1, "access", [{"key": "000102030405060708090A0b0c0d0e0f"}])
    spelled = rpc.parameters(request, messages.Access)
    assert spelled.key == messages.AccessKey(bytes(range(16)))


def test_the_bytes_of_a_loan_as_hexadecimal_digits() -> None:
    """So can be the id of a loan, its holder's key and his signature; what is no such thing is refused by its name."""
    spelled = {"id": "0a" * 16, "holder": "0b" * 32, "seconds": 60, "time": 5}
    borrow = rpc.parameters(rpc.Request(1, "borrow", [spelled]), messages.Borrow)
    assert (borrow.id, borrow.holder) == (b"\x0a" * 16, b"\x0b" * 32)
    receipt = {"container": "3-1", "id": "0a" * 16, "signature": "0C" * 64}
    assert rpc.parameters(rpc.Request(1, "give_back", [receipt]), messages.GiveBack).signature == b"\x0c" * 64
    for name, digits in (("id", "x" * 32), ("id", "0" * 31), ("holder", "0" * 66), ("holder", "0b" * 31 + "zz")):
        with pytest.raises(rpc.BadMessage, match=name):
            rpc.parameters(rpc.Request(1, "borrow", [spelled | {name: digits}]), messages.Borrow)


@given(st.lists(st.sampled_from(sorted(CASES)), max_size=5), st.data())
def test_arbitrary_cuts(names: list[str], data: st.DataObject) -> None:
    """However a stream of messages is cut into pieces, the same messages come out."""
    stream = b"".join(CASES[name].wire for name in names)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=12)))
    pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert read(pieces) == [CASES[name].read for name in names]
    assert read(pieces, rpc.FROM_CLIENT) == [CASES[name].read for name in names]
