"""The conformance check accepts what is sound and rejects each bad specimen, for the right reason."""

from __future__ import annotations

import pytest

from drivers import trying
from drivers.checks import NonConforming, check_driver, check_empty
from drivers.container import ContainerKind
from tests.drivers.chips import COUNTED, PLAIN
from tests.drivers.lenders import LENDERS
from tests.drivers.samples import FIRM_CODE
from tests.drivers.specimens import (
    EMPTY_SPECIMENS,
    KEYED_SPECIMENS,
    SPECIMENS,
    EmptyDevice,
    Hangs,
    KeyedDevice,
    Slot,
    SoundDriver,
    with_device,
)


def check(driver: type[SoundDriver], *, tells_replug: bool = True) -> None:
    """Run the check on a driver of the specimens."""
    slot = Slot()
    check_driver(lambda: driver(slot), slot.plug, slot.unplug, kind=ContainerKind.HARDWARE, tells_replug=tells_replug)


def test_a_sound_driver_passes() -> None:
    """What does everything right is accepted, so that the rejections below mean something."""
    check(SoundDriver)


def test_a_driver_that_cannot_tell_a_replug_passes_if_it_says_so() -> None:
    """One key for all plugs is accepted from a driver that owns up to it, and from no other."""
    driver, _ = SPECIMENS["has one key for all plugs"]
    check(driver, tells_replug=False)


@pytest.mark.parametrize(("driver", "sentence"), SPECIMENS.values(), ids=SPECIMENS)
def test_a_bad_specimen_is_rejected(driver: type[SoundDriver], sentence: str) -> None:
    """Each way of breaking the contract is found, and named."""
    with pytest.raises(NonConforming, match=sentence):
        check(driver)


def check_counting(driver: type[SoundDriver]) -> None:
    """Run the check on a driver whose devices sign and count."""
    slot = Slot()
    check_driver(
        lambda: driver(slot), slot.plug, slot.unplug, kind=ContainerKind.HARDWARE, spend=(FIRM_CODE, COUNTED.reference)
    )


def test_a_sound_driver_that_counts_passes() -> None:
    """With an item to spend, and without one; then nothing is spent."""
    check_counting(with_device(KeyedDevice))
    check(with_device(KeyedDevice))


@pytest.mark.parametrize(("driver", "sentence"), KEYED_SPECIMENS.values(), ids=KEYED_SPECIMENS)
def test_a_bad_specimen_that_counts_is_rejected(driver: type[SoundDriver], sentence: str) -> None:
    """Each way of signing or counting wrong is found, and named."""
    with pytest.raises(NonConforming, match=sentence):
        check_counting(driver)


def check_lending(driver: type[SoundDriver], reference: int = PLAIN.reference) -> None:
    """Run the check on a driver whose devices lend."""
    slot = Slot()
    check_driver(lambda: driver(slot), slot.plug, slot.unplug, kind=ContainerKind.HARDWARE, lend=(FIRM_CODE, reference))


def test_a_sound_driver_that_lends_passes() -> None:
    """It has lent a license, and has it back; an item that nobody can borrow is no item to check with."""
    check_lending(with_device(KeyedDevice))
    for reference in (COUNTED.reference, 99):
        with pytest.raises(NonConforming, match="cannot be borrowed; name one that can"):
            check_lending(with_device(KeyedDevice), reference)


@pytest.mark.parametrize(("driver", "sentence"), LENDERS.values(), ids=LENDERS)
def test_a_bad_specimen_that_lends_is_rejected(driver: type[SoundDriver], sentence: str) -> None:
    """Each way of lending or taking back wrong is found, and named."""
    with pytest.raises(NonConforming, match=sentence):
        check_lending(driver)


def check_without_contents(driver: type[SoundDriver]) -> None:
    """Run the check of empty devices on a driver."""
    slot = Slot()
    check_empty(lambda: driver(slot), slot.plug, slot.unplug)


def test_a_sound_driver_of_empty_devices_passes() -> None:
    """What says that it is empty, and nothing else, is accepted."""
    check_without_contents(with_device(EmptyDevice))


@pytest.mark.parametrize(("driver", "sentence"), EMPTY_SPECIMENS.values(), ids=EMPTY_SPECIMENS)
def test_an_empty_device_that_is_none_is_rejected(driver: type[SoundDriver], sentence: str) -> None:
    """Each way of being neither empty nor a container is found, and named."""
    with pytest.raises(NonConforming, match=sentence):
        check_without_contents(driver)


def test_a_driver_that_hangs_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function that never returns does not make the check wait for ever."""
    monkeypatch.setattr(trying, "_PATIENCE", 0.2)
    try:
        with pytest.raises(NonConforming, match="did not return within"):
            check(Hangs)
    finally:
        Hangs.over.set()
