"""What the host makes of a container's answers: it believes none that is not to its question."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers import image, keys, statement, update, wire
from drivers.container import LATEST, ContainerKind, Loan
from drivers.device import ChipDevice
from drivers.driver import DriverError, Faulty, ImageError, Purpose, Refused, Signed, Used
from drivers.firm_item import Owner, encode_owner
from drivers.wire import Command
from tests.drivers.chip.test_cuts import LONG
from tests.drivers.chips import CONTAINER, KEYS, NOW, chip_on, device_of, flash_of, item, parsed
from tests.drivers.samples import CONTAINER_KEY, FIRM_CODE, OWNER, STRANGER_KEY

NONCE = bytes(range(32))
KEY = bytes(range(16))
LOAN = Loan(bytes(range(16)), FIRM_CODE, 1, 1, NOW + 1000, keys.public_of(STRANGER_KEY))
STATION = bytes(range(64, 96))
BORROW = statement.borrow_body(LOAN.id, STATION)
TRACKING = statement.tracking_body(3, 40, NONCE, NOW)
CRYPT = statement.crypt_body(NONCE, FIRM_CODE, 2, NOW, 77, KEY)


def tampered(change: Callable[[Command, bytes], bytes]) -> ChipDevice:
    """Return a device whose container answers what this makes of the right answer."""
    chip = chip_on(flash_of())

    def exchange(command: Command, payload: bytes) -> bytes:
        status, answer = chip.answer(command, payload)
        wire.check_status(command, status)
        return change(command, answer)

    return ChipDevice(exchange, ContainerKind.HARDWARE)


def test_a_right_answer_is_given_on() -> None:
    """Statement and signature, of each purpose; whoever has the public key can verify them."""
    device = device_of(chip_on(flash_of()))
    device.consume(FIRM_CODE, 2, 3, KEY, NOW)
    for purpose, version, body in (
        (Purpose.PRESENCE, 1, NONCE),
        (Purpose.REQUEST, 1, NONCE),
        (Purpose.CRYPT, 2, CRYPT),
    ):
        signed = device.sign(purpose, body)
        assert keys.verify(OWNER.key, signed.signature, signed.message)
        assert signed.message.startswith(b"cmsign\0" + bytes([version, purpose]) + encode_owner(OWNER))
        assert NONCE in signed.message
    assert signed.message.endswith(struct.pack("<IIIIqQ16sIIq", FIRM_CODE, 15, 2, 7, NOW, 77, KEY, 3, 7, 0))
    assert statement.counts(signed) == statement.Counts(3, 7, 0)


def test_a_time_floor_that_is_later_is_signed_instead() -> None:
    """The container knows of a later time than this host: that is an answer."""
    device = device_of(chip_on(flash_of()))
    device.time(NOW + 5)
    assert struct.pack("<qQ16s", NOW + 5, 77, KEY) in device.sign(Purpose.CRYPT, CRYPT).message


def changed(at: int, octets: bytes) -> Callable[[bytes], bytes]:
    """Return a change of a statement: these bytes at a place, counted from the end if that is negative."""

    def change(message: bytes) -> bytes:
        start = at % len(message)
        return message[:start] + octets + message[start + len(octets) :]

    return change


LIES: dict[str, Callable[[bytes], bytes]] = {
    "another prefix": changed(0, b"cmfirm"),
    "another version": changed(7, b"\1"),
    "another purpose": changed(8, b"\3"),
    "another container": changed(11, b"\1"),
    "another key": changed(20, b"\1"),
    "another nonce": changed(60, b"\xff"),
    "another firm code": changed(-64, b"\1"),
    "another item": changed(-56, b"\1"),
    "an earlier time": changed(-48, struct.pack("<q", NOW - 1)),
    "another handle": changed(-40, b"\1"),
    "another use": changed(-32, b"\1"),
    "a usage before all times": changed(-8, struct.pack("<q", -1)),
    "a byte more": lambda message: message + b"\0",
    "a byte less": lambda message: message[:-1],
    "nothing but a prefix": lambda message: message[:49],
    "one byte": lambda message: message[:1],
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_statement_that_answers_something_else(lie: Callable[[bytes], bytes]) -> None:
    """The container signs it properly, and still it is not what it was asked."""

    def change(command: Command, answer: bytes) -> bytes:
        if command is not Command.SIGN:
            return answer
        message = lie(answer[64:])
        return keys.sign(CONTAINER_KEY, message) + message

    with pytest.raises(Faulty, match="signed something that it was not asked for"):
        tampered(change).sign(Purpose.CRYPT, CRYPT)


@pytest.mark.parametrize("purpose", [Purpose.PRESENCE, Purpose.REQUEST])
@pytest.mark.parametrize("at", [0, 8, 9, 49, 80])
def test_a_nonce_s_statement_that_answers_something_else(purpose: Purpose, at: int) -> None:
    """Prefix, purpose, owner and the whole nonce are looked at."""

    def change(command: Command, answer: bytes) -> bytes:
        if command is not Command.SIGN:
            return answer
        message = answer[64 : 64 + at] + bytes([answer[64 + at] ^ 1]) + answer[65 + at :]
        return keys.sign(CONTAINER_KEY, message) + message

    with pytest.raises(Faulty, match="signed something that it was not asked for"):
        tampered(change).sign(purpose, NONCE)


@pytest.mark.parametrize("at", [0, 63])
def test_a_wrong_signature(at: int) -> None:
    """A bit of it, or another key's, and nothing is believed."""

    def flip(command: Command, answer: bytes) -> bytes:
        return answer[:at] + bytes([answer[at] ^ 1]) + answer[at + 1 :] if command is Command.SIGN else answer

    def another(command: Command, answer: bytes) -> bytes:
        return keys.sign(STRANGER_KEY, answer[64:]) + answer[64:] if command is Command.SIGN else answer

    for change in (flip, another):
        with pytest.raises(Faulty, match="signature is not that of its key"):
            tampered(change).sign(Purpose.CRYPT, CRYPT)


