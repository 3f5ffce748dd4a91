"""The log of the journal's database: it stays short, however little each commit has."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from cmserverd import journal, wal
from cmserverd.journal import Journal, Upkeep
from cmserverd.store import Entry, Store
from protocol import messages as m
from tests.daemon.harness import LIMIT, AsyncClient, access, charts, until
from tests.daemon.keeping import Server, keeping
from tests.daemon.kept import EVENTFUL, copied

MOST = 200_000
"""How long the log may become, in bytes: some dozens of commits."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the journal is."""
    return tmp_path / "journal.db"


def log_of(path: Path) -> Path:
    """Return where the log is."""
    return path.with_name(f"{path.name}-wal")


def beginning(path: Path) -> bytes:
    """Return what tells a log from the one before it began anew."""
    return log_of(path).read_bytes()[:32]


async def grow(server: Server, client: AsyncClient, to: int) -> None:
    """Have so little happen at a time, each in a commit of its own, that the log has so many bytes."""
    while server.store.log.size < to:
        await client.ask(m.Release((await client.ask(access())).handle))


async def grow_until_anew(server: Server, client: AsyncClient, path: Path) -> None:
    """The same until the log begins anew; a slow machine may take its time for that, but not for ever."""
    before = beginning(path)
    while beginning(path) == before:
        assert server.store.log.size < 20 * MOST
        await client.ask(m.Release((await client.ask(access())).handle))


def test_the_size_of_the_log_is_known(path: Path) -> None:
    """After each commit, whoever made those before; after a fault, too, and when it has begun anew."""
    store, other = Store(path, power=False), Store(path, power=False)
    for number, entry in enumerate(EVENTFUL[:-2], 1):
        store.append([entry], 0)
        assert store.log.size == log_of(path).stat().st_size
        other.keep_time(number, 0, 0)
        assert other.log.size == log_of(path).stat().st_size
    longest = other.log.size
    other.checkpoint(0)
    store.append(EVENTFUL[-2:-1], 0)
    assert store.log.size < longest / 10
    assert log_of(path).stat().st_size == longest
    store.reopen(0)
    before = store.log.size
    store.append(EVENTFUL[-1:], 0)
    assert store.log.size > before
    other.close()
    store.close()


@pytest.mark.parametrize("power", [False, True])
async def test_the_log_stays_short_under_small_commits(
    path: Path, monkeypatch: pytest.MonkeyPatch, *, power: bool
) -> None:
    """Each costs a page at least, forty times what it has to say: what is counted is the log, not what was said."""
    monkeypatch.setattr(journal, "_HELD_UP", LIMIT)  # it does not give up here, however slow the machine is
    async with keeping(path, charts(quantity=9), power=power, upkeep=Upkeep(checkpoint=MOST)) as server:
        client = await server.rig.client()
        for _ in range(4):
            await grow_until_anew(server, client, path)
            await client.ask(access())
            assert server.store.log.size < MOST
        assert server.kept() == server.table


async def test_a_log_that_somebody_reads_is_left_alone_for_a_while(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint that waits for a reader holds up commits: it is tried again once the log has grown by as much."""
    checkpoint = Store.checkpoint
    tried: list[int] = []

    def busy(self: Store, patience: float) -> None:
        tried.append(server.store.log.size)
        checkpoint(self, patience)

    monkeypatch.setattr(Store, "checkpoint", busy)
    async with keeping(path, charts(quantity=9), upkeep=Upkeep(checkpoint=MOST)) as server:
        client = await server.rig.client()
        reader = Store(path, power=False)
        reading = reader.changes()
        next(reading)
        for times in range(1, 4):
            await grow(server, client, server.journal._tried + MOST)
            await until(lambda: len(tried) == times and not server.journal._log_grew.is_set())  # noqa: B023
        assert all(size >= times * MOST for times, size in enumerate(tried, 1))
        assert list(reading)
        monkeypatch.setattr(journal, "_HELD_UP", LIMIT)
        before = beginning(path)
        await grow(server, client, server.journal._tried + MOST)
        await until(lambda: beginning(path) != before)
        await until(lambda: not server.journal._log_grew.is_set())
        await client.ask(access())
        assert len(tried) == 4
        assert server.store.log.size < MOST
        await grow(server, client, 2 * MOST if server.journal._tried else MOST)  # others may have gone on meanwhile
        await until(lambda: len(tried) == 5)
        reader.close()


async def test_the_log_stays_short_while_the_file_is_compacted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That takes long, and what is decided meanwhile goes to the log as ever."""
    monkeypatch.setattr(journal, "_HELD_UP", LIMIT)
    begun, done = trio.Event(), trio.Event()

    async def long(_: Journal) -> None:
        begun.set()
        await done.wait()

    monkeypatch.setattr(Journal, "_compact", long)
    async with keeping(path, charts(quantity=9), upkeep=Upkeep(compact=1, checkpoint=MOST)) as server:
        client = await server.rig.client()
        await grow(server, client, MOST)
        await until(begun.is_set)
        await grow_until_anew(server, client, path)
        done.set()


def killed(path: Path, tmp_path: Path) -> Path:
    """Return a journal as a kill leaves it: its log began anew with a commit of the checkpoint, and has forty more."""
    store = Store(path, power=False)
    for number in range(60):
        if number == 20:
            store.checkpoint(0)
        store.append([Entry(number + 1, 1_000, 0, ())], 0)
    copy = copied(path, tmp_path / "killed")
    store.close()
    return copy


@pytest.mark.parametrize(
    ("frame", "octet", "lost"), [(10, 24, 31), (10, 8, 30), (0, 100, 41), (37, 500, 4), (39, 500, 2), (40, 500, 0)]
)
def test_commits_behind_one_that_cannot_be_read_are_missed(
    path: Path, tmp_path: Path, frame: int, octet: int, lost: int
) -> None:
    """One bit in a page, or in what its frame begins with. The last one may have been cut off by a kill."""
    file = killed(path, tmp_path)
    log = log_of(file)
    octets = bytearray(log.read_bytes())
    octets[32 + frame * (24 + 4_096) + octet] ^= 1
    log.write_bytes(octets)
    store = Store(file, power=False)
    list(store.changes())
    assert store.position == max(20, 19 + frame)
    assert wal.lost(file) == lost
    store.close()


@pytest.mark.parametrize("cut", [0, 1, 24, 4_000, 4_120, 9_000])
def test_a_log_that_was_cut_off_by_a_kill_has_lost_nothing(path: Path, tmp_path: Path, cut: int) -> None:
    """Nor one that is whole, with frames of an earlier one behind its own."""
    file = killed(path, tmp_path)
    log = log_of(file)
    with log.open("r+b") as octets:
        octets.truncate(log.stat().st_size - cut)
    store = Store(file, power=False)
    list(store.changes())
    assert wal.lost(file) == 0
    store.checkpoint(0)
    store.append([Entry(100, 1_000, 0, ())], 0)
    assert wal.lost(file) == 0
    store.close()
    assert wal.lost(file) == 0
