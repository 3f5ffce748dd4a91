"""New files: whole or not there, private from the first byte, and never in the place of another one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

import pytest

from drivers import cmc, keys, newfile
from drivers.driver import DriverError
from tests.drivers.samples import CONTAINER_KEY, SIGNING
from tests.drivers.test_cmc import TRIAL


def _broken(*_: object, **__: object) -> NoReturn:
    raise OSError(5, "Input/output error")


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    """Until then there is a draft that nobody else can read, under another name, and nothing at its place."""
    place = tmp_path / "new"
    with newfile.appearing(place) as descriptor:
        os.write(descriptor, b"half")
        (draft,) = tmp_path.iterdir()
        assert draft != place
        assert draft.stat().st_mode & 0o777 == 0o600
        os.write(descriptor, b" whole")
    assert [each.name for each in tmp_path.iterdir()] == ["new"]
    assert (place.read_bytes(), place.stat().st_mode & 0o777) == (b"half whole", 0o600)


def test_it_is_on_the_disk_before_it_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And its name is too, afterwards: the draft, then the directory."""
    place = tmp_path / "new"
    there: list[bool] = []
    monkeypatch.setattr(os, "fsync", lambda _: there.append(place.exists()))
    with newfile.appearing(place):
        pass
    assert there == [False, True]


def test_whatever_goes_wrong_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither half a file nor its draft."""
    with pytest.raises(KeyboardInterrupt), newfile.appearing(tmp_path / "new"):
        raise KeyboardInterrupt
    monkeypatch.setattr(os, "fsync", _broken)
    with pytest.raises(OSError, match="Input/output error"), newfile.appearing(tmp_path / "new"):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("links", [True, False])
def test_nothing_is_overwritten_and_no_link_followed(
    links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if it came meanwhile, and on a file system without links."""
    if not links:
        monkeypatch.setattr(os, "link", _broken)
    place, victim = tmp_path / "new", tmp_path / "victim"
    with pytest.raises(FileExistsError), newfile.appearing(place):
        place.symlink_to(victim)
    assert not victim.exists()
    place.unlink()
    place.write_bytes(b"before")
    with pytest.raises(FileExistsError), newfile.appearing(place):
        pass
    assert (place.read_bytes(), len(list(tmp_path.iterdir()))) == (b"before", 1)


def test_keys_and_containers_are_such_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails, or a container that came meanwhile, leaves neither a container nor a key without one."""
    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", _broken)
        with pytest.raises(DriverError, match="cannot be written: Input/output error"):
            keys.write(tmp_path / "one.key", CONTAINER_KEY)
        with pytest.raises(DriverError, match="cannot be written: Input/output error"):
            cmc.create(tmp_path / "box.cmc", TRIAL, SIGNING)
    assert not list(tmp_path.iterdir())
    path = tmp_path / "box.cmc"
    write = keys.write

    def meanwhile(key: Path, private: bytes) -> None:
        write(key, private)
        path.write_bytes(b"another one's")

    monkeypatch.setattr(keys, "write", meanwhile)
    with pytest.raises(DriverError, match="File exists"):
        cmc.create(path, TRIAL, SIGNING)
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("box.cmc", b"another one's")]