def test_zeros_are_no_key() -> None:
    """They are a point of the curve, for which anybody can make signatures: what has no key has signed nothing."""
    owner = Owner(3, 7, ContainerKind.HARDWARE)
    beginning = b"cmsign\0\1\1" + encode_owner(owner) + NONCE
    small = [bytes(32), (1).to_bytes(32, "little"), (2**255 - 20).to_bytes(32, "little"), bytes(31) + b"\x80"]
    said = [Signed(beginning + bytes([number] * 8), point + bytes(32)) for number in range(64) for point in small]
    forged = [each for each in said if keys.verify(owner.key, each.signature, each.message)]
    assert forged
    for each in forged:
        with pytest.raises(Faulty, match="signature is not that of its key"):
            statement.check(Purpose.PRESENCE, NONCE, owner, each)


def test_a_container_without_a_key_signs_nothing() -> None:
    """Whatever it says, there is no key that it could have signed with."""
    unsigned = image.encode(CONTAINER)

    def change(command: Command, answer: bytes) -> bytes:
        if command is Command.INFO:
            return answer[:4] + struct.pack("<I", len(unsigned))
        if command is Command.SIGN:
            return answer[:64] + b"cmsign\0\1\1" + unsigned[16:56] + answer[113:]
        return unsigned[asked[0] :][: asked[1]]

    chip = chip_on(flash_of())
    asked = [0, 0]

    def exchange(command: Command, payload: bytes) -> bytes:
        if command is Command.READ_IMAGE:
            asked[:] = struct.unpack("<IH", payload)
            return change(command, b"")
        return change(command, chip.answer(command, payload)[1])

    with pytest.raises(Faulty, match="signature is not that of its key"):
        ChipDevice(exchange, ContainerKind.HARDWARE).sign(Purpose.PRESENCE, NONCE)


@pytest.mark.parametrize("body", [b"", bytes(31), bytes(33)])
def test_a_body_of_the_wrong_form(body: bytes) -> None:
    """The container refuses it; and one that does not has its answer refused."""
    sloppy = Signed(b"cmsign\0\1\1" + encode_owner(OWNER) + body + bytes(8), bytes(64))
    with pytest.raises(Faulty, match="BAD_REQUEST"):
        device_of(chip_on(flash_of())).sign(Purpose.PRESENCE, body)
    with pytest.raises(Faulty, match="not asked for"):
        statement.check(Purpose.PRESENCE, body, OWNER, sloppy)
    for short in (body, CRYPT[:20]):
        with pytest.raises(Faulty, match="not asked for"):
            statement.check(Purpose.CRYPT, short, OWNER, Signed(sloppy.message[:8] + b"\2" + sloppy.message[9:], b""))


@given(st.binary(max_size=200))
def test_random_answers_give_nothing_but_driver_errors(octets: bytes) -> None:
    """Whatever it sends to whatever command, there is a sentence."""
    questions: list[Callable[[ChipDevice], object]] = [
        lambda device: device.borrow(LOAN, NOW),
        lambda device: device.give_back(LOAN.id, bytes(64), NOW),
        lambda device: device.sign(Purpose.BORROW, BORROW),
        lambda device: device.sign(Purpose.TRACKING, TRACKING),
        lambda device: device.read(),
        lambda device: device.sign(Purpose.CRYPT, CRYPT),
        lambda device: device.time(0),
        lambda device: device.consume(FIRM_CODE, 2, 1, KEY, NOW),
        lambda device: device.nonce(),
    ]
    for question in questions:
        try:
            question(ChipDevice(lambda _command, _payload: octets, ContainerKind.HARDWARE))
        except DriverError:
            continue


