"""`docs/protocol.md` says which licenses are valid, and what lingers: the same asked of a server, without I/O."""

from __future__ import annotations

import re
from typing import Any

import pytest

from cmserverd.clock import LicenseClock
from drivers.container import Allowance, Period, Runtime
from protocol import messages as m
from protocol.errors import LicenseError
from protocol.listings import EntryState
from tests.daemon.harness import CHARTS, FIRM, Talk, charts, hello, make_service
from tests.protocol.test_page import section

NOW = 1_800_000_000

FAULTS: dict[int, dict[str, Any]] = {
    129: {"minimum_runtime": Runtime(9, 0)},
    37: {"activation": NOW + 1},
    77: {"maintenance": Period(NOW + 1, NOW + 2)},
    78: {"maintenance": Period(1, NOW)},
    35: {"expiration": NOW},
    71: {"usage": Allowance(1), "usage_start": NOW - 1},
    32: {"units": Allowance(1), "units_used": 1},
}
"""What makes an entry invalid with each number."""


def rows() -> list[tuple[str, list[int]]]:
    """Return the page's table: each state, and its numbers."""
    found = re.findall(r"^\| (?:`(\w+)`)? ?\| ?([\d, ]*) ?\|", section("### Validity"), re.MULTILINE)
    return [(state, [int(number) for number in re.findall(r"\d+", numbers)]) for state, numbers in found]


def asked(options: dict[str, Any], **demands: Any) -> tuple[int, str]:
    """Return with which number a server refuses an entry with these options, 0 if it does not, and its state."""
    service = make_service(charts(**options), clock=LicenseClock(lambda: NOW, lambda: NOW))
    talk = Talk(service, greeting=hello())
    (row,) = talk.ask(m.NetCluster()).licenses
    try:
        talk.ask(m.Access(m.AccessKey(bytes(16)), FIRM, CHARTS, **demands))
    except LicenseError as refused:
        return refused.number, row.state
    return 0, row.state


def test_the_table_has_every_state() -> None:
    """And every number that validity refuses with."""
    assert {state for state, _ in rows() if state} == set(EntryState)
    assert {number for _, numbers in rows() for number in numbers} == set(FAULTS)


@pytest.mark.parametrize(("state", "numbers"), rows())
def test_each_state_refuses_with_its_number(state: str, numbers: list[int]) -> None:
    """The first of those that hold: everything below it in the table may be wrong as well. `force` opens them all."""
    order = [number for _, row in rows() for number in row]
    if state == "valid":
        assert asked({}) == (0, "valid")
    for number in numbers:
        below: dict[str, Any] = {}
        for other in reversed(order[order.index(number) :]):
            below |= FAULTS[other]
        assert asked(below, release_date=NOW)[0] == number
        assert asked(FAULTS[number], release_date=NOW) == (number, state or "valid")
        assert asked(below, release_date=NOW, force=True)[0] == 0


def test_what_the_page_says_of_lingering() -> None:
    """In use for the station alone; then 212 for others, the way back at once, and nothing with `ignore_linger`."""
    assert "ignore_linger" in section("### Lingering")
    service = make_service(charts(quantity=1, linger=60), clock=LicenseClock(lambda: NOW, lambda: NOW))
    first, other = Talk(service, greeting=hello(1)), Talk(service, greeting=hello(2))
    key, other_key = m.AccessKey(bytes(16)), m.AccessKey(bytes(15) + b"\1")
    for ignored in (False, True):
        granted = first.ask(m.Access(key, FIRM, CHARTS, ignore_linger=ignored))
        first.ask(m.Release(granted.handle))
        (row,) = first.ask(m.NetCluster()).licenses
        assert (row.lingering, row.lingering_until) == ((0, None) if ignored else (1, NOW + 60))
        if not ignored:
            with pytest.raises(LicenseError) as refused:
                other.ask(m.Access(other_key, FIRM, CHARTS))
            assert refused.value.number == 212
    other.ask(m.Access(other_key, FIRM, CHARTS))


@pytest.mark.parametrize(
    "wrong",
    [{"release_date": -1}, {"release_date": True}, {"release_date": 2**53}, {"force": 1}, {"ignore_linger": None}],
)
def test_a_demand_of_another_kind_is_105(wrong: dict[str, Any]) -> None:
    """Numbers are numbers and truths are truths."""
    talk = Talk(make_service(charts()), greeting=hello())
    with pytest.raises(LicenseError) as refused:
        talk.ask(m.Access(m.AccessKey(bytes(16)), FIRM, CHARTS, **wrong))
    assert refused.value.number == 105
