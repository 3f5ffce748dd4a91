"""Watchers: dongles come, go, move, change and fail, and what that means for the licenses in them."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock, wait_all_tasks_blocked

from cmserverd.absences import Absences
from cmserverd.clock import LicenseClock
from cmserverd.watcher import Intervals
from drivers import image, wire
from drivers.chip.blank import Blank
from drivers.chip.chip import Memory
from drivers.chip.flash import MemoryFlash
from drivers.container import Container, ContainerId, ContainerKind, QuantityFlag
from drivers.driver import Busy, Dongle, DriverError, Empty, NoAnswer, Vanished
from drivers.trust import Trust
from drivers.usb.backend import InProcessBackend
from drivers.usb.driver import UsbDriver, UsbOptions
from drivers.usb.firmware import Firmware
from drivers.virtual import VirtualDriver, VirtualOptions
from protocol import messages as m
from protocol.errors import ErrorNumber, LicenseError
from tests.daemon import test_crypt as signed
from tests.daemon.harness import CHARTS, FIRM, TWO_CHARTS, Talk, access, charts, hello, make_service, number_of, until
from tests.daemon.plugs import GRACE, POLL, FakeDriver, Hints, Stick, each_fault, watching
from tests.drivers.samples import demo_container, replace_once
from tests.drivers.usb.dongles import Counting, driver_on, only


def complaints(said: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return level and reason of what went wrong."""
    return [(line["log_level"], line.get("reason", "")) for line in said if line["log_level"] in ("warning", "error")]


# --- plugging in and out ------------------------------------------------------------------------------------------


async def test_what_is_plugged_in_is_used_and_what_is_pulled_out_is_missed(mock_clock: MockClock) -> None:
    """Its licenses are granted; pulled out, what is granted stands for the grace, and nothing new is granted."""
    driver = FakeDriver(Hints())
    async with watching(mock_clock, driver) as bench:
        await bench.look()
        stick = driver.ports["1"] = Stick(charts())
        await bench.look()
        talk = Talk(bench.service, greeting=hello(events="push"))
        handle = talk.ask(access()).handle
        del driver.ports["1"]
        await bench.look()
        assert bench.containers() == {"3-1": False}
        assert stick.closed == 1
        with pytest.raises(LicenseError) as refusal:
            talk.ask(access())
        assert number_of(refusal.value) == ErrorNumber.BOX_LOST
        await bench.passes(GRACE - 0.1)
        assert talk.ask(m.Info(handle)).handle == handle
        await bench.passes(0.2)
        assert bench.containers() == {}
        assert [event.handle for event in talk.inbox.events] == [handle]


@pytest.mark.parametrize(("away", "stands"), [(GRACE - 1, True), (GRACE + 1, False)])
async def test_a_dongle_that_flickers_keeps_its_accesses(away: float, stands: bool, mock_clock: MockClock) -> None:
    """Back within the grace, in whatever port, it is as if nothing had been; later, it comes anew."""
    driver = FakeDriver(Hints())
    driver.ports["1"] = Stick(charts())
    async with watching(mock_clock, driver) as bench:
        await bench.look()
        talk = Talk(bench.service, greeting=hello())
        handle = talk.ask(access()).handle
        stick = driver.ports.pop("1")
        await bench.look()
        await bench.passes(away)
        driver.ports["2.4"] = stick
        await bench.look()
        await bench.passes(10 * GRACE)  # the grace that was running is over and forgotten
        assert bench.containers() == {"3-1": True}
        if stands:
            assert talk.ask(m.Info(handle)).handle == handle
        else:
            with pytest.raises(LicenseError):
                talk.ask(m.Info(handle))


async def test_each_absence_has_its_own_grace(mock_clock: MockClock) -> None:
    """Pulled, plugged and pulled again: the second grace is a full one."""
    driver = FakeDriver(Hints())
    driver.ports["1"] = Stick(charts())
    async with watching(mock_clock, driver) as bench:
        await bench.look()
        for _ in range(3):
            stick = driver.ports.pop("1")
            await bench.look()
            await bench.passes(GRACE - 1)
            assert bench.containers() == {"3-1": False}
            driver.ports["1"] = stick
            await bench.look()
            assert bench.containers() == {"3-1": True}


