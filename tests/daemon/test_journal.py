"""The journal under load and under a failing disk: what is answered is kept, and what cannot be kept is not answered.

The disk is the real one behind a gate. `power` commits in a thread; `process` does so too while the file is locked.
"""

from __future__ import annotations

import socket
import threading
from functools import partial
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock, wait_all_tasks_blocked

from cmserverd import journal
from cmserverd.core.terms import SessionState
from drivers.container import ContainerId
from protocol import messages as m
from protocol import rpc
from protocol.errors import ErrorNumber, LicenseError
from protocol.terms import AccessMode, HandleKind
from tests.core.replay import facts
from tests.daemon.harness import LIMIT, AsyncClient, access, charts, hello, number_of, until
from tests.daemon.keeping import FULL, Disk, Server, keeping
from tests.daemon.kept import read

KEY = bytes(range(16))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the journal is."""
    return tmp_path / "journal.db"


async def quiet(*clients: AsyncClient) -> bool:
    """Return whether nothing has come for these clients, once everybody has done what there is to do."""
    await wait_all_tasks_blocked()
    return not any(client.sock.is_readable() for client in clients)


async def refused(client: AsyncClient, params: m.Params) -> LicenseError:
    """Ask for what is refused."""
    with pytest.raises(LicenseError) as refusal:
        await client.ask(params)
    return refusal.value


async def answer(client: AsyncClient, msgid: int) -> rpc.Response:
    """Wait for the reply to a request."""
    await client.until(lambda: msgid in client.inbox.replies)
    return client.inbox.replies.pop(msgid)


# --- no reply before the commit -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["access", "release", "hello", "resume", "event"])
@pytest.mark.parametrize("power", [False, True])
async def test_nothing_is_told_before_it_is_kept(path: Path, kind: str, *, power: bool) -> None:
    """Not a grant, a release, a greeting or an event; and then it is in the file."""
    async with keeping(path, charts(), power=power) as server:
        first = server.rig.connect()
        greeting = await first.ask(hello(1, events="push"))
        held = await first.ask(access())
        other = server.rig.connect()
        await server.settled()
        server.store.close_gate()
        before = server.engine.position
        match kind:
            case "access":
                msgid, asker = await first.begin(access()), first
            case "release":
                msgid, asker = await first.begin(m.Release(held.handle)), first
            case "hello":
                msgid, asker = await other.begin(hello(2)), other
            case "resume":
                first.close()
                await until(lambda: server.service.attached == {})
                msgid, asker = await other.begin(m.Resume((1, 1), greeting.token)), other
            case _:
                msgid, asker = 0, first
                server.engine.vacate(ContainerId("3-1"), 10)
        await server.gathered(before + 1)
        assert await quiet(asker)
        server.store.pass_one()
        if kind == "resume":  # the loss of the old connection was the first
            await server.gathered(before + 2)
            assert await quiet(asker)
            server.store.pass_one()
        if msgid:
            assert (await answer(asker, msgid)).error is None
        else:
            await asker.until(lambda: len(asker.inbox.events) == 1)
        assert server.kept() == server.table


async def test_what_comes_during_a_commit_shares_the_next_one(path: Path) -> None:
    """So a slow disk does not make the rate: twenty clients, one commit."""
    async with keeping(path, charts(quantity=30), power=True) as server:
        clients = [await server.rig.client(number) for number in range(20)]
        await server.settled()
        server.store.close_gate()
        before = server.engine.position
        await clients[0].begin(access())
        await server.gathered(before + 1)
        for client in clients[1:]:
            await client.begin(access())
        await server.gathered(before + 20)
        server.store.open_gate()
        for client in clients:
            assert (await answer(client, 2)).error is None
        assert server.store.commits[-2:] == [1, 19]


async def test_an_outbox_leaves_in_parts_and_in_order(path: Path) -> None:
    """A client that asks on has the replies of the commit before while the next one is under way."""
    async with keeping(path, charts(quantity=9), power=True) as server:
        client = await server.rig.client()
        await server.settled()
        server.store.close_gate()
        before = server.engine.position
        first = await client.begin(access())
        await server.gathered(before + 1)
        more = [await client.begin(access()) for _ in range(3)]
        await server.gathered(before + 4)
        assert await quiet(client)
        server.store.pass_one()
        await client.until(lambda: first in client.inbox.replies)
        await server.gathered(before + 4)
        assert await quiet(client)
        last = await client.begin(m.ServerInfoRequest())  # it changes nothing, and waits for its turn all the same
        assert await quiet(client)
        server.store.open_gate()
        await client.until(lambda: last in client.inbox.replies)
        assert list(client.inbox.replies) == [first, *more, last]


@pytest.mark.parametrize("parting", ["half-closed", "goodbye"])
async def test_who_goes_hears_what_was_asked_before(path: Path, parting: str) -> None:
    """A client that closes its side, or says goodbye behind its requests, still has its replies."""
    async with keeping(path, charts(), power=True) as server:
        client = await server.rig.client()
        await server.settled()
        server.store.close_gate()
        before = server.engine.position
        msgid = await client.begin(access())
        if parting == "goodbye":
            last = await client.begin(m.Goodbye())
        else:
            last = msgid
            client.sock.shutdown(socket.SHUT_WR)
        await server.gathered(before + 1)
        assert await quiet(client)
        server.store.open_gate()
        await client.until(lambda: last in client.inbox.replies)
        assert msgid in client.inbox.replies
        await client.until_closed()


async def test_a_file_that_somebody_else_writes_does_not_hold_up_the_loop(path: Path) -> None:
    """The commit goes to a thread; what rests on nothing new is answered meanwhile."""
    async with keeping(path, charts()) as server:
        client, other = await server.rig.client(1), await server.rig.client(2)
        await server.settled()
        server.store.close_gate()
        before = server.engine.position
        msgid = await client.begin(access())
        await server.gathered(before + 1)
        assert threading.active_count() > 1
        assert not other.ended
        server.store.open_gate()
        assert (await answer(client, msgid)).error is None
        await other.ask(access())
        assert server.kept() == server.table


# --- a disk that fails --------------------------------------------------------------------------------------------


async def fail_while(server: Server, requests: int) -> None:
    """Have the commit fail in which so many passages are, the first of them alone in the commit before it."""
    await server.gathered(requests)
    server.store.fault = FULL
    server.store.open_gate()
    await until(lambda: server.engine.sealed)


@pytest.mark.parametrize("power", [False, True])
async def test_a_failed_commit_takes_its_grants_back(path: Path, mock_clock: MockClock, *, power: bool) -> None:
    """New ones, asked twice or not, joins and references: 104 with the cause, and nothing is held; the key is free."""
    async with keeping(path, charts(quantity=3), power=power) as server:
        asker, sharer, gone = [await server.rig.client(number) for number in range(3)]
        shared = await sharer.ask(access(AccessMode.STATION_SHARE))
        await server.settled()
        stood = len(server.engine.table.accesses)
        server.store.close_gate()
        before = server.engine.position
        one = access(key=KEY)
        replies = [(asker, await asker.begin(one)), (asker, await asker.begin(one))]
        replies.append((asker, await asker.begin(access(kind=HandleKind.FIRM_ITEM))))
        replies.append((sharer, await sharer.begin(access(AccessMode.STATION_SHARE))))
        await gone.begin(access())
        gone.close()
        await fail_while(server, before + 4)
        for client, msgid in replies:
            error = (await answer(client, msgid)).error
            body = rpc.convert(error, m.ErrorBody)
            assert body.number == ErrorNumber.INTERNAL
            assert "the disk is full" in body.text
        table = server.engine.table
        assert len(table.accesses) == stood
        [counted] = table.licenses.values()
        assert counted.used == 1
        assert all(shared.handle == held.handle for held in table.accesses.values())
        [left] = [session for session in table.sessions.values() if session.client.host == "pc2"]
        await until(lambda: left.state is SessionState.CLOSED)
        server.store.fault = None
        mock_clock.jump(1)
        await until(lambda: not server.engine.sealed)
        again = await asker.ask(one)
        assert again.handle > shared.handle
        await server.settled()
        assert server.kept() == server.table


async def test_while_nothing_can_be_kept_one_can_only_let_go(path: Path, mock_clock: MockClock) -> None:
    """Accesses and greetings are refused before anything is decided; releases and uses go on, and are answered."""
    async with keeping(path, charts()) as server:
        client = await server.rig.client()
        held = await client.ask(access(key=KEY))
        await server.settled()
        server.store.fault = FULL
        await client.begin(access())
        await until(lambda: server.engine.sealed)
        stranger = server.rig.connect()
        for refusal in (await refused(client, access()), await refused(stranger, hello(2))):
            assert number_of(refusal) == ErrorNumber.INTERNAL
            assert "the disk is full" in str(refusal)
        assert len(server.engine.table.sessions) == 1
        assert (await client.ask(access(key=KEY))).handle == held.handle
        assert (await client.ask(m.Info(held.handle))).handle == held.handle
        await client.ask(m.Release(held.handle))
        assert not server.engine.table.accesses
        server.store.fault = None
        mock_clock.jump(1)
        await until(lambda: not server.engine.sealed)
        await server.settled()
        assert server.kept() == server.table


async def test_the_disk_is_tried_each_second_until_it_is_back(path: Path, mock_clock: MockClock) -> None:
    """Nobody has to do anything; the log tells when it began, when the cause changed, and when it is over."""
    with capture_logs() as said:
        async with keeping(path, charts()) as server:
            client = await server.rig.client()
            await server.settled()
            server.store.fault = FULL
            await client.begin(access())
            await until(lambda: server.engine.sealed)
            for tries in range(1, 4):
                await wait_all_tasks_blocked()
                mock_clock.jump(1)
                await until(partial(server.tried, tries))
            server.store.fault = None
            await wait_all_tasks_blocked()
            mock_clock.jump(1)
            await until(lambda: not server.engine.sealed)
            await client.ask(access())
            assert server.kept() == server.table
    told = [entry["event"] for entry in said if entry["log_level"] in ("error", "warning")]
    assert told == [
        "the journal cannot be written; nobody gets anything new until it can be",
        "the journal is written again; licenses are granted again",
    ]


async def test_what_waits_for_the_disk_is_bounded(
    path: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With so much that cannot be kept, nobody can come back and cause more, until it can be."""
    monkeypatch.setattr(journal, "_BACKLOG", 3)
    async with keeping(path, charts()) as server:
        client = server.rig.connect()
        greeting = await client.ask(hello())
        await server.settled()
        server.store.fault = FULL
        await client.begin(access())
        await until(lambda: server.engine.sealed)
        resume = m.Resume((1, 1), greeting.token)
        await server.rig.connect().ask(resume)
        mock_clock.jump(1)
        await until(lambda: server.engine.full)
        assert number_of(await refused(server.rig.connect(), resume)) == ErrorNumber.INTERNAL
        server.store.fault = None
        await wait_all_tasks_blocked()
        mock_clock.jump(1)
        await until(lambda: not server.engine.full)
        await server.rig.connect().ask(resume)