@pytest.mark.parametrize("command", [Command.CONSUME, Command.TIME, Command.NONCE, Command.BORROW, Command.RETURN])
@pytest.mark.parametrize("length", [-1, 1])
def test_an_answer_of_the_wrong_length(command: Command, length: int) -> None:
    """Nothing is guessed from it."""

    def change(asked: Command, answer: bytes) -> bytes:
        return answer if asked is not command else (answer[:-1] if length < 0 else answer + b"\0")

    device = tampered(change)
    questions: dict[Command, Callable[[], object]] = {
        Command.CONSUME: lambda: device.consume(FIRM_CODE, 2, 1, KEY, NOW),
        Command.TIME: lambda: device.time(0),
        Command.NONCE: device.nonce,
        Command.BORROW: lambda: device.borrow(LOAN, NOW),
        Command.RETURN: lambda: device.give_back(LOAN.id, bytes(64), NOW),
    }
    with pytest.raises(Faulty, match=f"answered {command.name} with"):
        questions[command]()


@pytest.mark.parametrize("instant", [-1, LATEST + 1, 2**63 - 1, -(2**63)])
def test_a_time_that_cannot_be(instant: int) -> None:
    """Anybody can make a dongle that says it is after the year 9999: nobody else's time may stop for that."""

    def change(command: Command, answer: bytes) -> bytes:
        said = struct.pack("<q", instant)
        return {
            Command.CONSUME: answer[:4] + said + answer[12:],
            Command.TIME: said,
            Command.NONCE: answer[:32] + said,
            Command.BORROW: said,
        }.get(command, answer)

    device = tampered(change)
    questions: tuple[Callable[[], object], ...] = (
        lambda: device.time(0),
        device.nonce,
        lambda: device.consume(FIRM_CODE, 2, 1, KEY, NOW),
        lambda: device.borrow(LOAN, NOW),
    )
    for question in questions:
        with pytest.raises(Faulty, match="which no license time can be"):
            question()


def test_uses_and_refusals() -> None:
    """Units as a number or None, and each refusal with its number."""
    device = device_of(chip_on(flash_of()))
    assert device.consume(FIRM_CODE, 1, 0, KEY, NOW) == Used(None, 0, 0)
    assert device.consume(FIRM_CODE, 2, 3, bytes([1] * 16), NOW) == Used(7, 0, 3)
    assert device.consume(FIRM_CODE, 3, 1, bytes([2] * 16), NOW) == Used(4, NOW, 1)
    for reference, delta, number in ((9, 0, 28), (1, 1, 31), (2, 8, 33)):
        with pytest.raises(Refused) as refused:
            device.consume(FIRM_CODE, reference, delta, bytes([3] * 16), NOW)
        assert refused.value.number == number
    for length in (0, 15, 17):
        with pytest.raises(ValueError, match="key has 16 bytes"):
            device.consume(FIRM_CODE, 2, 1, bytes(length), NOW)


@pytest.mark.parametrize("limit", [9, 100, 4096])
def test_an_update_comes_in_pieces_that_the_container_can_take(limit: int) -> None:
    """However small its payloads are."""
    chip = chip_on(flash_of())
    lengths = []

    def exchange(command: Command, payload: bytes) -> bytes:
        lengths.append(len(payload))
        status, answer = chip.answer(command, payload)
        wire.check_status(command, status)
        return struct.pack("<BBH", 1, 1, limit) + answer[4:] if command is Command.INFO else answer

    ChipDevice(exchange, ContainerKind.HARDWARE).apply(LONG)
    assert max(lengths) == limit
    assert parsed(chip).container.firm_items[0].update_counter == 8


def test_a_container_that_takes_no_pieces() -> None:
    """Its payloads are too small for an update: a sentence, and no endless loop."""
    with pytest.raises(Faulty, match="takes no payload that an update could come in"):
        tampered(lambda _, answer: struct.pack("<BBH", 1, 1, 8) + answer[4:]).apply(LONG)


def test_an_update_that_is_damaged_is_not_sent() -> None:
    """The host looks first; the container is not even asked."""

    def exchange(command: Command, payload: bytes) -> bytes:
        raise AssertionError(command)

    for damaged in (b"", LONG[:-1], LONG[:100] + b"?" + LONG[101:]):
        with pytest.raises(ImageError):
            ChipDevice(exchange, ContainerKind.HARDWARE).apply(damaged)


def test_a_certified_time() -> None:
    """Nonce, update, new floor: what has passed since is added, and the nonce is spent."""
    chip = chip_on(flash_of())
    device = device_of(chip)
    device.time(NOW + 1000)
    nonce, asked = device.nonce()
    assert asked == NOW + 1000
    device.time(NOW + 1060)
    certified = update.encode_time(OWNER, nonce, NOW, KEYS.licensors[FIRM_CODE])
    device.apply(certified)
    assert device.time(0) == NOW + 60
    with pytest.raises(Refused, match="its request was answered") as refused:
        device.apply(certified)
    assert refused.value.number == 229
    assert device.time(0) == NOW + 60
    assert item(chip, 2).units_used == 0
