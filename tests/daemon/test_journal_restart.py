"""After a restart: old sessions have their time to come back, and old containers theirs; nothing else is assumed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock, wait_all_tasks_blocked

from cmserverd.absences import Absences
from cmserverd.core.terms import Session, SessionState
from protocol import messages as m
from protocol.errors import ErrorNumber, LicenseError
from protocol.terms import AccessMode
from tests.daemon.harness import AsyncClient, Caller, Daemon, Talk, access, charts, ending, hello, number_of
from tests.daemon.keeping import PATIENCE, Server, keeping

PULL_GRACE = 30.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the journal is."""
    return tmp_path / "journal.db"


async def gone_after(condition: Callable[[], object]) -> float:
    """Let time pass until a condition holds; return how many seconds that took."""
    started = trio.current_time()
    with trio.fail_after(10_000):
        while not condition():  # noqa: ASYNC110 - nobody tells, and time is a mock
            await trio.sleep(0.25)
    return trio.current_time() - started


async def number_refused(client: AsyncClient, params: m.Params) -> ErrorNumber:
    """Ask for what is refused, and return with which number."""
    with pytest.raises(LicenseError) as refusal:
        await client.ask(params)
    return number_of(refusal.value)


async def one_holds(path: Path, mode: AccessMode = AccessMode.USER_LIMIT) -> tuple[str, int]:
    """Run a server until somebody holds a license; return the session's token and the handle."""
    async with keeping(path, charts(quantity=1)) as server:
        client = server.rig.connect()
        greeting = await client.ask(hello())
        handle = (await client.ask(access(mode))).handle
    return greeting.token, handle


def only(server: Server) -> Session:
    """Return the one session that there is."""
    [session] = server.engine.table.sessions.values()
    return session


async def test_who_was_attached_has_the_full_timeout(path: Path, autojump_clock: MockClock) -> None:
    """To the journal it is silent since the start, however the server ended; it resumes, or its license is free."""
    await one_holds(path)
    async with keeping(path, charts(quantity=1), reaping=True) as server:
        assert only(server).state is SessionState.SILENT
        took = await gone_after(lambda: not server.engine.table.sessions)
        assert took == pytest.approx(PATIENCE.timeout, abs=0.5)
        assert not server.engine.table.accesses


async def test_who_had_closed_has_a_new_grace(path: Path, autojump_clock: MockClock) -> None:
    """Its connection was closed before the stop: the short grace counts, from the start."""
    async with keeping(path, charts(quantity=1)) as server:
        client = await server.rig.client()
        await client.ask(access())
        client.close()
        await gone_after(lambda: not server.service.attached)
    async with keeping(path, charts(quantity=1), reaping=True) as server:
        assert only(server).state is SessionState.CLOSED
        took = await gone_after(lambda: not server.engine.table.sessions)
        assert took == pytest.approx(PATIENCE.grace, abs=0.5)


async def test_who_comes_back_has_what_it_had(path: Path, autojump_clock: MockClock) -> None:
    """With its token, within the timeout; afterwards no deadline of the start counts."""
    token, handle = await one_holds(path)
    async with keeping(path, charts(quantity=1), reaping=True) as server:
        await trio.sleep(PATIENCE.timeout - 1)
        client = server.rig.connect()
        assert (await client.ask(m.Resume((1, 1), token))).handles == (handle,)
        await trio.sleep(5)
        assert (await client.ask(m.Info(handle))).handle == handle


async def test_before_the_first_look_the_server_is_starting(path: Path, autojump_clock: MockClock) -> None:
    """Then what nobody found is missing: 70 for its grace; and then what it served is over, with the cause."""
    token, handle = await one_holds(path)
    async with keeping(path, started=False) as server:
        client = server.rig.connect()
        await client.ask(m.Resume((1, 1), token))
        assert await number_refused(client, access()) == ErrorNumber.SERVER_STARTING
        await trio.sleep(10 * PULL_GRACE)
        assert len(server.engine.table.accesses) == 1, "nobody has looked yet: it is not missing"
        absences = Absences(server.engine, PULL_GRACE, server.parts)
        server.engine.started()
        absences.begin_all()
        assert await number_refused(client, access()) == ErrorNumber.BOX_LOST
        assert (await client.ask(m.Info(handle))).handle == handle, "what is held stands"
        took = await gone_after(lambda: not server.engine.table.accesses)
        assert took == pytest.approx(PULL_GRACE, abs=0.5)
        with pytest.raises(LicenseError) as refusal:
            await client.ask(m.Info(handle))
        assert refusal.value.body.cause == m.EndCause.CONTAINER_GONE


