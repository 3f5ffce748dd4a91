"""Virtual containers: files that are plugged in by being written and unplugged by being removed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from drivers import description, image
from drivers.checks import check_driver
from drivers.container import ContainerKind
from drivers.driver import Dongle, DriverError, Faulty, Purpose, Unsupported, Vanished, never_cancelled
from drivers.virtual import VirtualDriver, VirtualOptions
from tests.drivers.samples import EVERYBODY

ONE = 'id = "3-1"\ntext = "One"\n'
TWO = '[[containers]]\nid = "3-1"\n[[containers]]\nid = "3-2"\n'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where the driver looks; nothing is there yet."""
    return tmp_path / "one.toml"


def make(*paths: Path) -> VirtualDriver:
    """Return a driver for these files, made as the daemon makes it."""
    return VirtualDriver(VirtualOptions(files=tuple(map(str, paths))), never_cancelled)


def put(path: Path, text: str) -> None:
    """Plug in what the text describes."""
    path.write_text(text)


def only(driver: VirtualDriver) -> Dongle:
    """Return the one dongle that a scan finds."""
    (dongle,) = driver.scan()
    return dongle


def settled(driver: VirtualDriver) -> Dongle:
    """Return the one dongle that is there once an edit is believed, after a second scan."""
    driver.scan()
    return only(driver)


def test_it_conforms(path: Path) -> None:
    """The virtual driver does what the daemon relies on in every driver."""
    check_driver(
        lambda: make(path),
        lambda: put(path, ONE),
        path.unlink,
        kind=ContainerKind.VIRTUAL,
        tells_replug=False,
    )


def test_every_container_of_a_file_is_a_dongle(path: Path) -> None:
    """A file with two containers is two dongles, and each gives its own image."""
    path.write_text(TWO)
    driver = make(path)
    images = [image.decode(driver.open(dongle).read(), EVERYBODY).id for dongle in driver.scan()]
    assert sorted(images) == ["3-1", "3-2"]


def test_an_edit_is_an_unplug_and_a_plug(path: Path) -> None:
    """What is edited has a new key, and the device that was open before has vanished."""
    path.write_text(ONE)
    driver = make(path)
    before = only(driver)
    device = driver.open(before)
    path.write_text(ONE.replace("One", "Two"))
    after = settled(driver)
    assert after.key != before.key
    with pytest.raises(Vanished):
        device.read()
    with pytest.raises(Vanished):
        driver.open(before)
    assert image.decode(driver.open(after).read(), EVERYBODY).text == "Two"


