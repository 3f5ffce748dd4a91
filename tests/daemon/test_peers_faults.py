"""Faults that other license servers are known to have, each as a test by its name: none of them is ours.

Where a restart matters the journal is in use.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from cmserverd.clock import LicenseClock
from cmserverd.reaper import Reaper
from protocol import messages as m
from protocol.errors import ErrorNumber, LicenseError
from protocol.terms import AccessMode
from tests.daemon.harness import AsyncClient, Talk, access, charts, hello, make_service, number_of
from tests.daemon.keeping import PATIENCE, Server, keeping

HOUR = 3_600


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the journal is."""
    return tmp_path / "journal.db"


async def come(server: Server, number: int) -> tuple[AsyncClient, str]:
    """Return a client that has come, and its token."""
    client = server.rig.connect()
    return client, (await client.ask(hello(number))).token


async def refused(client: AsyncClient, params: m.Params) -> ErrorNumber:
    """Ask for what is refused, and return with which number."""
    with pytest.raises(LicenseError) as refusal:
        await client.ask(params)
    return number_of(refusal.value)


async def expire(server: Server) -> None:
    """Let time pass until nobody has a session."""
    with trio.fail_after(10_000):
        while server.engine.table.sessions:  # noqa: ASYNC110 - nobody tells, and time is a mock
            await trio.sleep(1)


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_heartbeat_does_not_revive_an_expired_session_whose_seat_was_given_away(
    path: Path, autojump_clock: MockClock, *, restarted: bool
) -> None:
    """The sign of life comes too late: it gives nothing back, before a restart and after one."""
    async with keeping(path, charts(quantity=1), reaping=True) as server:
        client, token = await come(server, 1)
        await client.ask(access())
        client.close()
        await expire(server)
        other, _ = await come(server, 2)
        held = await other.ask(access())
        if not restarted:
            assert await refused(server.rig.connect(), m.Resume((1, 1), token)) == ErrorNumber.INVALID_HANDLE
            assert list(server.engine.table.accesses.keys()) == [held.handle]
    if restarted:
        async with keeping(path, charts(quantity=1), reaping=True) as server:
            assert await refused(server.rig.connect(), m.Resume((1, 1), token)) == ErrorNumber.INVALID_HANDLE
            assert list(server.engine.table.accesses.keys()) == [held.handle]


async def test_a_heartbeat_of_a_session_that_does_not_exist_reports_no_success(
    path: Path, autojump_clock: MockClock
) -> None:
    """A client that is told that all is well would run without a license: it is told goodbye, and refused."""
    async with keeping(path, charts(), reaping=True) as server:
        client, token = await come(server, 1)
        held = await client.ask(access())
        await expire(server)  # it was silent for too long
        farewell = await client.until_closed()
        assert farewell is not None
        stranger = server.rig.connect()
        assert await refused(stranger, m.KeepAlive()) == ErrorNumber.INVALID_PARAMETER
        assert await refused(server.rig.connect(), m.Resume((1, 1), token)) == ErrorNumber.INVALID_HANDLE
        new, _ = await come(server, 1)
        assert await refused(new, m.Info(held.handle)) == ErrorNumber.INVALID_HANDLE


@pytest.mark.parametrize("mode", [AccessMode.USER_LIMIT, AccessMode.STATION_SHARE])
async def test_a_new_checkout_within_the_grace_of_the_old_one_succeeds(
    path: Path, autojump_clock: MockClock, mode: AccessMode
) -> None:
    """The program crashed and was started again: its old seat must not be in its way, on the last license."""
    async with keeping(path, charts(quantity=1), reaping=True) as server:
        client, _ = await come(server, 1)
        await client.ask(access(mode))
        client.close()
        with trio.fail_after(PATIENCE.grace):
            while server.service.attached:  # noqa: ASYNC110 - nobody tells, and time is a mock
                await trio.sleep(0.1)
            again, _ = await come(server, 1)
            await again.ask(access(mode))
        [counted] = server.engine.table.licenses.values()
        assert counted.used == 1


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_reconnect_takes_no_second_license(path: Path, autojump_clock: MockClock, *, restarted: bool) -> None:
    """The cable was out, or the server away: with its token and its key the client has the one that it had."""
    key = bytes(range(16))
    async with keeping(path, charts(quantity=2), reaping=True) as server:
        client, token = await come(server, 1)
        held = await client.ask(access(key=key))
        if not restarted:
            again = server.rig.connect()  # the old connection is still there: the server has noticed nothing
            await check_the_one(server, again, token, held.handle, key)
    if restarted:
        async with keeping(path, charts(quantity=2), reaping=True) as server:
            await check_the_one(server, server.rig.connect(), token, held.handle, key)


async def check_the_one(server: Server, client: AsyncClient, token: str, handle: int, key: bytes) -> None:
    """Resume, and assert that there is one access and one license in use, also if it is asked for once more."""
    assert (await client.ask(m.Resume((1, 1), token))).handles == (handle,)
    assert (await client.ask(access(key=key))).handle == handle
    [counted] = server.engine.table.licenses.values()
    assert (counted.used, len(server.engine.table.accesses)) == (1, 1)


@pytest.mark.parametrize("step", [HOUR, -HOUR])
async def test_a_clock_step_frees_and_revives_nothing(autojump_clock: MockClock, step: int) -> None:
    """The system clock is set by an hour: who lives keeps the seat, and who is gone is gone in the usual time."""
    system = 1_800_000_000.0

    def now() -> float:
        return system + trio.current_time()

    service = make_service(charts(quantity=2), clock=LicenseClock(now, trio.current_time))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Reaper(service, PATIENCE).run)
        alive, gone = Talk(service, greeting=hello(1)), Talk(service, greeting=hello(2))
        held = alive.ask(access())
        gone.ask(access())
        gone.cut()
        cut = trio.current_time()
        system += step
        while len(service.engine.table.sessions) == 2:
            alive.conversation.heard = trio.current_time()
            await trio.sleep(0.25)
        assert trio.current_time() - cut == pytest.approx(PATIENCE.grace, abs=0.5)
        for _ in range(10):
            await trio.sleep(PATIENCE.timeout / 3)
            alive.conversation.heard = trio.current_time()
            assert alive.ask(m.Info(held.handle)).handle == held.handle
        with pytest.raises(LicenseError) as refusal:
            Talk(service).ask(m.Resume((1, 1), gone.token))
        assert number_of(refusal.value) == ErrorNumber.INVALID_HANDLE
        nursery.cancel_scope.cancel()