async def test_the_accesses_of_a_gone_container_do_not_hold_the_loop(
    mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others have their turn while they are ended, and if the container comes back then, the rest stands."""
    monkeypatch.setattr("cmserverd.absences._SLICE", 1)
    service = make_service()
    engine = service.engine
    container = charts().id
    engine.plug(charts(quantity=9))
    talk = Talk(service, greeting=hello())
    handles = [talk.ask(access()).handle for _ in range(9)]
    async with trio.open_nursery() as nursery:
        absences = Absences(engine, GRACE, nursery)
        absences.begin(container)
        await wait_all_tasks_blocked()
        mock_clock.jump(GRACE + 1)
        while len(engine.table.accesses) == 9:
            await trio.lowlevel.checkpoint()
        absences.end(container)
        engine.plug(charts(quantity=9))
        await wait_all_tasks_blocked()
    left = [handle for handle in handles if handle in engine.table.accesses]
    assert 0 < len(left) < 9
    assert left == handles[-len(left) :]
    assert engine.table.containers[container].present


async def test_a_replug_between_two_looks_is_an_unplug_and_a_plug(mock_clock: MockClock) -> None:
    """The old device is closed, the new one opened, and the accesses stand."""
    driver = FakeDriver(Hints())
    first = driver.ports["1"] = Stick(charts())
    async with watching(mock_clock, driver) as bench:
        await bench.look()
        talk = Talk(bench.service, greeting=hello())
        handle = talk.ask(access()).handle
        second = driver.ports["1"] = Stick(charts())
        await bench.look()
        assert (first.opened, first.closed, second.opened, second.closed) == (1, 1, 1, 0)
        assert talk.ask(m.Info(handle)).handle == handle
        assert bench.containers() == {"3-1": True}


async def test_contents_that_come_back_changed_are_the_new_ones(mock_clock: MockClock) -> None:
    """More licenses can be had, and of fewer only so many stand."""
    driver = FakeDriver(Hints())
    driver.ports["1"] = Stick(charts(quantity=2))
    async with watching(mock_clock, driver) as bench:
        await bench.look()
        talk = Talk(bench.service, greeting=hello(events="push"))
        for _ in range(2):
            talk.ask(access())
        driver.ports["1"] = Stick(charts(quantity=3))
        await bench.look()
        talk.ask(access())
        driver.ports["1"] = Stick(charts(quantity=1))
        await bench.look()
        assert [event.error.cause for event in talk.inbox.events if event.error] == ["reprogrammed"] * 2
        assert talk.ask(m.Info(1)).handle == 1


async def test_two_dongles_with_one_container_are_one(mock_clock: MockClock) -> None:
    """The second is refused with a sentence, once, and closed each time; it takes over when the first goes."""
    driver = FakeDriver(Hints())
    first, second = Stick(charts()), Stick(charts())
    driver.ports["1"] = first
    async with watching(mock_clock, driver) as bench:
        await bench.look()
        talk = Talk(bench.service, greeting=hello())
        handle = talk.ask(access()).handle
        driver.ports["2"] = second
        with capture_logs() as said:
            for _ in range(3):
                await bench.look()
        assert complaints(said) == [("error", "Container 3-1 is here already; the second one is not used.")]
        assert second.opened >= 3
        await until(lambda: second.opened == second.closed)
        del driver.ports["1"]
        await bench.look()
        await bench.passes(10 * GRACE)
        assert bench.containers() == {"3-1": True}
        assert talk.ask(m.Info(handle)).handle == handle


async def test_two_dongles_with_one_container_at_once(mock_clock: MockClock) -> None:
    """Plugged in together, one of them is used and the other refused."""
    driver = FakeDriver(Hints())
    sticks = [Stick(charts()), Stick(charts())]
    driver.ports.update({"1": sticks[0], "2": sticks[1]})
    with capture_logs() as said:
        async with watching(mock_clock, driver) as bench:
            await bench.look()
            assert bench.containers() == {"3-1": True}
            (counted,) = bench.engine.table.licenses.values()
            assert counted.item.quantity == 2
    assert len(complaints(said)) == 1


async def test_containers_of_several_drivers_are_one_pool(mock_clock: MockClock) -> None:
    """A container that moves from one driver to another is the same one."""
    one, two = FakeDriver(Hints()), FakeDriver(Hints())
    stick = one.ports["1"] = Stick(charts())
    async with watching(mock_clock, one, ("other", two)) as bench:
        await bench.look()
        del one.ports["1"]
        await bench.look()
        assert bench.containers() == {"3-1": False}
        two.ports["1"] = stick
        assert two.hints is not None
        os.write(two.hints.write, b"!")
        await until(lambda: bench.containers() == {"3-1": True})
        await bench.passes(10 * GRACE)
        assert bench.containers() == {"3-1": True}
        assert sorted(bench.looked) == ["fake", "other"]


# --- when it looks ------------------------------------------------------------------------------------------------


async def test_a_driver_without_hints_looks_at_intervals(mock_clock: MockClock) -> None:
    """And not more often."""
    driver = FakeDriver()
    async with watching(mock_clock, driver) as bench:
        await until(lambda: bench.looked)
        await wait_all_tasks_blocked()
        for number in range(1, 4):
            await bench.passes(POLL - 0.1)
            assert driver.scans == number
            await bench.passes(0.1)
            await until(lambda number=number: driver.scans == number + 1)  # type: ignore[misc] # no types for a lambda's defaults
            await wait_all_tasks_blocked()


async def test_a_hint_makes_it_look_at_once(mock_clock: MockClock) -> None:
    """Without any time passing; hints about other devices do not."""
    hints = Hints()
    driver = FakeDriver(hints)
    async with watching(mock_clock, driver) as bench:
        await until(lambda: bench.looked)
        before = driver.scans
        for _ in range(3):
            os.write(hints.write, b".....")
            await wait_all_tasks_blocked()
        assert driver.scans == before
        driver.ports["1"] = Stick(charts())
        os.write(hints.write, b"..!..")
        await until(lambda: bench.containers() == {"3-1": True})
        assert mock_clock.current_time() < POLL


async def test_the_hints_of_one_plug_are_one_look(mock_clock: MockClock) -> None:
    """The watcher waits until the device has settled."""
    hints = Hints()
    driver = FakeDriver(hints)
    async with watching(mock_clock, driver, intervals=Intervals(POLL, 0.2)) as bench:
        await until(lambda: bench.looked)
        await wait_all_tasks_blocked()
        before = driver.scans
        for _ in range(4):
            os.write(hints.write, b"!")
            await wait_all_tasks_blocked()
            assert driver.scans == before
        await bench.passes(0.2)
        await until(lambda: driver.scans == before + 1)
        await wait_all_tasks_blocked()
        assert driver.scans == before + 1


@pytest.mark.parametrize("error", [DriverError("no permission to listen"), OSError("planted")])
async def test_a_driver_that_cannot_listen_looks_at_intervals(error: Exception, mock_clock: MockClock) -> None:
    """It is said once, and plugging works."""
    driver = FakeDriver()
    driver.no_hints = error
    with capture_logs() as said:
        async with watching(mock_clock, driver) as bench:
            driver.ports["1"] = Stick(charts())
            await bench.look()
            assert bench.containers() == {"3-1": True}
    assert [line["event"] for line in said if line["log_level"] == "warning"] == [
        "driver hears of no plug; it looks at intervals"
    ]


async def test_hints_that_break_are_done_without(mock_clock: MockClock) -> None:
    """A source of hints that raises is closed; the looks at intervals go on."""
    hints = Hints()
    driver = FakeDriver(hints)
    with capture_logs() as said:
        async with watching(mock_clock, driver) as bench:
            await bench.look()
            hints.breaks = OSError("planted")
            os.write(hints.write, b"!")
            await until(lambda: hints.closed)
            driver.ports["1"] = Stick(charts())
            await bench.look()
            assert bench.containers() == {"3-1": True}
    assert len(complaints(said)) == 1


# --- what goes wrong ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [*each_fault(), ValueError("a bug")], ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("where", ["refuses_to_open", "refuses_to_read"])
async def test_a_device_that_fails_is_complained_of_once_and_tried_again(
    where: str, error: Exception, mock_clock: MockClock
) -> None:
    """Each look tries it, the log has one line with what to do, others are used; once it works it is used too."""
    driver = FakeDriver(Hints())
    stick = driver.ports["1"] = Stick(charts(1))
    driver.ports["2"] = Stick(charts(2))
    setattr(stick, where, error)
    with capture_logs() as said:
        async with watching(mock_clock, driver) as bench:
            for _ in range(3):
                await bench.look()
            assert bench.containers() == {"3-2": True}
            level = "warning" if isinstance(error, Empty) else "error"
            (line,) = [line for line in said if line["log_level"] == level]
            assert str(error) in line["reason"]
            assert (line["driver"], line["place"]) == ("fake", "port 1")
            assert (line["exc_info"] is not None) == isinstance(error, ValueError)
            setattr(stick, where, None)
            await bench.look()
            assert bench.containers() == {"3-2": True, "3-1": True}
    assert stick.opened == stick.closed


async def test_another_complaint_is_said_and_a_new_plug_has_a_new_one(mock_clock: MockClock) -> None:
    """What stays the same is said once; what changes, and what was plugged in anew, is said again."""
    driver = FakeDriver(Hints())
    stick = Stick(charts(), refuses_to_open=Busy("busy"))
    driver.ports["1"] = stick
    with capture_logs() as said:
        async with watching(mock_clock, driver) as bench:
            await bench.look()
            stick.refuses_to_open = NoAnswer("no answer")
            await bench.look()
            del driver.ports["1"]
            await bench.look()
            driver.ports["1"] = stick
            await bench.look()
    assert [reason for _, reason in complaints(said)] == ["busy", "no answer", "no answer"]


@pytest.mark.parametrize("where", ["refuses_to_open", "refuses_to_read"])
async def test_what_just_vanished_is_no_complaint(where: str, mock_clock: MockClock) -> None:
    """Between scan and read a dongle may go; the next scan tells."""
    driver = FakeDriver(Hints())
    stick = driver.ports["1"] = Stick(charts())
    setattr(stick, where, Vanished("gone"))
    with capture_logs() as said:
        async with watching(mock_clock, driver) as bench:
            await bench.look()
    assert said == []


@pytest.mark.parametrize("octets", [b"", b"no image", image.encode(demo_container())[:-1]])
async def test_what_holds_no_sound_image_is_not_used(octets: bytes, mock_clock: MockClock) -> None:
    """Said once, with what is wrong."""
    driver = FakeDriver(Hints())
    driver.ports["1"] = Stick(octets)
    with capture_logs() as said:
        async with watching(mock_clock, driver) as bench:
            for _ in range(2):
                await bench.look()
            assert bench.containers() == {}
    assert [line["kind"] for line in said if line["log_level"] == "error"] == ["ImageError"]


@pytest.mark.parametrize("error", [DriverError("The bus is gone."), KeyError("a bug")])
async def test_scans_that_fail_for_a_while_pull_nothing_out(error: Exception, mock_clock: MockClock) -> None:
    """What was there is taken to be there still; it is said once that scanning fails, and that it works again."""
    driver = FakeDriver(Hints())
    driver.ports["1"] = Stick(charts(1))
    async with watching(mock_clock, driver) as bench:
        await bench.look()
        driver.fails = error
        with capture_logs() as said:
            for _ in range(3):
                await bench.look()
            await bench.passes(10 * GRACE)
            assert bench.containers() == {"3-1": True}
            driver.fails = None
            driver.ports["2"] = Stick(charts(2))
            await bench.look()
        assert bench.containers() == {"3-1": True, "3-2": True}
    assert [line["event"] for line in said if line["event"].startswith("driver")] == [
        "driver cannot work",
        "driver works again",
    ]


async def test_a_first_scan_that_fails_is_a_look_too(mock_clock: MockClock) -> None:
    """The server does not count as starting for ever because a driver cannot work."""
    driver = FakeDriver(Hints())
    driver.fails = DriverError("libusb is not installed.")
    async with watching(mock_clock, driver) as bench:
        await until(lambda: bench.looked == ["fake"])


async def test_devices_that_cannot_even_close_hurt_nobody(mock_clock: MockClock) -> None:
    """It is against the contract, and logged; the watcher goes on, and the daemon stops cleanly."""
    driver = FakeDriver(Hints())
    driver.ports["1"] = Stick(charts(1), refuses_to_close=RuntimeError("planted"))
    driver.ports["2"] = Stick(charts(2), refuses_to_close=RuntimeError("planted"))
    with capture_logs() as said:
        async with watching(mock_clock, driver) as bench:
            await bench.look()
            del driver.ports["1"]
            await bench.look()
            assert bench.containers() == {"3-1": False, "3-2": True}
    assert [line["event"] for line in said if line["log_level"] == "warning"] == ["driver cannot close"] * 2
    assert driver.closed == 1


async def test_items_that_cannot_be_used_are_named(mock_clock: MockClock) -> None:
    """An entry with a flag that the server does not know is a warning with its codes and the reason."""
    known, strange = (struct.pack("<HHI", 0x8003, 4, flags) for flags in (QuantityFlag.LOCAL_ONLY, 0x200))
    driver = FakeDriver(Hints())
    encoded = image.encode(charts(flags=QuantityFlag.LOCAL_ONLY))
    driver.ports["1"] = Stick(replace_once(encoded, known, strange))
    with capture_logs() as said:
        async with watching(mock_clock, driver) as bench:
            await bench.look()
    (line,) = [line for line in said if line["log_level"] == "warning"]
    assert (line["container"], line["product_code"], line["item"]) == ("3-1", CHARTS, 1)
    assert "a flag that this server does not know (0x200)" in line["reason"]


async def test_a_firm_item_that_is_not_believed_is_named(mock_clock: MockClock) -> None:
    """It is listed and never granted; the log says once what to write where, if it is to be believed."""
    driver = FakeDriver(Hints())
    driver.ports["1"] = Stick(charts())
    with capture_logs() as said:
        async with watching(mock_clock, driver, trust=Trust()) as bench:
            await bench.look()
            await bench.look()
            with pytest.raises(LicenseError) as refusal:
                Talk(bench.service, greeting=hello()).ask(access())
    assert number_of(refusal.value) == ErrorNumber.FIRM_ITEM_INVALID
    (line,) = [line for line in said if line["log_level"] == "warning"]
    assert (line["event"], line["container"], line["firm_code"]) == ("firm item is not believed", "3-1", FIRM)
    assert f'write {FIRM} = "unsigned" under [licensors]' in line["reason"]


# --- slow devices, and the end ------------------------------------------------------------------------------------


async def test_a_slow_device_holds_up_nobody(mock_clock: MockClock) -> None:
    """While it is read, licenses are granted and other devices plugged in, on the same driver and on others."""
    driver, other = FakeDriver(Hints()), FakeDriver(Hints())
    slow = driver.ports["1"] = Stick(charts(1), slow=True)
    driver.ports["2"] = Stick(charts(2))
    async with watching(mock_clock, driver, ("other", other)) as bench:
        await until(slow.reading.is_set)
        await until(lambda: bench.containers() == {"3-2": True})
        Talk(bench.service, greeting=hello()).ask(access())
        other.ports["1"] = Stick(charts(3))
        assert other.hints is not None
        os.write(other.hints.write, b"!")
        await until(lambda: bench.containers() == {"3-2": True, "3-3": True})
        assert bench.looked == ["other"]
        slow.released.set()
        await until(lambda: bench.looked == ["other", "fake"])
        assert bench.containers() == {"3-2": True, "3-3": True, "3-1": True}


async def test_a_stop_during_a_slow_read_ends_it(mock_clock: MockClock) -> None:
    """The read is abandoned between two of its steps; device, hints and driver are closed."""
    hints = Hints()
    driver = FakeDriver(hints, trio.from_thread.check_cancelled)
    slow = driver.ports["1"] = Stick(charts(1), slow=True)
    steady = driver.ports["2"] = Stick(charts(2))
    async with watching(mock_clock, driver) as bench:
        await until(lambda: slow.reading.is_set() and bench.containers())
    assert (slow.opened, slow.closed, steady.opened, steady.closed) == (1, 1, 1, 1)
    assert hints.closed
    assert driver.closed == 1
    assert not slow.released.is_set()


async def test_no_more_than_eight_threads_for_one_driver(mock_clock: MockClock) -> None:
    """Twenty dongles at once are read some at a time, and all of them in the end."""
    driver = FakeDriver(Hints())
    sticks = {str(port): Stick(charts(port), slow=True) for port in range(20)}
    driver.ports.update(sticks)
    async with watching(mock_clock, driver) as bench:
        await until(lambda: sum(stick.reading.is_set() for stick in sticks.values()) == 8)
        await wait_all_tasks_blocked()
        assert sum(stick.reading.is_set() for stick in sticks.values()) == 8
        for stick in sticks.values():
            stick.released.set()
        await until(lambda: len(bench.containers()) == 20)


# --- the real drivers ---------------------------------------------------------------------------------------------


async def test_virtual_containers_come_and_go_with_their_files(mock_clock: MockClock, tmp_path: Path) -> None:
    """Written, edited, spoilt, mended and removed, as an operator does it with an editor."""
    path = tmp_path / "one.toml"
    virtual = VirtualDriver(VirtualOptions(files=(str(path),)), trio.from_thread.check_cancelled)

    async with watching(mock_clock, FakeDriver(), ("virtual", virtual), grace=1_000_000) as bench:

        def quantities() -> list[int]:
            mock_clock.jump(POLL)
            return [counted.item.quantity for counted in bench.engine.table.licenses.values() if counted.present]

        await until(lambda: "virtual" in bench.looked)
        path.write_text(TWO_CHARTS)
        await until(lambda: quantities() == [2])
        talk = Talk(bench.service, greeting=hello())
        handle = talk.ask(access()).handle
        path.write_text(TWO_CHARTS.replace("quantity = 2", "quantity = 7"))
        await until(lambda: quantities() == [7])
        with capture_logs() as said:
            path.write_text("quantity = = 7")
            await until(lambda: quantities() == [] and complaints(said))
        ((_, reason),) = complaints(said)
        assert str(path) in reason
        path.write_text(TWO_CHARTS)
        await until(lambda: quantities() == [2])
        assert talk.ask(m.Info(handle)).handle == handle
        path.unlink()
        await until(lambda: quantities() == [])
        assert bench.containers() == {"3-1": False}


async def test_dongles_on_the_usb_come_and_go(mock_clock: MockClock) -> None:
    """Through USB transfers: plugged, pulled during the grace, plugged into another port, two of them."""
    bus = InProcessBackend()
    usb = UsbDriver(UsbOptions(), trio.from_thread.check_cancelled, backend=bus)
    dongle = Firmware(Memory(image.encode(demo_container())))

    async with watching(mock_clock, FakeDriver(), ("usb", usb), grace=1_000_000) as bench:

        def seen(expected: dict[str, bool]) -> bool:
            mock_clock.jump(POLL)
            return bench.containers() == expected

        await until(lambda: "usb" in bench.looked)
        address = bus.plug(dongle)
        await until(lambda: seen({"3-3448482": True}))
        talk = Talk(bench.service, greeting=hello())
        handle = talk.ask(access()).handle
        bus.unplug(address)
        await until(lambda: seen({"3-3448482": False}))
        bus.plug(Firmware(Memory(image.encode(charts_dongle()))))
        bus.plug(dongle)
        await until(lambda: seen({"3-3448482": True, "3-5": True}))
        assert talk.ask(m.Info(handle)).handle == handle


def charts_dongle() -> Container:
    """Return what another dongle holds."""
    made = charts(5)
    return Container(made.id, ContainerKind.HARDWARE, made.text, made.firm_items)


async def test_an_empty_dongle_is_told_once_and_served_once_it_is_a_container(mock_clock: MockClock) -> None:
    """One line that says what to do; no look makes more than one opening; what it becomes is found by the next look."""
    bus = Counting()
    firmware = Firmware(Blank(MemoryFlash()))
    address = bus.plug(firmware)
    looks: list[None] = []

    class Looking(UsbDriver):
        def scan(self) -> frozenset[Dongle]:
            looks.append(None)
            return super().scan()

    usb = Looking(UsbOptions(), trio.from_thread.check_cancelled, backend=bus)
    with capture_logs() as said:
        async with watching(mock_clock, FakeDriver(), ("usb", usb)) as bench:
            await until(lambda: "usb" in bench.looked)
            for _ in range(4):
                await bench.look()
            assert complaints(said) == [
                ("warning", "The dongle is empty; make a container of it (cmboxpgm create --usb).")
            ]
            assert bus.opened <= len(looks)
            assert bus.open_handles == 0
            assert bench.containers() == {}
            hand = driver_on(bus)
            device = hand.open(only(hand))
            device.init(ContainerId("3-7"), "")
            device.close()
            await bench.look()
            await until(lambda: bench.containers() == {"3-7": True})
            bus.unplug(address)
            bus.plug(firmware)
            await bench.look()
            await until(lambda: bench.containers() == {"3-7": True})
    assert len(complaints(said)) == 1


async def test_the_embedded_dongle_is_there_at_once(mock_clock: MockClock) -> None:
    """As in the demo, and visible as what it is."""
    usb = UsbDriver(UsbOptions(embedded=True), trio.from_thread.check_cancelled)
    async with watching(mock_clock, FakeDriver(), ("usb", usb)) as bench:
        await until(lambda: "usb" in bench.looked)
        talk = Talk(bench.service, greeting=hello())
        assert [container.kind for container in talk.ask(m.Containers()).containers] == ["embedded"]
        talk.ask(access())


class Mute(Firmware):
    """Takes commands and answers none."""

    def answer(self, _frame: bytes) -> bytes:
        return b""


async def test_a_stop_does_not_wait_for_a_dongle_that_does_not_answer(mock_clock: MockClock) -> None:
    """It may have a minute for its answer; the stop does not take it."""
    bus = InProcessBackend()
    bus.plug(Mute(Memory(image.encode(demo_container()))))
    usb = UsbDriver(UsbOptions(timeout=60), trio.from_thread.check_cancelled, backend=bus)
    async with watching(mock_clock, FakeDriver(), ("usb", usb)) as bench:
        await until(lambda: "fake" in bench.looked)
        (dongle,) = bus.enumerate_devices()
        await until(lambda: dongle.claims)
        started = time.monotonic()
    assert time.monotonic() - started < 10
    assert not dongle.claims


async def test_a_dongle_that_does_not_answer_is_given_up_and_the_next_one_used(mock_clock: MockClock) -> None:
    """A silent dongle costs its timeout, not the driver."""
    bus = InProcessBackend()
    bus.plug(Mute(Memory(image.encode(demo_container()))))
    bus.plug(Firmware(Memory(image.encode(charts_dongle()))))
    usb = UsbDriver(UsbOptions(timeout=0.2), trio.from_thread.check_cancelled, backend=bus)
    with capture_logs() as said:
        async with watching(mock_clock, FakeDriver(), ("usb", usb)) as bench:
            await until(lambda: "usb" in bench.looked)
            assert bench.containers() == {"3-5": True}
    assert [line["kind"] for line in said if line["log_level"] == "error"] == ["NoAnswer"]


@pytest.mark.parametrize(("passed", "kept"), [(59, False), (60, True)])
async def test_a_container_is_told_the_time_once_more_at_the_end(
    passed: int, kept: bool, mock_clock: MockClock
) -> None:
    """Else a daemon that is stopped often enough stops the time; but not again within a minute: flash wears out."""
    stick = signed.Stick()
    async with signed.plugged(mock_clock, stick) as (bench, _):
        started = bench.watchers[-1]._kept
        bench.engine.clock = LicenseClock(lambda: started + passed, lambda: 0.0)
    (_, answer) = stick.firmware._chip.answer(wire.Command.TIME, wire.encode_time(0))
    assert (wire.decode_time(answer) == started + passed) == kept


async def test_a_container_that_cannot_be_told_the_time_holds_nobody_up(mock_clock: MockClock) -> None:
    """It is said, and the daemon ends."""
    stick = signed.Stick()
    with capture_logs() as said:
        async with signed.plugged(mock_clock, stick) as (bench, _):
            bench.engine.clock = LicenseClock(lambda: time.time() + 1_000, lambda: 0.0)
            stick.bus.unplug(stick.address)
    assert [line["event"] for line in said][-1] == "container could not be told the time"
