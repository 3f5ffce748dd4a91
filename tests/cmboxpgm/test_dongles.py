"""Dongles: the same commands with `--usb`, over the whole driver and a bus inside the process."""

from __future__ import annotations

from functools import partial

import pytest

from cmserverd.cmboxpgm import containers
from drivers import image, wire
from drivers.chip.banks import program
from drivers.chip.blank import Blank
from drivers.chip.chip import Answer, Chip, Command, Memory
from drivers.chip.flash import MemoryFlash
from drivers.container import Container, ContainerKind, ProductItem, container_id
from drivers.image import SigningKeys
from drivers.usb.backend import InProcessBackend
from drivers.usb.driver import UsbDriver
from drivers.usb.firmware import Firmware
from tests.cmboxpgm.bench import FIRM_CODE, Bench
from tests.drivers.samples import CONTAINER_KEY, SIGNING, demo_container


def dongle(number: int = 1) -> Firmware:
    """Return an empty dongle."""
    empty = Container(container_id(3, number), ContainerKind.HARDWARE)
    flash = MemoryFlash()
    program(flash, image.encode(empty, signing=SigningKeys(CONTAINER_KEY)))
    return Firmware(Chip(flash, CONTAINER_KEY))


@pytest.fixture
def bus(monkeypatch: pytest.MonkeyPatch) -> InProcessBackend:
    """Return the bus that the tool sees, with nothing plugged in."""
    bus = InProcessBackend()
    monkeypatch.setattr(containers, "UsbDriver", partial(UsbDriver, backend=bus))
    return bus


USB = ("--usb",)


def test_a_dongle_is_programmed(bench: Bench, bus: InProcessBackend) -> None:
    """Enrolled, programmed, asked for a request, updated and listed, as a virtual container is."""
    firmware = dongle()
    bus.plug(firmware)
    bench.done("keygen", "--firm-code", str(FIRM_CODE), "--key", "licensor.key")
    assert bench.done("enroll", *USB, "--ledger", "ledger.json")["kind"] == "hardware"
    bench.program("item", "--item", "1", "--product-code", "14", where=USB)
    bench.done("request", *USB, "--out", "a.request")
    bench.program("item", "--item", "2", "--product-code", "15", where=("--request", "a.request", "--update", "a"))
    bench.done("apply", *USB, "--update", "a")
    assert bench.done("list", *USB)["container"]["kind"] == "hardware"
    with containers.opened_dongle() as device:
        found = image.decode(device.read(), bench.trust)
    assert found.firm_items[0].products == (ProductItem(1, 14), ProductItem(2, 15))


def blank() -> Firmware:
    """Return a dongle that nobody has made a container of."""
    return Firmware(Blank(MemoryFlash()))


def test_an_empty_dongle_is_made_a_container(bench: Bench, bus: InProcessBackend) -> None:
    """Beside one that is a container already; then it is enrolled, programmed, and serves."""
    address = bus.plug(dongle())
    bus.plug(blank())
    made = bench.done("create", *USB, "--id", "3-7", "--text", "Demo")
    assert (made["id"], made["file"]) == ("3-7", None)
    assert "have the one plugged in" in bench.refused("create", *USB, "--id", "3-8")
    bus.unplug(address)
    bench.done("keygen", "--firm-code", str(FIRM_CODE), "--key", "licensor.key")
    enrolled = bench.done("enroll", *USB, "--ledger", "ledger.json")
    assert (enrolled["id"], enrolled["kind"], enrolled["public_key"]) == ("3-7", "hardware", made["public_key"])
    bench.program("item", "--item", "1", "--product-code", "14", where=USB)
    held = bench.done("list", *USB)["container"]
    assert (held["text"], held["firm_items"][0]["items"][0]["product_code"]) == ("Demo", 14)


def test_an_empty_dongle_says_what_to_do(bench: Bench, bus: InProcessBackend) -> None:
    """Whatever else is asked of it."""
    bus.plug(blank())
    for command in (["list"], ["enroll", "--ledger", "ledger.json"], ["request", "--time", "--out", "a.request"]):
        assert "The dongle is empty; make a container of it (cmboxpgm create --usb)" in bench.refused(*command, *USB)
    assert not bench.files()


