"""The frames on the USB, fixed by example: a dongle that was built once must be understood for ever."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers import wire
from drivers.driver import DriverError, Faulty, Refused, Unsupported
from drivers.usb import frames
from drivers.usb.frames import ReplyHeader
from drivers.wire import Command, Info


def test_commands_by_example() -> None:
    """The bytes of each command that today's dongles answer."""
    assert frames.encode_command(Command.INFO, 1).hex() == "0101010000000000"
    chunk = wire.encode_chunk(0x1000, 0x0200)
    assert frames.encode_command(Command.READ_IMAGE, 0x0203, chunk).hex() == "0102030206000000" + "001000000002"


def test_the_numbers_of_the_commands() -> None:
    """Numbers never change."""
    assert {command.name: command.value for command in Command} == {
        "INFO": 1,
        "READ_IMAGE": 2,
        "SIGN": 16,
        "CONSUME": 17,
        "APPLY": 18,
        "TIME": 19,
        "NONCE": 20,
        "INIT": 21,
        "BORROW": 22,
        "RETURN": 23,
    }


def test_replies_by_example() -> None:
    """A captured reply to INFO, and what it says."""
    octets = bytes.fromhex("0181010008000000" + "0101001013090000")
    header = frames.decode_reply_header(octets)
    assert header == ReplyHeader(0x81, 1, 8, 0)
    frames.check_reply(header, Command.INFO, 1)
    assert wire.decode_info(octets[8:]) == Info((1, 1), 4096, 0x913)


def test_a_later_dongle_may_say_more_of_itself() -> None:
    """More bytes, and more versions, are fine as long as ours is among them."""
    assert wire.decode_info(bytes.fromhex("0103001013090000") + b"more").versions == (1, 3)


@pytest.mark.parametrize(
    ("octets", "sentence"),
    [
        ("01810100080000", "7 bytes, which is no whole header"),
        ("0281010000000500", "speaks version 2 of its protocol, this software version 1"),
        ("0181010000000500", "speaks version 1"),
        ("0181010001100000", "announces a reply of 4097 bytes; the most is 4096"),
    ],
)
def test_a_header_that_cannot_be(octets: str, sentence: str) -> None:
    """Length and version are checked before anything else is read."""
    with pytest.raises(Faulty, match=sentence):
        frames.decode_reply_header(bytes.fromhex(octets))


@pytest.mark.parametrize("header", [ReplyHeader(0x90, 8, 0, 0), ReplyHeader(0x91, 7, 0, 0), ReplyHeader(0x10, 7, 0, 0)])
def test_a_reply_to_something_else(header: ReplyHeader) -> None:
    """Command and tag are those of the question, whatever the status."""
    with pytest.raises(Faulty, match="was not asked"):
        frames.check_reply(header, Command.SIGN, 7)
    frames.check_reply(ReplyHeader(0x90, 7, 0, 99), Command.SIGN, 7)


@pytest.mark.parametrize(
    ("status", "expected", "sentence"),
    [
        (1, Unsupported, "does not support SIGN"),
        (2, Unsupported, "does not support SIGN"),
        (3, Faulty, r"refused SIGN \(BAD_REQUEST\)"),
        (4, Faulty, r"refused SIGN \(OUT_OF_RANGE\)"),
        (77, Faulty, r"refused SIGN \(status 77\)"),
    ],
)
def test_a_status_that_is_no_success(status: int, expected: type[DriverError], sentence: str) -> None:
    """What a dongle can't do is Unsupported; what it should not do is Faulty."""
    with pytest.raises(expected, match=sentence) as raised:
        wire.check_status(Command.SIGN, status)
    assert type(raised.value) is expected


@pytest.mark.parametrize(
    ("status", "number"),
    [(6, 28), (7, 31), (8, 32), (9, 33), (10, 233), (11, 229), (12, 228), (13, 211), (14, 233)]
    + [(each, 226) for each in (17, 18, 19, 20)],
)
def test_a_refusal_has_the_field_s_number(status: int, number: int) -> None:
    """Whoever asked learns why, by number and in a sentence."""
    with pytest.raises(Refused, match=r"\.$") as raised:
        wire.check_status(Command.CONSUME, status)
    assert raised.value.number == number


@pytest.mark.parametrize(
    ("payload", "sentence"),
    [
        ("01010010130900", "in 7 bytes"),
        ("0203001013090000", "speaks versions 2 to 3"),
        ("0101000013090000", "payloads of 0 bytes"),
        ("0101011013090000", "payloads of 4097 bytes"),
        ("0101001001400100", "an image of 81921 bytes; the most is 81920"),
        ("01010010ffffffff", "an image of 4294967295 bytes"),
    ],
)
def test_a_description_that_cannot_be(payload: str, sentence: str) -> None:
    """Every announced length is bounded before memory is taken."""
    with pytest.raises(Faulty, match=sentence):
        wire.decode_info(bytes.fromhex(payload))


@given(st.binary(max_size=80))
def test_random_bytes_give_nothing_but_faulty(octets: bytes) -> None:
    """Whatever a dongle sends, the answer is a value or a sentence."""
    for function in (
        frames.decode_reply_header,
        wire.decode_info,
        wire.decode_used,
        wire.decode_signed,
        wire.decode_time,
        wire.decode_nonce,
    ):
        try:
            function(octets)
        except Faulty:
            continue


def test_a_payload_beyond_the_limit_is_our_mistake() -> None:
    """No command is sent that no dongle could take."""
    with pytest.raises(ValueError, match="at most 4096 bytes"):
        frames.encode_command(Command.APPLY, 1, bytes(4097))
