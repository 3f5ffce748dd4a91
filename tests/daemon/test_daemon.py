"""How many files the daemon allows itself."""

from __future__ import annotations

import resource

import pytest
from structlog.testing import capture_logs

from cmserverd.daemon import allow_files

MILLION = 1_048_576
UNLIMITED = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("limits", "asked", "allowed"),
    [
        ((1024, 20_000), (20_000, 20_000), 20_000),
        ((20_000, 20_000), None, 20_000),
        ((1024, 1_073_741_816), (MILLION, 1_073_741_816), MILLION),
        ((1024, UNLIMITED), (MILLION, UNLIMITED), MILLION),
        ((UNLIMITED, UNLIMITED), None, MILLION),
        ((2_000_000, UNLIMITED), None, 2_000_000),
    ],
)
def test_the_limit_of_open_files_is_raised_as_far_as_it_makes_sense(
    limits: tuple[int, int], asked: tuple[int, int] | None, allowed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the hard limit, or to a million where that is without bounds; it is never lowered."""
    set_to: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda _, wanted: set_to.append(wanted))
    assert allow_files() == allowed
    assert set_to == ([] if asked is None else [asked])


def test_a_limit_that_cannot_be_raised_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel may allow less than its own hard limit says; the daemon serves with what it has, and says so."""

    def refuse(_: int, wanted: tuple[int, int]) -> None:
        raise ValueError(f"not allowed to raise the limit to {wanted}")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, UNLIMITED))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    with capture_logs() as said:
        assert allow_files() == 1024
    assert [(line["log_level"], line["limit"]) for line in said] == [("warning", 1024)]
