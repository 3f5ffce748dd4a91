"""Replays what fuzzing begins with and what it found, without a fuzzer: what broke a parser once never does again."""

from __future__ import annotations

import importlib.util
import tracemalloc
from pathlib import Path

import pytest

from tests.fuzz.__main__ import CORPUS, LONGEST, MISSING, main
from tests.fuzz.seeds import seeds
from tests.fuzz.targets import TARGETS, Target

SEEDS = seeds()
FOUND = sorted(CORPUS.glob("*/*"))
MEMORY = 4 * 1024 * 1024
"""Bytes that any input may take for a moment; it has 4 KiB itself."""


def peak(target: Target, octets: bytes) -> int:
    """Return how many bytes of memory an input takes at its peak."""
    tracemalloc.start()
    try:
        target(octets)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_every_target_has_its_folder_and_its_seeds() -> None:
    """What is written into a folder of another name would never be replayed."""
    assert {path.parent.name for path in FOUND} == SEEDS.keys() == TARGETS.keys()


@pytest.mark.parametrize(
    ("name", "octets"),
    [(name, octets) for name, each in SEEDS.items() for octets in each],
    ids=[f"{name}-{number}" for name, each in SEEDS.items() for number in range(len(each))],
)
def test_what_our_encoders_write(name: str, octets: bytes) -> None:
    """It is accepted: fuzzing begins behind the first checks, and not before them."""
    assert TARGETS[name](octets)


@pytest.mark.parametrize("path", FOUND, ids=[f"{path.parent.name}-{path.name[:20]}" for path in FOUND])
def test_what_was_found(path: Path) -> None:
    """It breaks nothing, and takes little memory."""
    octets = path.read_bytes()
    assert len(octets) <= LONGEST
    assert peak(TARGETS[path.parent.name], octets) < MEMORY


def test_without_the_fuzzer_it_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """That is a failure only where everything must be there."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    for environment, code in (({}, 0), ({"REQUIRE_EVERYTHING": "1"}, 2)):
        monkeypatch.setattr("os.environ", environment)
        assert main([]) == code
        assert capsys.readouterr().out == f"{MISSING}\n"