# --- stopping -----------------------------------------------------------------------------------------------------


async def test_a_stop_keeps_what_has_happened(path: Path) -> None:
    """A commit that is under way, what has gathered behind it, and the license time."""
    async with keeping(path, charts(), power=True) as server:
        client = await server.rig.client()
        await server.settled()
        server.store.close_gate()
        before = server.engine.position
        await client.begin(access())
        await server.gathered(before + 1)
        await client.begin(access())
        await server.gathered(before + 2)
    assert len(server.engine.table.accesses) == 2
    position, table = read(path)
    assert position == server.engine.position
    assert facts(table) == server.table


async def test_a_stop_is_not_the_clients_closing(path: Path) -> None:
    """They are attached to the last, so that the next start grants them the full time to come back."""
    async with keeping(path, charts()) as server:
        await server.rig.client()
    [session] = read(path)[1].sessions.values()
    assert session.state is SessionState.ATTACHED


async def test_a_stop_while_the_disk_fails_says_what_is_lost(path: Path) -> None:
    """It does not wait for a disk that does not come back."""
    with capture_logs() as said, trio.fail_after(LIMIT):
        async with keeping(path, charts()) as server:
            client = await server.rig.client()
            held = await client.ask(access())
            await server.settled()
            server.store.fault = FULL
            await client.begin(access())
            await until(lambda: server.engine.sealed)
            await client.ask(m.Release(held.handle))
    [lost] = [entry for entry in said if entry["event"] == "what happened last could not be kept"]
    assert lost["entries"] == 3
    assert "the disk is full" in lost["reason"]
    assert len(read(path)[1].accesses) == 1, "the release was told, and is lost: that is what the log says"


