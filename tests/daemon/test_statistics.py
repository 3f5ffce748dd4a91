"""The figures since the start: each counts what it says, from the table where the table knows, and nothing grows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cmserverd import statistics
from cmserverd.service import Detachment, Service
from cmserverd.statistics import BOUNDS, Statistics
from drivers.container import ContainerId
from protocol import messages as m
from protocol.errors import LicenseError
from protocol.terms import AccessMode, HandleKind
from protocol.watching import Durability, EndedCount, LicensePeak, ProductRefusals, RefusedCount
from tests.daemon.harness import (
    CHARTS,
    CONTROL,
    FIRM,
    MONITOR,
    TWO_CHARTS,
    Caller,
    Daemon,
    Talk,
    access,
    charts,
    ending,
    hello,
    make_service,
)


def figures(service: Service) -> m.Statistics:
    """Ask for them as an operator does."""
    return Talk(service, MONITOR, hello()).ask(m.StatisticsRequest())


def refused(talk: Talk, params: m.Params[Any]) -> None:
    """Ask for what is refused."""
    with pytest.raises(LicenseError):
        talk.ask(params)


def test_accesses_are_counted_as_they_come_and_go() -> None:
    """What a client gives back, what goes with its session, and what the server ends, by cause."""
    service = make_service(charts(quantity=3))
    one, two = Talk(service, greeting=hello(1)), Talk(service, greeting=hello(2))
    handles = [one.ask(access()).handle for _ in range(2)]
    one.ask(access(AccessMode.NO_USER_LIMIT))
    one.ask(access(kind=HandleKind.SUBSYSTEM))
    two.ask(access(AccessMode.STATION_SHARE))
    two.ask(access(AccessMode.STATION_SHARE))
    one.ask(m.Release(handles[0]))
    Talk(service, CONTROL, hello()).ask(m.Deallocate(handles[1]))
    told = figures(service)
    assert (told.granted, told.released, told.accesses) == (6, 1, 4)
    assert told.ended == (EndedCount("administrator", 1),)
    assert (told.user_limit, told.no_user_limit, told.exclusive, told.station_share) == (0, 1, 0, 1)
    assert (told.containers, told.sessions) == (1, 2)
    two.ask(m.Goodbye())
    one.cut(Detachment.CLOSED)
    told = figures(service)
    assert (told.granted, told.released, told.accesses, told.sessions_peak) == (6, 3, 2, 2)


def test_peaks_stay_when_the_use_is_over() -> None:
    """Of each license, and of what is moved to it; of one that is gone none is told."""
    service = make_service(charts(1, 3), charts(2, 3))
    talk = Talk(service, greeting=hello(1))
    handles = [talk.ask(access()).handle for _ in range(2)]
    assert peaks(service) == {"3-1": 2, "3-2": 0}
    service.engine.unplug(ContainerId("3-1"))
    while service.engine.vacate(ContainerId("3-1"), 1):
        pass
    service.engine.remove(ContainerId("3-1"))
    for handle in handles:
        talk.ask(m.Release(handle))
    assert peaks(service) == {"3-2": 2}
    assert figures(service).peaks == (LicensePeak("3-2", FIRM, CHARTS, 1, 2),)


def peaks(service: Service) -> dict[str, int]:
    """Return the peak of each license."""
    return {one.container: one.peak for one in figures(service).peaks}


def test_a_restart_begins_with_what_is_held() -> None:
    """Figures are since the start; what was held then was not granted since."""
    service = make_service(charts())
    talk = Talk(service, greeting=hello(1))
    handle = talk.ask(access()).handle
    anew = Statistics(service.engine)
    talk.ask(m.Release(handle))
    told = anew.answer()
    assert (told.granted, told.released, told.peaks[0].peak, told.sessions_peak) == (0, 1, 1, 1)


def test_refusals_are_counted_by_number_and_by_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever clients ask; but of products only those that there are, and no more than so many."""
    monkeypatch.setattr(statistics, "PRODUCTS", 1)
    service = make_service(charts(quantity=1))
    talk = Talk(service, greeting=hello(1))
    talk.ask(access())
    refused(talk, access())
    refused(talk, access())
    refused(talk, access(product=99))
    refused(talk, m.Release(77))
    operator = Talk(service, CONTROL, hello())
    refused(operator, m.Deallocate(77))
    told = figures(service)
    expected = {106: "INVALID_HANDLE", 200: "ENTRY_NOT_FOUND", 212: "NO_MORE_LICENSES"}
    assert told.refused == tuple(
        RefusedCount(number, name, count) for (number, name), count in zip(expected.items(), (1, 1, 2), strict=True)
    )
    assert told.products == (ProductRefusals(FIRM, CHARTS, (RefusedCount(212, "NO_MORE_LICENSES", 2),)),)


def test_latencies_are_taken_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """One in a hundredth of a second, of clients only; in the class that its duration is in."""
    service = make_service(charts())
    talk = Talk(service, greeting=hello(1))
    before = figures(service).latency
    service.statistics.due = float("inf")
    talk.ask(m.KeepAlive())
    assert figures(service).latency == before
    service.statistics.due = 0.0
    talk.ask(m.KeepAlive())
    after = figures(service).latency
    assert sum(after.counts) == sum(before.counts) + 1
    assert after.sum > before.sum
    monkeypatch.setattr(service.statistics, "_latencies", [0] * (len(BOUNDS) + 1))
    for seconds in (0.0001, 0.00011, 0.3, 9.0):
        service.statistics.took(1.0, 1.0 + seconds)
    assert figures(service).latency.counts in {
        (1, 1, *[0] * 9, 1, 1),
        (0, 2, *[0] * 9, 1, 1),  # 1.0001 - 1.0 is a little more than 0.0001
    }


def test_nothing_kept_is_not_protected() -> None:
    """Without a journal, and while it cannot be written, with the reason."""
    service = make_service(charts())
    durability = figures(service).durability
    assert (durability.setting, durability.protected) == ("off", False)
    assert "[journal] durability" in durability.why

    class Kept:
        setting = "power"
        commit = 0.002

        def size(self) -> int:
            return 4711

    service.statistics.keeping = Kept()
    assert figures(service).durability == Durability("power", protected=True, commit=0.002, history=4711)
    service.engine.sealed = "the disk is full"
    durability = figures(service).durability
    assert (durability.protected, durability.why) == (False, "the disk is full")
    assert (durability.setting, durability.commit, durability.history) == ("power", 0.002, 4711)


def test_a_real_server_says_how_it_keeps(tmp_path: Path) -> None:
    """The last commit's duration and the file's size are those of its journal."""
    daemon = Daemon(tmp_path, dongle=TWO_CHARTS)
    with ending(daemon):
        daemon.serve()
        daemon.said("container plugged in")
        with Caller(daemon.address) as client, Caller(daemon.monitor) as monitor:
            client.ask(hello(1))
            client.ask(access())
            monitor.ask(hello(2))
            told = monitor.ask(m.StatisticsRequest())
    assert told.durability.setting == "process"
    assert told.durability.protected
    assert 0 < told.durability.commit < 60
    assert told.durability.history > 4_096
    assert (told.granted, told.sessions_peak, told.peaks[0].peak) == (1, 1, 1)
    assert sum(told.latency.counts) >= 1
