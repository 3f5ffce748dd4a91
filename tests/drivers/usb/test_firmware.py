"""The dongle's own side, packet by packet: what it answers, and how it refuses."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import drivers
from drivers.chip.chip import Memory
from drivers.usb.firmware import Firmware, Stall

IMAGE = bytes(range(256)) * 20


@pytest.fixture
def dongle() -> Firmware:
    """Return a dongle that was plugged in and configured."""
    firmware = Firmware(Memory(IMAGE))
    firmware.reset()
    firmware.control(0x00, 9, 1, 0, 0)
    return firmware


def ask(dongle: Firmware, frame: str) -> bytes:
    """Send a command, given in hexadecimal, and return the whole reply."""
    octets = bytes.fromhex(frame)
    for at in range(0, len(octets), 64):
        assert dongle.out_packet(0x01, octets[at : at + 64])
    reply = b""
    while (packet := dongle.in_packet(0x81)) is not None:
        reply += packet
    return reply


@pytest.mark.parametrize(
    ("command", "reply"),
    [
        ("0101070000000000", "0181070008000000" + "0101001000140000"),  # INFO: 0x1400 bytes
        ("0101070001000000ff", "0181070000000300"),  # INFO with a payload
        ("010207000600000002000000" + "0300", "0182070003000000" + "020304"),  # READ_IMAGE
        ("010207000600000000140000" + "0000", "0182070000000000"),  # nothing, at the end
        ("0102070006000000ff130000" + "0200", "0182070000000400"),  # beyond the end
        ("010207000600000000000000" + "0110", "0182070000000400"),  # too much at once
        ("0102070005000000" + "0000000000", "0182070000000300"),  # a payload of five bytes
        ("0110070000000000", "0190070000000200"),  # SIGN, which a memory cannot
        ("0111070000000000", "0191070000000200"),  # CONSUME, likewise
        ("0112070000000000", "0192070000000200"),  # APPLY, likewise
        ("0113070000000000", "0193070000000200"),  # TIME, likewise
        ("0114070000000000", "0194070000000200"),  # NONCE, likewise
        ("0163070000000000", "01e3070000000100"),  # a command that there is not
        ("0201070000000000", "0181070000000500"),  # another protocol version
    ],
)
def test_commands_and_replies_by_example(dongle: Firmware, command: str, reply: str) -> None:
    """The bytes on the wire, as `docs/drivers.md` has them."""
    assert ask(dongle, command).hex() == reply


def test_a_long_reply_comes_in_packets(dongle: Firmware) -> None:
    """64 bytes each; the last is shorter, and none is empty."""
    dongle.out_packet(0x01, bytes.fromhex("010201000600000000000000" + "8000"))
    lengths = [len(dongle.in_packet(0x81) or b"") for _ in range(4)]
    assert lengths == [64, 64, 8, 0]


def test_the_next_command_waits_until_the_reply_is_fetched(dongle: Firmware) -> None:
    """One frame is all that a small chip can hold: until then it answers NAK."""
    info = bytes.fromhex("0101070000000000")
    assert dongle.out_packet(0x01, info)
    assert not dongle.out_packet(0x01, info)
    assert dongle.in_packet(0x81) is not None
    assert dongle.out_packet(0x01, info)


@pytest.mark.parametrize("request_", [(0x41, 1, 0, 0), (0x00, 9, 1, 0)])
def test_what_was_half_done_is_discarded(dongle: Firmware, request_: tuple[int, int, int, int]) -> None:
    """After a host died in the middle, the next one starts afresh."""
    dongle.out_packet(0x01, bytes.fromhex("0102070000010000").ljust(64, b"\0"))
    dongle.control(*request_, 0)
    assert ask(dongle, "0101090000000000").hex().startswith("01810900")


@pytest.mark.parametrize(
    "packet",
    ["010107", "0101070001100000", "010107000000000000", "01010700ff000000"],
    ids=["shorter than a header", "an announced length beyond the limit", "more than announced", "less than announced"],
)
def test_what_is_no_frame_halts_both_endpoints(dongle: Firmware, packet: str) -> None:
    """Until the host clears each, the dongle takes and gives nothing; what was half done is gone."""
    with pytest.raises(Stall):
        dongle.out_packet(0x01, bytes.fromhex(packet))
    for endpoint in (0x01, 0x81):
        assert dongle.control(0x82, 0, 0, endpoint, 2) == b"\x01\x00"
    with pytest.raises(Stall):
        dongle.in_packet(0x81)
    for endpoint in (0x01, 0x81):
        dongle.control(0x02, 1, 0, endpoint, 0)
    assert ask(dongle, "0101090000000000").hex().startswith("01810900")


def test_descriptors(dongle: Firmware) -> None:
    """The ids, a vendor's interface with two bulk endpoints of 64 bytes, and two names."""
    assert dongle.control(0x80, 6, 0x0100, 0, 18).hex() == "12010002ff000040" + "091201000001" + "01020001"
    assert dongle.control(0x80, 6, 0x0200, 0, 255).hex() == (
        "0902200001010080320904000002ff43010007050102400000" + "07058102400000"
    )
    assert dongle.control(0x80, 6, 0x0200, 0, 4) == dongle.control(0x80, 6, 0x0200, 0, 255)[:4]
    assert dongle.control(0x80, 6, 0x0300, 0, 255) == b"\x04\x03\x09\x04"
    assert dongle.control(0x80, 6, 0x0302, 0x0409, 255)[2:].decode("utf-16-le") == "CmContainer dongle"


