"""Each part runs to its end at a tiny size and gives its rows. No figure is judged."""

from __future__ import annotations

import socket
from pathlib import Path

from bench import core, journal, listing, memory, pages, requests, stall, wire
from bench.filled import hold, make_engine, open_sessions
from bench.load import Load
from bench.report import Row
from bench.servers import daemon, serving
from protocol import messages as m


def number(row: Row) -> float:
    """Return a row's figure."""
    return float(row.figure.split()[0].replace(",", ""))


def test_wire() -> None:
    """A row for each server, a ratio for each comparison, and no refusal."""
    rows = list(wire.measure(wire.Plan((wire.Shape(2, 1), wire.Shape(3, 4)), rounds=2, seconds=0.05)))
    assert [row.what for row in rows[:5]] == [
        "wire, 2 clients: cmserverd",
        "wire, 2 clients: bare server",
        "wire, 2 clients: plain trio.serve_tcp",
        "wire, 2 clients: cmserverd / bare server",
        "wire, 2 clients: cmserverd / plain trio.serve_tcp",
    ]
    assert len(rows) == 11
    assert all(number(row) > 0 for row in rows[:-1])
    assert rows[-1].figure == "0"
    assert rows[-1].valid


def test_a_refusal_makes_the_run_void() -> None:
    """A round with refusals is no figure."""
    assert list(wire.measure(wire.Plan((), 0, 0)))[-1].valid
    assert not wire.verdict(1).valid


def test_the_daemon_holds_nothing_after_a_load() -> None:
    """What the generator took it gave back, whenever it stopped."""
    with serving("cmserverd") as server:
        load = Load(server.port, server.pid, 3, 2)
        came = load.run(0.1)
        with socket.create_connection(("127.0.0.1", server.port)) as sock:
            requests.call(sock, requests.hello(9), m.Greeting)
            info = requests.call(sock, m.ServerInfoRequest(), m.ServerInfo)
        load.close()
    assert came.requests > 0
    assert came.refused == 0
    assert info.accesses == 0
    assert info.sessions >= 4


def test_core() -> None:
    """Both kinds at all sizes, in rising order, then the two ratios."""
    rows = list(core.measure(core.Plan((1, 2, 4), base=2, pairs=5, rounds=2)))
    assert [row.what for row in rows[5:]] == [
        "core, join and leave, 1 station",
        "core, join and leave, 2 stations",
        "core, join and leave, 4 stations",
        "core, join and leave, 4 / 2",
        "core, join and leave, 4 / 1",
    ]
    assert all(number(row) > 0 for row in rows)


def test_pairs_leave_the_table_as_it_was() -> None:
    """Stations that hold a handle go on holding it, and nothing else."""
    engine = make_engine()
    sessions = open_sessions(engine, 3)
    hold(engine, sessions, 2)
    core.pairs(engine, sessions, [requests.access(bytes([i] * 16)) for i in range(20)])
    assert len(engine.table.accesses) == 6
    assert all(len(session.accesses) == 2 for session in sessions)
    assert engine.table.next_handle == 6 + 20 + 1
    [counted] = engine.table.licenses.values()
    assert counted.used == 3


def test_memory() -> None:
    """Bytes of a handle, and the daemon's memory with clients."""
    a_handle, listened, clients = memory.measure(memory.Plan(2_000, 2, 5))
    assert 50 < number(a_handle) < 5_000
    assert 50 < number(listened) < 5_000
    assert number(clients) > 1


def test_stall() -> None:
    """Empty and full: the longest is no less than the percentile."""
    rows = list(stall.measure(stall.Plan(((0, 0), (50, 2)), 4, 0.1)))
    assert [row.what for row in rows] == [
        "stall, empty table: the longest",
        "stall, empty table: 99.9th percentile",
        "stall, empty table: gc.collect()",
        "stall, 50 stations with 2 handles each: the longest",
        "stall, 50 stations with 2 handles each: the longest access and release",
        "stall, 50 stations with 2 handles each: 99.9th percentile",
        "stall, 50 stations with 2 handles each: gc.collect()",
    ]
    assert number(rows[0]) >= number(rows[1])
    assert number(rows[3]) >= number(rows[5])


def test_the_longest_pair_is_sought_among_allocations() -> None:
    """Each pair allocates and frees, though every station of the table holds something; the table stays as it was."""
    engine = make_engine()
    hold(engine, open_sessions(engine, 20), 1)
    assert stall.longest_pair(engine, 50) > 0
    assert engine.table.next_allocation == 20 + 50 + 1
    assert len(engine.table.accesses) == len(engine.table.sessions) == 20


def test_listing() -> None:
    """All pages together show all handles."""
    rows = list(listing.measure(listing.Plan(300, 4)))
    assert [row.what for row in rows] == [
        "listing, 1,200 handles: a page of 200",
        "listing, 1,200 handles: a page of 1,000",
        "listing, 1,200 handles: a page whose filter finds nothing",
        "listing, 1,200 handles: all, in 2 pages",
        "listing, 1,200 handles: the longest that a page holds the loop",
    ]
    assert all(number(row) >= 0 for row in rows)


def test_journal() -> None:
    """The modes and their ratios, a restart, and a file that is looked at twice."""
    plan = journal.Plan(wire.Plan((), rounds=2, seconds=0.05), 50, 2, 2, 0.05)
    rows = list(journal.measure(plan))
    assert [row.what for row in rows[:6]] == [
        "journal, 64 clients: off",
        "journal, 64 clients: process",
        "journal, 64 clients: power",
        "journal, 64 clients: process / off",
        "journal, 64 clients: power / the lesser of process and the disk",
        "journal: requests refused",
    ]
    assert rows[6].what == "journal, restart with 100 handles: to the first answer"
    assert len(rows) == 8
    assert all(number(row) > 0 for row in (*rows[:5], *rows[6:]))


def test_a_restart_finds_the_handles_that_were_made_up_for_it(tmp_path: Path) -> None:
    """Else the figure would be that of an empty journal."""
    journal.make(30, 2, tmp_path / "journal.db")
    with daemon(tmp_path, "process") as server, socket.create_connection(("127.0.0.1", server.port)) as sock:
        requests.call(sock, requests.hello(999), m.Greeting)
        info = requests.call(sock, m.ServerInfoRequest(), m.ServerInfo)
    assert (info.sessions, info.accesses) == (31, 60)


def test_pages() -> None:
    """What the readers see is what the daemon has, and no request is refused while they look."""
    rows = list(pages.measure(pages.Plan(2, 3, 5, rounds=1, seconds=0.3, looks=2)))
    assert [row.what for row in rows] == [
        "pages, 6 handles: the details' first rows",
        "pages, 6 handles, 5 pages: until all show a change",
        "pages, 6 handles, 64 clients: none open",
        "pages, 6 handles, 64 clients: 5 open",
        "pages, 6 handles, 64 clients: 5 open / none",
        "pages: requests refused",
    ]
    assert all(number(row) > 0 for row in rows[:-1])
    assert rows[-1].valid