async def test_a_container_that_is_found_is_as_if_never_away(path: Path) -> None:
    """No event, no rebooking."""
    token, handle = await one_holds(path)
    async with keeping(path, charts(quantity=1)) as server:
        client = server.rig.connect()
        greeting = await client.ask(m.Resume((1, 1), token, events="push"))
        assert (greeting.handles, greeting.ended) == ((handle,), ())
        assert (await client.ask(m.Info(handle))).handle == handle
        assert client.inbox.events == []


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_a_container_that_changed_meanwhile(path: Path, *, elsewhere: bool) -> None:
    """It has one license less: who came last is rebooked on another container, or ended, as by any reprogramming."""
    async with keeping(path, charts(1, quantity=2)) as server:
        client = server.rig.connect()
        greeting = await client.ask(hello())
        handles = tuple([(await client.ask(access())).handle for _ in range(2)])
    others = [charts(2, quantity=1)] if elsewhere else []
    async with keeping(path, *others, charts(1, quantity=1)) as server:
        told = await server.rig.connect().ask(m.Resume((1, 1), greeting.token))
        assert told.handles == (handles if elsewhere else handles[:1])
        assert [(gone.handle, gone.error.cause) for gone in told.ended] == (
            [] if elsewhere else [(handles[1], m.EndCause.REPROGRAMMED)]
        )
        assert {counted.used for counted in server.engine.table.licenses.values()} == {1}
        await server.settled()
        assert server.kept() == server.table


async def test_a_clone_of_a_station_from_before_is_noticed(path: Path) -> None:
    """Two hosts declare one station: one did so before the restart."""
    async with keeping(path, charts()) as server:
        await server.rig.client(1, machine="same", host="first")
    with capture_logs() as said:
        async with keeping(path, charts()) as server:
            Talk(server.service).begin(hello(2, machine="same", host="second"))
            await wait_all_tasks_blocked()
    assert [line["hosts"] for line in said if "declare the same station" in line["event"]] == [["first", "second"]]


async def test_a_share_of_before_is_joined(path: Path) -> None:
    """The station's next program adds no license."""
    async with keeping(path, charts(quantity=1)) as server:
        client = await server.rig.client(1, machine="same")
        before = await client.ask(access(AccessMode.STATION_SHARE))
    async with keeping(path, charts(quantity=1)) as server:
        client = await server.rig.client(1, machine="same")
        joined = await client.ask(access(AccessMode.STATION_SHARE))
        assert joined.allocation == before.allocation
        assert joined.handle > before.handle


def test_who_does_not_come_back_after_a_kill_is_ended(tmp_path: Path) -> None:
    """The real daemon puts the parts together so: the journal's sessions are away, and the reaper knows them."""
    daemon, again = [Daemon(tmp_path, config="[sessions]\ntimeout = 1\n") for _ in range(2)]
    with ending(daemon, again):
        daemon.serve()
        daemon.said("container plugged in")
        with Caller(daemon.address) as client:
            client.ask(hello())
            client.ask(access())
            daemon.kill()
        again.serve()
        ended = again.said("its client did not come back")
        assert (ended["state"], ended["accesses"]) == ("silent", 1)
        with Caller(again.address) as client:
            client.ask(hello(2))
            assert client.ask(m.ServerInfoRequest()).accesses == 0


@pytest.mark.parametrize("altered", [False, True])
def test_that_commits_are_lost_is_told_at_the_start(tmp_path: Path, *, altered: bool) -> None:
    """A kill alone loses none; one bit in the log of the journal's database loses all that was kept after it."""
    daemon, again = [Daemon(tmp_path) for _ in range(2)]
    with ending(daemon, again):
        daemon.serve()
        daemon.said("container plugged in")
        with Caller(daemon.address) as client:
            client.ask(hello())
            for _ in range(9):
                client.ask(m.Release(client.ask(access()).handle))
            client.ask(access())
            daemon.kill()
        if altered:
            log = tmp_path / "state" / "journal.db-wal"
            octets = bytearray(log.read_bytes())
            octets[len(octets) // 2] ^= 1
            log.write_bytes(octets)
        again.serve()
        told = [line for line in again.lines if line["event"].startswith("what was kept last is lost: ")]
        assert [line["commits"] > 5 for line in told] == [True] * altered
