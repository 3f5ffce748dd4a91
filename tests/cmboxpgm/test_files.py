"""Files are whole or not there: whatever goes wrong on the way, and whoever else is at it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

import pytest

from cmserverd.cmboxpgm import files, ledger
from drivers.driver import Busy, DriverError
from tests.cmboxpgm.bench import Bench


def _broken(*_: object, **__: object) -> NoReturn:
    raise OSError(5, "Input/output error")


@pytest.mark.parametrize("step", ["fsync", "mkdir"])
def test_a_disk_that_fails_leaves_nothing(step: str, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither half a file nor what it was made of."""
    monkeypatch.setattr(os, step, _broken)
    with pytest.raises(DriverError, match="cannot be written: Input/output error"):
        files.write_new(Path("new"), b"all of it")
    assert not bench.files()


def test_a_ledger_that_cannot_be_written_keeps_the_answer_back(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two answers with one update counter must never leave the house: the ledger comes first."""
    bench.begin()
    asked = bench.request("a.request")
    before = bench.files()
    monkeypatch.setattr(Path, "replace", _broken)
    command = bench.programming("firm-item", "--text", "x", where=(*asked, "--update", "out"))
    assert "ledger.json cannot be written" in bench.refused(*command)
    assert bench.files() == before


def test_an_answer_that_cannot_appear_burns_a_number(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once it is in the ledger, the next answer has another update counter."""
    bench.begin()
    asked = bench.request("a.request")
    command = bench.programming("firm-item", "--text", "x", where=(*asked, "--update", "out"))
    with monkeypatch.context() as broken:
        broken.setattr(os, "link", _broken)
        broken.setattr(Path, "rename", _broken)
        assert "out cannot be written" in bench.refused(*command)
    assert not Path("out").exists()
    assert bench.done(*command)["firm_item"]["update_counter"] == 2


def test_a_file_system_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A memory stick serves too, and nothing is overwritten there either."""
    monkeypatch.setattr(os, "link", _broken)
    files.write_new(tmp_path / "new", b"octets")
    assert (tmp_path / "new").read_bytes() == b"octets"
    (tmp_path / "draft").write_bytes(b"other")
    with pytest.raises(DriverError, match="nothing is overwritten"):
        files.publish(tmp_path / "draft", tmp_path / "new")
    assert (tmp_path / "new").read_bytes() == b"octets"


def test_what_appears_meanwhile_stays(tmp_path: Path) -> None:
    """Somebody may be faster; a link that leads elsewhere is not followed."""
    (tmp_path / "draft").write_bytes(b"mine")
    (tmp_path / "new").symlink_to(tmp_path / "victim")
    with pytest.raises(DriverError, match="nothing is overwritten"):
        files.publish(tmp_path / "draft", tmp_path / "new")
    assert not (tmp_path / "victim").exists()


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_only_files_are_read(tmp_path: Path, make: object) -> None:
    """A directory, a pipe and a device are refused, and none of them holds anything up."""
    path = tmp_path / "odd"
    assert callable(make)
    make(path)
    with pytest.raises(DriverError, match="odd"):
        files.read(path, 10, "request")


def test_reading_is_bounded(tmp_path: Path) -> None:
    """What is too long is not read to its end."""
    path = tmp_path / "long"
    path.write_bytes(bytes(11))
    assert files.read(path, 11, "request") == bytes(11)
    with pytest.raises(DriverError, match="more than 10 bytes"):
        files.read(path, 10, "request")
    with pytest.raises(DriverError, match="There is no request"):
        files.read(tmp_path / "none", 10, "request")


# --- the ledger ---------------------------------------------------------------------------------------------------


def test_the_ledger_is_its_owner_s_alone(bench: Bench) -> None:
    """It says what each customer has."""
    bench.begin()
    assert Path("ledger.json").stat().st_mode & 0o777 == 0o600


def test_one_at_a_time(bench: Bench) -> None:
    """Of two that change the ledger, the second one is told to wait: else one of the changes would be lost."""
    bench.begin()
    before = bench.files()
    with ledger.opened(Path("ledger.json")), pytest.raises(Busy), ledger.opened(Path("ledger.json")):
        pass
    with ledger.opened(Path("ledger.json")):
        assert "Another cmboxpgm has the ledger" in bench.refused(*bench.programming("firm-item", "--text", "x"))
    assert bench.files() == before


def test_a_ledger_begins_with_the_first_container(bench: Bench) -> None:
    """Nothing else makes one: a slip in its name must not begin a second one."""
    bench.done("keygen", "--firm-code", "600010", "--key", "licensor.key")
    bench.done("create", "--id", "3-1", "--file", "box.cmc")
    assert "There is no ledger" in bench.refused(*bench.programming("firm-item", "--text", "x"))
    assert "There is no ledger" in bench.refused("list", "--ledger", "ledger.json")
    assert "cannot be used" in bench.refused("enroll", "--file", "box.cmc", "--ledger", "nowhere/ledger.json")
    assert not Path("ledger.json").exists()


def test_a_ledger_that_is_a_link_is_refused(bench: Bench) -> None:
    """A change would replace the link, and the ledger that it led to would stay as it was."""
    bench.begin()
    Path("link.json").symlink_to("ledger.json")
    assert "is a symbolic link" in bench.refused("enroll", "--file", "box.cmc", "--ledger", "link.json")
    assert Path("link.json").is_symlink()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("}", ""),
        ('"version": 1', '"version": 2'),
        ('"version": 1', '"version": 1, "more": 2'),
        ('"3-1"', '"3"'),
        ('"virtual"', '"golden"'),
        ('"update_counter": 1', '"update_counter": 2'),
        ('"firm_code": 600010', '"firm_code": 600011'),
        ('"id": "3-1"', '"id": "3-2"'),
        ('"signed": "', '"signed": "AAAA'),
    ],
)
def test_a_damaged_ledger_is_told(bench: Bench, old: str, new: str) -> None:
    """It is not guessed what was meant."""
    bench.begin()
    bench.program("firm-item", "--text", "x")
    path = Path("ledger.json")
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    bench.refused("list", "--ledger", "ledger.json")


def test_a_container_twice_in_a_ledger_is_told(bench: Bench) -> None:
    """One of the two would be lost with the next change."""
    bench.begin()
    (entry,) = ledger.read(Path("ledger.json"))
    with pytest.raises(DriverError, match="has a container twice"):
        ledger.Ledger(Path("ledger.json"), (entry, entry))
