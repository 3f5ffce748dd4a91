"""Virtual containers that sign and count: a chip in a file, its key beside it, and one opener at a time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from msgspec.structs import replace

from drivers import cmc, image, keys
from drivers.checks import check_driver
from drivers.chip.banks import program
from drivers.chip.flash import FIRST, SECTOR, FileFlash
from drivers.container import Allowance, Container, ContainerKind, FirmItem, ProductItem, container_id
from drivers.driver import (
    Busy,
    Device,
    Dongle,
    DriverError,
    Faulty,
    NoPermission,
    Purpose,
    Used,
    Vanished,
    never_cancelled,
)
from drivers.image import SigningKeys
from drivers.virtual import VirtualDriver, VirtualOptions
from tests.drivers import older
from tests.drivers.chips import NOW
from tests.drivers.samples import CONTAINER_KEY, FIRM_CODE, SIGNING, STRANGER_KEY, TRUST, demo_container

REPORTS = ProductItem(1, 15, "Reports", units=Allowance(10))
TRIAL = Container(container_id(3, 7), ContainerKind.VIRTUAL, "Trial", (FirmItem(FIRM_CODE, "", 1, (REPORTS,)),))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where a container was made."""
    cmc.create(tmp_path / "trial.cmc", TRIAL, SIGNING)
    return tmp_path / "trial.cmc"


def make(path: Path) -> VirtualDriver:
    """Return a driver for this file, made as the daemon makes it."""
    return VirtualDriver(VirtualOptions(files=(str(path),)), never_cancelled)


def only(driver: VirtualDriver) -> Dongle:
    """Return the one dongle that a scan finds."""
    (dongle,) = driver.scan()
    return dongle


def take(device: Device, number: int) -> Used:
    """Take one unit."""
    return device.consume(FIRM_CODE, 1, 1, bytes([number] * 16), NOW)


def test_it_conforms(path: Path, tmp_path: Path) -> None:
    """It does what the daemon relies on in every driver, signing and counting included."""
    aside = tmp_path / "aside"
    path.rename(aside)

    def plug() -> None:
        aside.rename(path)

    def unplug() -> None:
        path.rename(aside)

    spend = (FIRM_CODE, 1)
    check_driver(lambda: make(path), plug, unplug, kind=ContainerKind.VIRTUAL, tells_replug=False, spend=spend)


def test_what_was_counted_stays(path: Path) -> None:
    """Close, open, another process: the units are gone, the keys are known, the signature is the container's."""
    for number in (1, 2, 1, 3):
        driver = make(path)
        device = driver.open(only(driver))
        take(device, number)
        device.close()
    device = make(path).open(only(make(path)))
    parsed = image.parse(device.read(), TRUST)
    (firm,) = parsed.container.firm_items
    assert (firm.unusable, firm.products[0].units_used, parsed.state.time_floor) == ("", 3, NOW)
    signed = device.sign(Purpose.PRESENCE, bytes(32))
    assert keys.verify(keys.public_of(CONTAINER_KEY), signed.signature, signed.message)
    device.close()


def test_one_opener_at_a_time(path: Path) -> None:
    """Two that count in one file would each undo the other's counts."""
    first, second = make(path), make(path)
    device = first.open(only(first))
    with pytest.raises(Busy, match="Another process has the virtual container"):
        second.open(only(second))
    assert only(second) == only(first)
    device.close()
    second.open(only(second)).close()


def test_another_file_in_its_place_is_another_plug(path: Path, tmp_path: Path) -> None:
    """The device that was open before has vanished, though its file lives on."""
    driver = make(path)
    before = only(driver)
    device = driver.open(before)
    cmc.create(tmp_path / "new.cmc", TRIAL, SigningKeys(STRANGER_KEY, SIGNING.licensors))
    (tmp_path / "new.cmc").rename(path)
    (tmp_path / "new.key").rename(path.with_suffix(".key"))
    after = only(driver)
    assert after != before
    with pytest.raises(Vanished):
        take(device, 1)
    with pytest.raises(Vanished):
        driver.open(before)
    device.close()
    driver.open(after).close()


def test_a_cut_in_the_midst_of_a_write(path: Path) -> None:
    """A change that is half written leaves what was before it, as in a dongle."""
    device = make(path).open(only(make(path)))
    take(device, 1)
    device.close()
    descriptor = os.open(path, os.O_RDWR)
    change = SECTOR + 133  # behind a whole state that counts nothing, in the first slot
    assert os.pread(descriptor, 8, change) == (2).to_bytes(8, "little")
    os.pwrite(descriptor, b"\xff" * 100, change + 85)
    os.close(descriptor)
    device = make(path).open(only(make(path)))
    assert take(device, 1) == Used(9, 0, 1)
    assert take(device, 1) == Used(9, 0, 1)
    device.close()


def older_file(path: Path) -> Path:
    """Make a container as it was made before the second version, and return where."""
    path.write_bytes(bytes(SECTOR * FIRST.sectors))
    with path.open("r+b") as file:
        program(FileFlash(file.fileno(), FIRST), older.encode(TRIAL, signing=SIGNING))
    keys.write(path.with_suffix(".key"), CONTAINER_KEY)
    return path


