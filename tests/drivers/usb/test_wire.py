"""The protocol's bytes, fixed by example: a dongle that was built once must be understood for ever."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.driver import DriverError, Faulty, Unsupported
from drivers.usb import wire
from drivers.usb.wire import Command, Info, ReplyHeader


def test_commands_by_example() -> None:
    """The bytes of each command that today's dongles answer."""
    assert wire.encode_command(Command.INFO, 1).hex() == "0101010000000000"
    chunk = wire.encode_chunk(0x1000, 0x0200)
    assert wire.encode_command(Command.READ_IMAGE, 0x0203, chunk).hex() == "0102030206000000" + "001000000002"


def test_the_numbers_of_the_commands() -> None:
    """Numbers never change; those from 16 on are reserved."""
    assert {command.name: command.value for command in Command} == {
        "INFO": 1,
        "READ_IMAGE": 2,
        "SIGN": 16,
        "CONSUME": 17,
        "APPLY": 18,
    }


def test_replies_by_example() -> None:
    """A captured reply to INFO, and what it says."""
    octets = bytes.fromhex("0181010008000000" + "0101001013090000")
    header = wire.decode_reply_header(octets)
    assert header == ReplyHeader(0x81, 1, 8, 0)
    wire.check_reply(header, Command.INFO, 1)
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
        wire.decode_reply_header(bytes.fromhex(octets))


@pytest.mark.parametrize(
    ("header", "expected", "sentence"),
    [
        (ReplyHeader(0x90, 7, 0, 1), Unsupported, "does not support SIGN"),
        (ReplyHeader(0x90, 7, 0, 2), Unsupported, "does not support SIGN"),
        (ReplyHeader(0x90, 7, 0, 3), Faulty, r"refused SIGN \(BAD_REQUEST\)"),
        (ReplyHeader(0x90, 7, 0, 77), Faulty, r"refused SIGN \(status 77\)"),
        (ReplyHeader(0x90, 8, 0, 0), Faulty, "was not asked"),
        (ReplyHeader(0x91, 7, 0, 0), Faulty, "was not asked"),
        (ReplyHeader(0x10, 7, 0, 0), Faulty, "was not asked"),
    ],
)
def test_a_reply_that_is_no_success(header: ReplyHeader, expected: type[DriverError], sentence: str) -> None:
    """What a dongle can't do is Unsupported; what it should not do is Faulty."""
    with pytest.raises(expected, match=sentence):
        wire.check_reply(header, Command.SIGN, 7)


@pytest.mark.parametrize(
    ("payload", "sentence"),
    [
        ("01010010130900", "in 7 bytes"),
        ("0203001013090000", "speaks versions 2 to 3"),
        ("0101000013090000", "payloads of 0 bytes"),
        ("0101011013090000", "payloads of 4097 bytes"),
        ("0101001001000100", "an image of 65537 bytes; the most is 65536"),
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
    for function in (wire.decode_reply_header, wire.decode_info):
        try:
            function(octets)
        except Faulty:
            continue


def test_a_payload_beyond_the_limit_is_our_mistake() -> None:
    """No command is sent that no dongle could take."""
    with pytest.raises(ValueError, match="at most 4096 bytes"):
        wire.encode_command(Command.APPLY, 1, bytes(4097))