def test_an_edit_of_the_same_length_at_the_same_time_is_seen(path: Path) -> None:
    """The file's bytes are looked at, not its times: two edits within one tick of the clock are two."""
    path.write_text(ONE)
    status = path.stat()
    driver = make(path)
    before = only(driver)
    path.write_text(ONE.replace("One", "Two"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert settled(driver) != before


def test_what_is_half_written_ends_nothing(path: Path) -> None:
    """A file that is saved in pieces: what one scan finds between is not believed, and the device goes on."""
    path.write_text(TWO)
    driver = make(path)
    before = driver.scan()
    devices = [driver.open(dongle) for dongle in before]
    for piece in ("", TWO[: len(TWO) // 2], ONE):
        path.write_text(piece)
        assert driver.scan() == before
        assert all(device.read() for device in devices)
    path.write_text(TWO)
    assert driver.scan() == before
    path.write_text(ONE)
    assert driver.scan() == before, "it was found before, but not in a row"
    assert len(driver.scan() - before) == 1


def test_what_comes_back_changed_is_not_believed_at_once(path: Path) -> None:
    """A file that is removed and written anew may be half there just as well; the one it was is known again."""
    path.write_text(TWO)
    driver = make(path)
    before = driver.scan()
    path.unlink()
    assert driver.scan() == frozenset()
    path.write_text(ONE)
    assert driver.scan() == frozenset()
    path.write_text(TWO)
    assert driver.scan() == before


def test_a_file_is_read_once_a_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening reads no file: with a thousand of them, a start would read a million."""
    paths = [tmp_path / f"{number}.toml" for number in range(1, 6)]
    for number, path in enumerate(paths, 1):
        path.write_text(f'id = "3-{number}"')
    looked_at: list[Path] = []

    def read(path: Path) -> bytes:
        looked_at.append(path)
        return path.read_bytes()

    monkeypatch.setattr(description, "read", read)
    driver = make(*paths)
    images = [image.decode(driver.open(dongle).read(), EVERYBODY) for dongle in driver.scan()]
    assert sorted(container.id for container in images) == [f"3-{number}" for number in range(1, 6)]
    assert looked_at == paths


@pytest.mark.parametrize("touch", [Path.touch, lambda path: path.write_text("# a comment\n" + ONE)])
def test_what_changes_nothing_unplugs_nothing(path: Path, touch: Callable[[Path], object]) -> None:
    """A new time or a comment leaves the container plugged in: its accesses need not be disturbed."""
    path.write_text(ONE)
    driver = make(path)
    before = only(driver)
    device = driver.open(before)
    touch(path)
    assert only(driver) == settled(driver) == before
    assert image.decode(device.read(), EVERYBODY).text == "One"


def test_one_edited_container_leaves_its_neighbours(path: Path) -> None:
    """In a file of several, only what changed is plugged in anew."""
    path.write_text(TWO)
    driver = make(path)
    before = driver.scan()
    path.write_text(TWO + 'text = "changed"\n')
    driver.scan()
    assert len(before & driver.scan()) == 1


def test_a_removed_file_is_an_unplug(path: Path) -> None:
    """Gone is gone, and back is back."""
    driver = make(path)
    assert driver.scan() == frozenset()
    path.write_text(ONE)
    assert len(driver.scan()) == 1
    path.unlink()
    assert driver.scan() == frozenset()


def test_a_wrong_file_is_an_error_at_open(path: Path) -> None:
    """It shows with one key as long as it stays as it is, so that the daemon says it once; then it heals."""
    path.write_text("id = 3")
    driver = make(path)
    wrong = only(driver)
    assert only(driver) == wrong
    for _ in range(2):
        with pytest.raises(Faulty, match=r"one\.toml:1: id: expected a text, got 3"):
            driver.open(wrong)
    path.write_text("id = 4")
    assert settled(driver) != wrong
    path.write_text(ONE)
    assert image.decode(driver.open(settled(driver)).read(), EVERYBODY).id == "3-1"


def test_a_file_that_is_none_is_an_error_at_open(path: Path) -> None:
    """A directory where a file should be is said, not overlooked."""
    path.mkdir()
    driver = make(path)
    with pytest.raises(Faulty, match="is no file"):
        driver.open(only(driver))


def test_a_container_too_large_is_an_error_at_open(path: Path) -> None:
    """What no image can hold is said when the file is opened, and does not end the scan."""
    items = "".join(f'[[firm_items]]\nfirm_code = {n}\ntext = "{"x" * 200}"\n' for n in range(1, 300))
    path.write_text(ONE + items)
    driver = make(path)
    with pytest.raises(Faulty, match="the most is 57344"):
        driver.open(only(driver))


def test_several_files_and_one_named_twice(tmp_path: Path) -> None:
    """Each file counts once, however often it is named."""
    first, second = tmp_path / "a.toml", tmp_path / "b.toml"
    first.write_text(ONE)
    second.write_text(ONE)
    assert len(make(first, second, first).scan()) == 2


def test_the_kind_is_the_drivers(path: Path) -> None:
    """A file cannot say that it is hardware: there is no key for it."""
    path.write_text(ONE + 'kind = "hardware"\n')
    driver = make(path)
    with pytest.raises(Faulty, match="kind: there is no such key"):
        driver.open(only(driver))


def test_what_it_cannot_do_is_unsupported(path: Path) -> None:
    """Signing, counting and updating are refused as such; after closing, everything is."""
    path.write_text(ONE)
    driver = make(path)
    device = driver.open(only(driver))
    with pytest.raises(Unsupported):
        device.sign(Purpose.PRESENCE, bytes(32))
    with pytest.raises(Unsupported):
        device.consume(1, 1, 1, bytes(16), 0)
    with pytest.raises(Unsupported):
        device.apply(b"")
    with pytest.raises(Unsupported):
        device.time(0)
    with pytest.raises(Unsupported):
        device.nonce()
    device.close()
    with pytest.raises(DriverError, match="closed"):
        device.read()


def test_options_refuse_what_they_do_not_know() -> None:
    """The table of the configuration is checked by its class."""
    assert msgspec.convert({"files": ["/a.toml"]}, VirtualOptions).files == ("/a.toml",)
    with pytest.raises(msgspec.ValidationError, match="unknown field `file`"):
        msgspec.convert({"file": ["/a.toml"]}, VirtualOptions)


@pytest.mark.parametrize("name", ["", "a.toml", "./a.toml", "~/a.toml", "/a\0.toml"])
def test_a_path_that_is_not_absolute_is_refused(name: str) -> None:
    """A daemon's directory is no one's choice, so such a path would lead anywhere; what is right is in the sentence."""
    with pytest.raises(
        ValueError, match=r"is no absolute path; write it as in '/etc/cmserverd/trial\.toml'"
    ) as refused:
        VirtualOptions(files=("/sound.toml", name))
    assert str(refused.value).startswith(repr(name))