def test_a_file_of_the_first_version(tmp_path: Path) -> None:
    """It opens, counts and keeps what it holds, and stays what it is: an older daemon can read it, too."""
    path = older_file(tmp_path / "older.cmc")
    for number in (1, 2, 1, 3):
        device = make(path).open(only(make(path)))
        take(device, number)
        device.close()
    device = make(path).open(only(make(path)))
    found = image.parse(device.read(), TRUST)
    assert found.container.firm_items[0].products == (replace(REPORTS, units_used=3),)
    assert [receipt.key[0] for receipt in found.state.receipts] == [1, 2, 3]
    assert (found.state_limit, path.stat().st_size) == (4096, SECTOR * 34)
    device.close()


@pytest.mark.parametrize("length", [SECTOR * 34, SECTOR * 54, SECTOR * 99])
def test_a_file_of_a_later_version_is_told(path: Path, length: int) -> None:
    """It is not damaged, and this software must not write into it."""
    octets = (b"cmbank\0\3" + path.read_bytes()[8:]).ljust(length, b"\0")[:length]
    path.write_bytes(octets)
    with pytest.raises(Faulty, match=r"was made by a later version of this software; update it\.$"):
        make(path).open(only(make(path)))
    assert path.read_bytes() == octets


@pytest.mark.parametrize("octets", [b"", b"x" * 100, bytes(SECTOR * 34), b"\xff" * SECTOR * 54, bytes(SECTOR * 35)])
def test_a_damaged_file_is_told_at_open(path: Path, octets: bytes) -> None:
    """It shows in a scan, and opening it says what to do; nothing stays locked."""
    path.write_bytes(octets)
    driver = make(path)
    with pytest.raises(Faulty, match="put back"):
        driver.open(only(driver))


def test_a_key_that_is_missing_another_s_or_readable(path: Path) -> None:
    """Each has its sentence."""
    key = path.with_suffix(".key")
    key.chmod(0o644)
    with pytest.raises(NoPermission, match="chmod 600"):
        make(path).open(only(make(path)))
    key.unlink()
    with pytest.raises(Faulty, match=r"trial\.key cannot be read"):
        make(path).open(only(make(path)))
    keys.write(key, STRANGER_KEY)
    with pytest.raises(Faulty, match="the key beside it is another one's"):
        make(path).open(only(make(path)))


def test_what_is_no_file(tmp_path: Path) -> None:
    """A directory or a pipe is told, and does not block."""
    for name, make_it in (("a.cmc", os.mkdir), ("b.cmc", os.mkfifo)):
        make_it(tmp_path / name)
        driver = make(tmp_path / name)
        with pytest.raises(Faulty):
            driver.open(only(driver))


@pytest.mark.parametrize(("failing", "taken"), [("pwrite", 0), ("fsync", 1)])
def test_a_disk_that_fails(failing: str, taken: int, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a sentence; once it works again the container knows from the file whether the change is in it."""
    device = make(path).open(only(make(path)))

    def fails(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, failing, fails)
        with pytest.raises(Faulty, match="cannot be used: No space left on device"):
            take(device, 1)
    with monkeypatch.context() as patched:
        patched.setattr(os, "pread", fails)
        with pytest.raises(Faulty, match="cannot be used: No space left on device"):
            device.read()
    (firm,) = image.decode(device.read(), TRUST).firm_items
    assert firm.products[0].units_used == taken
    assert take(device, 1) == Used(9, 0, 1)
    device.close()
    again = make(path).open(only(make(path)))
    (firm,) = image.decode(again.read(), TRUST).firm_items
    assert firm.products[0].units_used == 1
    again.close()


def test_a_disk_that_leaves_nothing_behind(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What became of the file is told as it would be at its opening, until it is put back."""
    device = make(path).open(only(make(path)))
    octets = path.read_bytes()

    def fails(*_: object) -> None:
        path.write_bytes(bytes(len(octets)))
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fails)
        with pytest.raises(Faulty, match="cannot be used: Input/output error"):
            take(device, 1)
    for _ in range(2):
        with pytest.raises(Faulty, match=r"is damaged, or the key beside it is another one's; put back"):
            device.read()
    path.write_bytes(octets)
    assert take(device, 1) == Used(9, 0, 1)
    device.close()


def test_making_one_overwrites_nothing(path: Path, tmp_path: Path) -> None:
    """Neither the container nor a key; after a failure nothing is left behind."""
    before = path.read_bytes()
    with pytest.raises(DriverError, match="File exists"):
        cmc.create(path, TRIAL, SIGNING)
    assert path.read_bytes() == before
    (tmp_path / "other.key").touch()
    with pytest.raises(DriverError, match="File exists"):
        cmc.create(tmp_path / "other.cmc", TRIAL, SIGNING)
    assert not (tmp_path / "other.cmc").exists()
    with pytest.raises(DriverError, match="make a virtual one"):
        cmc.create(tmp_path / "hard.cmc", demo_container(), SIGNING)
    with pytest.raises(DriverError, match="make a virtual one"):
        cmc.create(tmp_path / "trial.toml", TRIAL, SIGNING)
    large = Container(TRIAL.id, TRIAL.kind, "", tuple(FirmItem(n, "x" * 255) for n in range(1, 150)))
    with pytest.raises(DriverError, match="the most is 57344"):
        cmc.create(tmp_path / "large.cmc", large, SIGNING)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["other.key", "trial.cmc", "trial.key"]