def test_exactly_one_empty_dongle_is_meant(bench: Bench, bus: InProcessBackend) -> None:
    """None, or two: the tool does not guess, and what is a container stays what it is."""
    create = ("create", *USB, "--id", "3-7")
    assert "No empty dongle is plugged in" in bench.refused(*create)
    bus.plug(dongle())
    assert "No empty dongle is plugged in" in bench.refused(*create)
    addresses = [bus.plug(blank()), bus.plug(blank())]
    assert "2 empty dongles are plugged in" in bench.refused(*create)
    for address in addresses:
        bus.unplug(address)
    assert bench.done("list", *USB)["container"]["id"] == "3-1"
    assert "--file" in bench.misused("create", "--id", "3-7")
    assert "not allowed with" in bench.misused(*create, "--file", "box.cmc")


def test_a_dongle_that_another_process_has_may_be_the_empty_one(bench: Bench, bus: InProcessBackend) -> None:
    """It is said why it was not looked at, unless another one is empty."""
    bus.plug(dongle())
    with containers.opened_dongle():
        assert "Another process has the dongle" in bench.refused("create", *USB, "--id", "3-7")
        bus.plug(blank())
        assert bench.done("create", *USB, "--id", "3-7")["id"] == "3-7"


def test_exactly_one_dongle_is_meant(bench: Bench, bus: InProcessBackend) -> None:
    """None, or two: the tool does not guess."""
    assert "No dongle is plugged in" in bench.refused("list", *USB)
    bus.plug(dongle(1))
    bus.plug(dongle(2))
    assert "2 dongles are plugged in" in bench.refused("list", *USB)


def test_a_dongle_without_a_key_is_not_enrolled(bench: Bench, bus: InProcessBackend) -> None:
    """Nobody could tell it from a copy."""
    bus.plug(Firmware(Memory(image.encode(demo_container()))))
    bench.refused("enroll", *USB, "--ledger", "ledger.json")
    assert bench.done("list", *USB)["container"]["public_key"] is None
    assert bench.run("list", *USB) == 0
    assert "without a key" in bench.out
    assert not bench.files()


def test_a_dongle_that_has_not_the_key_it_shows_is_not_enrolled(bench: Bench, bus: InProcessBackend) -> None:
    """It must sign before it is believed: an image can be copied, a key cannot."""
    flash = MemoryFlash()
    program(flash, image.encode(demo_container(), signing=SIGNING))

    class Copied(Chip):
        def _sign(self, purpose: int, body: bytes) -> bytes:
            return bytes(64) + super()._sign(purpose, body)[64:]

    bus.plug(Firmware(Copied(flash, CONTAINER_KEY)))
    assert "signature is not that of its key" in bench.refused("enroll", *USB, "--ledger", "ledger.json")
    assert not bench.files()


@pytest.mark.parametrize("programs", [False, True])
def test_an_earlier_state_of_a_dongle_is_not_believed(programs: bool, bench: Bench, bus: InProcessBackend) -> None:
    """It is signed as the present one is, and the dongle behind it has the key; the number of its state is another."""
    firmware = dongle()
    chip = firmware._chip
    bench.done("keygen", "--firm-code", str(FIRM_CODE), "--key", "licensor.key")
    earlier = chip.image

    class Proxy(Memory):
        def answer(self, command: int, payload: bytes) -> Answer:
            reads = command in {Command.INFO, Command.READ_IMAGE}
            return super().answer(command, payload) if reads else chip.answer(command, payload)

    bus.plug(firmware)
    if programs:
        bench.done("enroll", *USB, "--ledger", "ledger.json")
    assert chip.answer(Command.TIME, wire.encode_time(1_700_000_000))[0] == 0
    firmware._chip = Proxy(earlier)
    before = bench.files()
    command = (
        bench.programming("item", "--item", "1", "--product-code", "14", where=USB)
        if programs
        else ["enroll", *USB, "--ledger", "ledger.json"]
    )
    assert "its state is number 2, and the one that was read is number 1" in bench.refused(*command)
    assert bench.files() == before