async def test_a_stop_waits_for_others_a_moment_only(path: Path) -> None:
    """A file that somebody keeps locked must not use up the time that there is for a stop."""
    async with keeping(path, charts(), power=True) as server:
        client = await server.rig.client()
        await server.settled()
        assert server.store.patience > 5
        server.store.fault = FULL
        await client.begin(access())
        await until(lambda: server.engine.sealed)
        server.store.fault = None
    assert 0 < server.store.patience <= 1
    assert facts(read(path)[1]) == server.table


async def test_a_stop_tries_a_failing_disk_once_more(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have come back since; what had arrived of the commit that failed is in nobody's way."""
    append = Disk.append

    def arrive_and_fail(self: Disk, entries: object, patience: float) -> int:
        append(self, entries, patience)  # type: ignore[arg-type]
        raise FULL

    async with keeping(path, charts()) as server:
        client = await server.rig.client()
        held, later = await client.ask(access()), await client.ask(access())
        await server.settled()
        kept = server.store.position, server.store._chain
        with monkeypatch.context() as patch:
            patch.setattr(Disk, "append", arrive_and_fail)
            await client.begin(m.Release(held.handle))
            await until(lambda: server.engine.sealed)
        server.store.position, server.store._chain = kept
        await client.ask(m.Release(later.handle))
    position, table = read(path)
    assert position == server.engine.position
    assert facts(table) == server.table


async def test_a_disk_that_fails_at_the_stop_gives_nothing(path: Path, mock_clock: MockClock) -> None:
    """A grant that waits while the server says goodbye is taken back like any other."""
    async with keeping(path, charts(), power=True) as server:
        client = await server.rig.client()
        await server.settled()
        server.store.close_gate()
        before = server.engine.position
        msgid = await client.begin(access())
        await server.gathered(before + 1)
        server.service.stop()
        await fail_while(server, before + 1)
        assert (await answer(client, msgid)).error is not None
        assert not server.engine.table.accesses


# --- time ---------------------------------------------------------------------------------------------------------


async def test_license_time_is_kept_while_nothing_happens(path: Path, autojump_clock: MockClock) -> None:
    """Each fifty seconds, so that a start knows it to the minute after a kill."""
    async with keeping(path, charts()) as server:
        await wait_all_tasks_blocked()
        before = server.store.time
        server.engine.clock.raise_to(before + 1_000)
        await trio.sleep(49)
        assert server.store.time == before
        await trio.sleep(2)
        assert server.store.time >= before + 1_000


def moved(file: Path, to: Path) -> None:
    """Give a file another name."""
    file.rename(to)


@pytest.mark.parametrize("happens", [False, True])
async def test_a_file_that_is_taken_away_is_missed_before_anything_is_lost(
    path: Path, autojump_clock: MockClock, *, happens: bool
) -> None:
    """What went on being written to it would be gone with the next start; it is gone on with where it is put back."""
    away = path.with_name("away")
    async with keeping(path, charts(quantity=2)) as server:
        client = await server.rig.client()
        await client.ask(access(key=KEY))
        moved(path, away)
        if happens:
            await refused(client, access())
        await until(lambda: server.engine.sealed)
        assert "its journal was taken away" in str(await refused(client, access()))
        moved(away, path)
        await until(lambda: not server.engine.sealed)
        await client.ask(access())
        await server.settled()
        assert server.kept() == server.table