def test_standard_requests(dongle: Firmware) -> None:
    """What every host asks: status, configuration, interface."""
    assert dongle.control(0x80, 0, 0, 0, 2) == b"\0\0"
    assert dongle.control(0x81, 0, 0, 0, 2) == b"\0\0"
    assert dongle.control(0x80, 8, 0, 0, 1) == b"\1"
    assert dongle.control(0x81, 10, 0, 0, 1) == b"\0"
    assert dongle.control(0x01, 11, 0, 0, 0) == b""


@pytest.mark.parametrize(
    "request_",
    [(0x80, 6, 0x0303, 0, 8), (0x80, 6, 0x0101, 0, 8), (0xC0, 1, 0, 0, 8), (0x00, 9, 2, 0, 0), (0x41, 1, 0, 0, 4)],
)
def test_unknown_requests_stall(dongle: Firmware, request_: tuple[int, int, int, int, int]) -> None:
    """A request that the dongle does not know is refused as USB wants it."""
    with pytest.raises(Stall):
        dongle.control(*request_)


def test_before_it_is_configured_it_does_nothing() -> None:
    """The endpoints exist only in a configuration."""
    firmware = Firmware(Memory(IMAGE))
    with pytest.raises(Stall):
        firmware.in_packet(0x81)
    with pytest.raises(Stall):
        firmware.out_packet(0x01, bytes(8))


def test_the_two_sides_share_no_code() -> None:
    """Firmware and chip import nothing else of ours, and of the host's side only who makes a dongle knows them."""
    root = Path(drivers.__path__[0])
    imports: dict[str, set[str]] = {}
    for path in root.rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        modules = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
        modules |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        name = ".".join(path.relative_to(root.parent).with_suffix("").parts)
        imports[name] = {module for module in modules if module.startswith(("drivers", "usb"))}
    dongle = {name for name in imports if name.startswith("drivers.chip.")} | {"drivers.usb.firmware"}
    assert len(dongle) >= 5
    for name in dongle:
        assert all(module.startswith("drivers.chip.") for module in imports[name]), name
    knowing = {name for name, modules in imports.items() if modules & dongle} - dongle
    assert knowing == {"drivers.usb.backend", "drivers.usb.embedded", "drivers.cmc"}
    ours = {module for module in imports["drivers.usb.backend"] if module.startswith("drivers")}
    assert ours == {"drivers.usb.firmware"}
