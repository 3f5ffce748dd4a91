"""Words of the command line: what each may be, and what it means."""

from __future__ import annotations

import time
from argparse import ArgumentTypeError
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cmserverd.cmboxpgm import listing, values
from drivers.container import Borrowing, QuantityFlag, Runtime


@pytest.fixture
def _far_from_greenwich(monkeypatch: pytest.MonkeyPatch) -> object:
    """Put this machine into another time zone."""
    monkeypatch.setenv("TZ", "JST-9")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


GOOD: list[tuple[Callable[[str], Any], str, Any]] = [
    (values.container, "3-3448482", "3-3448482"),
    (values.count, "0", 0),
    (values.count, "4294967295", 2**32 - 1),
    (values.count, "0xFFFFffff", 2**32 - 1),
    (values.number, "1", 1),
    (values.units, "4294967294", 2**32 - 2),
    (values.text, "Übersicht", "Übersicht"),
    (values.modes, "user_limit,no_user_limit,exclusive,station_share", QuantityFlag(0xF)),
    (values.date, "2026-01-01T12:00:00Z", 1_767_268_800),
    (values.date, "2026-01-01T12:00:00", 1_767_268_800),
    (values.date, "2026-01-01T14:00:00+02:00", 1_767_268_800),
    (values.date, "2026-01-01", 1_767_225_600),
    (values.date, "2026-01-01T14:00+02:00", 1_767_268_800),
    (values.date, "9999-12-31T23:59:59", 253_402_300_799),
    (values.duration, "30d", 30 * 86_400),
    (values.duration, "12h", 43_200),
    (values.duration, "90m", 5_400),
    (values.duration, "45s", 45),
    (values.borrowing, "30d", Borrowing(30 * 86_400)),
    (values.borrowing, "45s,5", Borrowing(45, 5)),
    (values.runtime, "1.20", Runtime(1, 20)),
    (values.data, "two words", b"two words"),
    (values.data, "", b""),
    (values.data, "x" * 256, b"x" * 256),
]

BAD: list[tuple[Callable[[str], Any], str]] = [
    (values.container, "3"),
    (values.container, "65536-1"),
    (values.count, "-1"),
    (values.count, "4294967296"),
    (values.count, "1.5"),
    (values.count, "0x"),
    (values.count, "٣"),
    (values.number, "0"),
    (values.units, "4294967295"),
    (values.text, "a\tb"),
    (values.text, "x" * 256),
    (values.text, "\u202eevil"),
    (values.text, "Chart\u200b Works"),
    (values.text, "\udcff"),
    (values.modes, ""),
    (values.modes, "exclusive,"),
    (values.modes, "Exclusive"),
    (values.date, "soon"),
    (values.date, "2026-02-30"),
    (values.date, "1999-12-31"),
    (values.date, "2030-01-01+02:00"),
    (values.date, "2030-01-01-08:00"),
    (values.date, "2030-01-01 08:00"),
    (values.date, "2030-01-01T08"),
    (values.date, "2030-01-01T08:00:00+02:00:30"),
    (values.date, "2030-W01"),
    (values.date, "2030-W01-1"),
    (values.date, "20300101"),
    (values.date, "2030-01-01\n"),
    (values.date, "٢٠٣٠-01-01"),
    (values.date, ""),
    (values.date, "9999-12-31T23:59:59-01:00"),
    (values.date, "0001-01-01T00:00:00+23:00"),
    (values.date, "2026-01-01T12:00:00.5Z"),
    (values.duration, "0s"),
    (values.duration, "30"),
    (values.duration, "1w"),
    (values.duration, "49711d"),
    (values.duration, ""),
    (values.borrowing, ""),
    (values.borrowing, "30"),
    (values.borrowing, "0s"),
    (values.borrowing, "30d,"),
    (values.borrowing, "30d,0"),
    (values.borrowing, "30d,1,1"),
    (values.borrowing, ",5"),
    (values.runtime, "1"),
    (values.runtime, "01.2"),
    (values.data, "x" * 257),
    (values.data, "ü" * 129),
    (values.data, "@/nowhere"),
    (values.data, "@/dev/zero"),
    (values.data, "@"),
    (values.path, ""),
    (values.path, "a/"),
    (values.path, "a\0b"),
]


@pytest.mark.usefixtures("_far_from_greenwich")
@pytest.mark.parametrize(("kind", "word", "value"), GOOD)
def test_what_a_word_means(kind: Callable[[str], Any], word: str, value: object) -> None:
    """The same on every machine, in whatever time zone it stands."""
    assert kind(word) == value


@pytest.mark.parametrize(("kind", "word"), BAD)
def test_what_no_word_may_be(kind: Callable[[str], Any], word: str) -> None:
    """It is refused with what would be right."""
    with pytest.raises(ArgumentTypeError):
        kind(word)


def test_data_of_a_file(tmp_path: Path) -> None:
    """Any bytes, and not too many."""
    path = tmp_path / "data"
    path.write_bytes(bytes(range(256)))
    assert values.data(f"@{path}") == bytes(range(256))
    path.write_bytes(bytes(257))
    with pytest.raises(ArgumentTypeError, match="more than 256 bytes"):
        values.data(f"@{path}")


@pytest.mark.parametrize("word", ["30d", "12h", "90m", "45s", "1d", "61s"])
def test_a_duration_is_shown_as_it_may_be_typed(word: str) -> None:
    """What a listing says can be typed again."""
    assert listing.span(values.duration(word)) == word
