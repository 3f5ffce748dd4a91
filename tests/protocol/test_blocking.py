"""The blocking client against an honest fake server, over socket pairs and threads."""

from __future__ import annotations

import errno
import gc
import inspect
import logging
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from msgspec import structs

from protocol import blocking, link
from protocol import client as trio_client
from protocol import messages as m
from protocol.address import Address, Tcp, Unix
from protocol.blocking import Client
from protocol.errors import ErrorNumber, LicenseError, LocalProtocolError, SettingError
from protocol.link import OnEvent, dial
from protocol.session import EVENTS
from protocol.terms import AccessMode, HandleKind, Station
from tests.protocol.cases import ERROR, RESULTS
from tests.protocol.fake_server import ADMINISTRATOR, PATIENCE, FakeServer, ThreadHost

COUNT = next(result.licenses[0] for result, _ in RESULTS if isinstance(result, m.LicensePage))
SOMEONE = next(result.accesses[0] for result, _ in RESULTS if isinstance(result, m.AccessPage))

SHORT = 0.05
"""Seconds: the timeout of calls that a test leaves unanswered."""


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """Each test ends with the threads it began with; sockets that were forgotten raise a ResourceWarning here."""
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(PATIENCE)
        assert not thread.is_alive(), thread
    gc.collect()


@pytest.fixture
def host() -> Iterator[ThreadHost]:
    """A fake server and the way to it; its threads end with the test."""
    host = ThreadHost(FakeServer())
    yield host
    host.close()


def connected(host: ThreadHost, on_event: OnEvent | None = None) -> Client:
    """Return a client of the fake server, on a station of its own. It does not pause before it dials again."""
    client = Client("fake", application="Charts", station="desk-4", timeout=PATIENCE, on_event=on_event, dial=host.dial)
    client._session.backoff.random = lambda: 0.0
    return client


def in_thread(act: Callable[[], object]) -> threading.Thread:
    """Start an act in a thread."""
    thread = threading.Thread(target=act)
    thread.start()
    return thread


def finish(thread: threading.Thread) -> None:
    """Wait for a thread that must end."""
    thread.join(PATIENCE)
    assert not thread.is_alive()


def cut(host: ThreadHost, client: Client) -> None:
    """Have the server hang up, and wait until the client dials again: it is connected once `host.way` is set."""
    host.way.clear()
    dialled = len(host.dialled)
    with host.server.changed:
        host.server.connections[-1].hang_up()
    host.wait_for(lambda: len(host.dialled) > dialled and not host.server.connections)
    assert client.broken is not None


def back(host: ThreadHost, client: Client) -> None:
    """Let the client connect again, and wait until it has been greeted."""
    host.way.set()
    client.call(m.KeepAlive())


def interrupted(host: ThreadHost, client: Client, kind: type[m.Params], call: Callable[[], object]) -> None:
    """Cut the connection while a call of a kind waits for its answer, which is lost; the call must succeed yet."""
    failures: list[BaseException] = []

    def act() -> None:
        try:
            call()
        except BaseException as error:
            failures.append(error)
            raise

    asked = host.server.asked(kind)
    host.server.kept_back = {kind}
    thread = in_thread(act)
    host.wait_for(lambda: host.server.asked(kind) == asked + 1)
    cut(host, client)
    host.server.drop_answers()
    host.way.set()
    finish(thread)
    assert failures == []


def test_both_clients_have_the_same_surface() -> None:
    """Each public method and property of one client is in the other, with the same parameters."""

    def surface(kind: type) -> dict[str, object]:
        return {
            name: list(inspect.signature(value).parameters) if inspect.isfunction(value) else type(value)
            for name, value in inspect.getmembers(kind)
            if not name.startswith("_")
        }

    opening = surface(Client)
    assert opening.pop("open") == ["self"]
    assert opening.pop("close") == ["self"]
    assert opening == surface(trio_client.Client)
    access = surface(blocking.Access)
    assert access == surface(trio_client.Access)
    assert list(inspect.signature(Client).parameters) == list(inspect.signature(trio_client.open_client).parameters)


def test_the_greeting(host: ThreadHost) -> None:
    """The client says who it is and where it sits, asks for events, and says goodbye at the end."""
    with connected(host) as client:
        assert client.greeting.server.name == "licenses"
        assert client.address == Tcp("fake")
        assert client.broken is None
    hello, goodbye = host.server.seen
    assert isinstance(hello, m.Hello)
    assert (hello.versions, hello.events, hello.station) == ((1, 1), "push", Station("desk-4"))
    assert hello.client.application == "Charts"
    assert isinstance(goodbye, m.Goodbye)
    host.wait_for(lambda: not host.server.connections)


def test_nothing_happens_before_the_block(host: ThreadHost) -> None:
    """A client that is made but not opened has no connection, and says so; afterwards it is closed for good."""
    client = connected(host)
    assert host.dialled == []
    with pytest.raises(LocalProtocolError, match="the client is not open"):
        client.containers()
    with pytest.raises(LocalProtocolError, match="the client is not open"):
        _ = client.greeting
    client.close()
    with client:
        pass
    client.close()
    with pytest.raises(LicenseError, match=r"the client was closed, Error 100\.$"):
        client.containers()
    with pytest.raises(LocalProtocolError, match="opened once"):
        client.open()


def test_an_access(host: ThreadHost) -> None:
    """An access has what was granted, can be asked about, and is released at the end of its block."""
    with connected(host) as client:
        with client.access(
            600010, 14, AccessMode.STATION_SHARE, feature_code=3, container="3-3448482", item=2
        ) as access:
            assert (access.handle, access.container, access.item, access.allocation) == (1, "3-3448482", 2, 4)
            assert access.ended is None
            access.check()
            assert access.info().firm_code == 600010
        with pytest.raises(LicenseError, match=r"release has been asked for, Error 106\.$"):
            access.check()
        access.release()
    _, asked, info, *rest = host.server.seen
    assert isinstance(asked, m.Access)
    assert structs.replace(asked, key=m.AccessKey(bytes(16))) == m.Access(
        m.AccessKey(bytes(16)), 600010, 14, AccessMode.STATION_SHARE, HandleKind.ENTRY, 3, "3-3448482", 2
    )
    assert [info, *rest] == [m.Info(1), m.Release(1), m.Goodbye()]


def test_listings(host: ThreadHost) -> None:
    """The listings are typed values; pages are followed by their cursor, empty ones too."""
    with connected(host) as client:
        assert client.containers().containers[0].id == "3-3448482"
        assert client.contents("3-3448482").firm_items[0].firm_code == 600010
        assert client.server_info().containers == 1
        assert client.call(m.KeepAlive()).time == 1
        host.server.pages = [
            m.LicensePage(3, 4, (COUNT,), 1),
            m.LicensePage(5, 4, (), 2),
            m.LicensePage(6, 4, (COUNT,)),
        ]
        assert list(client.net_cluster(firm_code=600010)) == [COUNT, COUNT]
        assert client.net_cluster_page(cursor=1).position == 5
        host.server.pages = [m.AccessPage(3, 4, (SOMEONE,), 1), m.AccessPage(5, 4, (SOMEONE,))]
        assert list(client.net_users(relevant=True, container="3-1")) == [SOMEONE, SOMEONE]
        assert client.net_users_page(cursor=1, limit=5).position == 5
        assert host.server.seen[-2:] == [m.NetUsers("3-1", relevant=True, cursor=1), m.NetUsers(cursor=1, limit=5)]
        host.server.pages = [m.LicensePage(3, 4, (COUNT,), 0)]
        with pytest.raises(LicenseError, match="in a circle"):
            list(client.net_cluster())


def test_a_refusal(host: ThreadHost) -> None:
    """A refusal is raised with its reasons, and the client goes on."""
    with connected(host) as client:
        host.server.refusals[m.Access] = ERROR
        with pytest.raises(LicenseError) as refusal:
            client.access(600010, 14)
        assert refusal.value.number == ErrorNumber.NO_MORE_LICENSES
        assert refusal.value.reasons == ERROR.reasons
        host.server.refusals.clear()
        with client.access(600010, 14) as access:
            assert access.handle == 1


def test_sixteen_threads(host: ThreadHost) -> None:
    """Many threads call at once, and each gets its own answer: handles are distinct, and their infos fit."""
    failures: list[BaseException] = []
    handles: list[int] = []
    start = threading.Barrier(16)

    def work(client: Client) -> None:
        try:
            start.wait(PATIENCE)
            for _ in range(25):
                with client.access(600010, 14) as access:
                    assert access.info().handle == access.handle
                    handles.append(access.handle)
        except BaseException as error:
            failures.append(error)
            raise

    with connected(host) as client:
        threads = [in_thread(lambda: work(client)) for _ in range(16)]
        for thread in threads:
            finish(thread)
        assert host.server.session.handles == {}
    assert failures == []
    assert sorted(handles) == list(range(1, 401))
    assert host.server.asked(m.Release) == 400


def test_the_limit_of_unanswered_requests() -> None:
    """Calls beyond the server's limit wait for their turn; all are answered."""
    host = ThreadHost(FakeServer(requests=2))
    host.server.kept_back = {m.KeepAlive}
    answered = []
    with connected(host) as client:
        threads = [in_thread(lambda: answered.append(client.call(m.KeepAlive()))) for _ in range(16)]
        host.wait_for(lambda: host.server.asked(m.KeepAlive) == 2)
        host.server.let_go()
        for thread in threads:
            finish(thread)
        assert len(answered) == 16
    host.close()


def test_one_access_in_two_threads(host: ThreadHost) -> None:
    """Two threads that release the same access both succeed, and it is released once."""
    with connected(host) as client:
        access = client.access(600010, 14)
        host.server.kept_back = {m.Release}
        failures: list[BaseException] = []

        def release() -> None:
            try:
                access.release()
            except BaseException as error:
                failures.append(error)
                raise

        threads = [in_thread(release), in_thread(release)]
        host.wait_for(lambda: host.server.asked(m.Release) == 2)
        host.server.let_go()
        for thread in threads:
            finish(thread)
        assert failures == []
        assert access.released


def test_no_answer_in_time(host: ThreadHost) -> None:
    """A call that is not answered raises 100 after the timeout; its late reply is ignored."""
    with connected(host) as client:
        host.server.kept_back = {m.Containers}
        client._timeout = SHORT
        with pytest.raises(LicenseError, match=r"no answer within 0.05 seconds, Error 100\.$"):
            client.containers()
        client._timeout = PATIENCE
        host.server.let_go()
        assert client.call(m.KeepAlive()).time == 1
        assert client.broken is None


def test_a_grant_that_comes_too_late_is_given_back(host: ThreadHost) -> None:
    """After an error nothing is held, even if the server granted later."""
    with connected(host) as client:
        host.server.kept_back = {m.Access}
        client._timeout = SHORT
        with pytest.raises(LicenseError, match="no answer"):
            client.access(600010, 14)
        client._timeout = PATIENCE
        host.wait_for(lambda: host.server.asked(m.Access) == 1)
        assert len(host.server.session.handles) == 1
        host.server.let_go()
        host.wait_for(lambda: not host.server.session.handles)


@pytest.mark.parametrize("late", [True, False], ids=["before the grant", "after the grant"])
def test_an_interrupted_call_holds_nothing(host: ThreadHost, monkeypatch: pytest.MonkeyPatch, late: bool) -> None:
    """Ctrl-C in an access that waits leaves no license behind, whether the grant comes afterwards or was just there."""

    class Interrupted(Future[object]):
        """A waiting call in which Ctrl-C is pressed once the request, or its answer, has arrived."""

        def result(self, timeout: float | None = None) -> object:
            if late:
                host.wait_for(lambda: host.server.asked(m.Access) == 1)
            else:
                super().result(timeout)
            raise KeyboardInterrupt

    with connected(host) as client:
        host.server.kept_back = {m.Access} if late else set()
        with monkeypatch.context() as patched:
            patched.setattr(blocking, "Future", Interrupted)
            with pytest.raises(KeyboardInterrupt):
                client.access(600010, 14)
        host.server.let_go()
        host.wait_for(lambda: host.server.asked(m.Release) == 1 and not host.server.session.handles)


def test_an_interrupted_call_of_an_outage_holds_nothing(host: ThreadHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in an access whose answer a cut has swallowed: what the server granted is given back."""

    class Interrupted(Future[object]):
        """A waiting call in which the connection is cut once the request has arrived, and then Ctrl-C is pressed."""

        def result(self, _: float | None = None) -> object:
            host.wait_for(lambda: host.server.asked(m.Access) == 1)
            cut(host, client)
            raise KeyboardInterrupt

    with connected(host) as client:
        host.server.kept_back = {m.Access}
        with monkeypatch.context() as patched:
            patched.setattr(blocking, "Future", Interrupted)
            with pytest.raises(KeyboardInterrupt):
                client.access(600010, 14)
        host.server.drop_answers()
        assert len(host.server.session.handles) == 1
        back(host, client)
        host.wait_for(lambda: not host.server.session.handles)
        assert host.server.asked(m.Access) == 1


def test_an_event_ends_an_access(host: ThreadHost) -> None:
    """The access knows, `on_event` is told, and releasing it has nothing to do."""
    events: list[m.Event] = []
    told = threading.Event()

    def on_event(event: m.Event) -> None:
        events.append(event)
        told.set()

    with connected(host, on_event) as client:
        with client.access(600010, 14) as access:
            host.server.end(access.handle)
            assert told.wait(PATIENCE)
            assert access.ended is not None
            assert access.ended.cause == m.EndCause.ADMINISTRATOR
            with pytest.raises(LicenseError, match="It was removed"):
                access.check()
        assert host.server.asked(m.Release) == 0
    assert events == [m.Event("ended", 8, access.handle, ADMINISTRATOR)]


def test_an_event_during_a_call(host: ThreadHost) -> None:
    """Events come while a call waits, and do not disturb it."""
    told = threading.Event()
    with connected(host, lambda event: told.set()) as client:  # noqa: ARG005
        access = client.access(600010, 14)
        host.server.kept_back = {m.Containers}
        thread = in_thread(client.containers)
        host.wait_for(lambda: host.server.asked(m.Containers) == 1)
        host.server.tell(m.Event("rebooked", 5, access.handle, container="3-1", item=7))
        assert told.wait(PATIENCE)
        assert (access.container, access.item, access.allocation) == ("3-1", 7, 4)
        assert thread.is_alive()
        host.server.let_go()
        finish(thread)


def test_on_event_may_use_the_client_and_may_fail(host: ThreadHost, caplog: pytest.LogCaptureFixture) -> None:
    """`on_event` runs in a thread of its own: it can ask for another access; what it raises is logged, no more."""
    regained: list[blocking.Access] = []
    done = threading.Event()
    client: Client

    def on_event(event: m.Event) -> None:
        if event.handle == 1:
            regained.append(client.access(600010, 14))
            raise ValueError(event.handle)
        done.set()

    with connected(host, on_event) as client:
        first, second = client.access(600010, 14), client.access(600010, 14)
        with caplog.at_level(logging.ERROR):
            host.server.end(first.handle)
            host.server.end(second.handle)
            assert done.wait(PATIENCE)
        assert regained[0].ended is None
    assert "on_event failed" in caplog.text


def test_on_event_may_close_the_client(host: ThreadHost) -> None:
    """Closing from within `on_event` does not wait for itself."""
    client: Client

    def on_event(event: m.Event) -> None:
        client.close()

    client = connected(host, on_event)
    client.open()
    access = client.access(600010, 14)
    host.server.end(access.handle)
    host.wait_for(lambda: not host.server.connections)


def test_events_that_nobody_takes(host: ThreadHost) -> None:
    """A program that stops taking events loses its connection, not the machine its memory."""
    go_on = threading.Event()

    def on_event(event: m.Event) -> None:
        go_on.wait(PATIENCE)

    with connected(host, on_event) as client:
        host.way.clear()
        for number in range(EVENTS + 2):
            host.server.tell(m.Event("ended", 8, number))
        host.wait_for(lambda: len(host.dialled) == 2)
        assert "does not take its events" in str(client.broken)
        go_on.set()
        back(host, client)


def test_keep_alive() -> None:
    """An idle client gives a sign of life as often as the server asked."""
    host = ThreadHost(FakeServer(keep_alive=0.01))
    with connected(host) as client:
        host.wait_for(lambda: host.server.asked(m.KeepAlive) >= 3)
        assert client.broken is None
    host.close()


def test_a_server_without_a_sign_of_life() -> None:
    """A keep-alive that is not answered ends the connection; the client makes another."""
    host = ThreadHost(FakeServer(keep_alive=0.01))
    host.server.kept_back = {m.KeepAlive}
    with connected(host) as client:
        assert client._link is not None
        with client._lock:
            client._link._timeout = SHORT
            client._link._deadline = None  # of a keep-alive that is on its way already
        host.way.clear()
        host.wait_for(lambda: len(host.dialled) == 2)
        assert "no sign of life" in str(client.broken)
        with client._lock:
            client._link._timeout = PATIENCE
        host.server.drop_answers()
        host.way.set()
        assert client.containers().position == 3
    host.close()


def test_who_holds_nothing_waits_for_a_long_answer() -> None:
    """The answer to a sign of life comes behind it, later than half the server's timeout."""
    host = ThreadHost(FakeServer(keep_alive=0.01, timeout=0.03))
    host.server.kept_back = {m.KeepAlive}
    with connected(host) as client:
        host.wait_for(lambda: host.server.asked(m.KeepAlive) >= 10)
        assert client.broken is None
        assert len(host.dialled) == 1
    host.close()


def test_a_cut_is_not_noticed(host: ThreadHost) -> None:
    """A call that waits gets its answer all the same; while nobody can say, the access does not claim to stand."""
    with connected(host) as client:
        access = client.access(600010, 14)
        cut(host, client)
        with pytest.raises(LicenseError, match=r"the server closed it, Error 100\.$"):
            access.check_nowait()
        back(host, client)
        access.check()
        interrupted(host, client, m.Containers, client.containers)
        assert access.info().handle == access.handle
        assert client.broken is None
    assert host.dialled == [Tcp("fake")] * 3


def test_the_server_says_goodbye(host: ThreadHost) -> None:
    """The server's reason is told, and the client comes back."""
    with connected(host) as client:
        host.way.clear()
        host.server.tell(m.Farewell(m.ErrorBody(309, "REQUEST_OVERLOAD", "Too many requests, Error 309.")))
        host.wait_for(lambda: len(host.dialled) == 2)
        assert "said goodbye: Too many requests, Error 100." in str(client.broken)
        back(host, client)


def test_the_server_breaks_the_protocol(host: ThreadHost) -> None:
    """Bytes that are no message end the connection, with what was wrong, and the client makes another."""
    with connected(host) as client:
        host.way.clear()
        host.server.connections[-1].send(b"\xc1")
        host.wait_for(lambda: len(host.dialled) == 2)
        assert "the server broke the protocol: " in str(client.broken)
        back(host, client)


def test_the_pauses_grow(host: ThreadHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """While nobody answers the client dials ever less often; a connection that lived makes the pauses short again."""
    pauses: list[float] = []
    host.server.keep_alive = 0.01
    with connected(host) as client:
        backoff = client._session.backoff
        ordinary = backoff.next

        def noted() -> float:
            backoff.random = lambda: 1.0
            pauses.append(ordinary())
            if len(pauses) == 7:
                host.unreachable = set()
            return 0.0

        monkeypatch.setattr(backoff, "next", noted)
        host.unreachable = {Tcp("fake")}
        host.server.connections[-1].hang_up()
        host.wait_for(lambda: host.server.asked(m.Resume) == 1)
        alive = host.server.asked(m.KeepAlive)
        host.wait_for(lambda: host.server.asked(m.KeepAlive) > alive)
        cut(host, client)
        back(host, client)
    assert pauses == [0.25, 0.5, 1, 2, 4, 5, 5, 0.25]


def test_a_server_that_does_not_greet_again(host: ThreadHost) -> None:
    """One that connects and says nothing is left after the timeout."""
    with connected(host) as client:
        access = client.access(600010, 14)
        cut(host, client)
        host.server.kept_back = {m.Resume}
        assert client._link is not None
        client._link._timeout = SHORT
        host.way.set()
        host.wait_for(lambda: len(host.dialled) == 3)
        assert "no answer within 0.05 seconds" in str(client.broken)
        client._link._timeout = PATIENCE
        host.server.kept_back = set()
        back(host, client)
        access.check()


def test_a_timeout_during_an_outage(host: ThreadHost) -> None:
    """A call keeps its own limit, and says why there was no answer; it is not asked afterwards."""
    with connected(host) as client:
        cut(host, client)
        client._timeout = SHORT
        with pytest.raises(LicenseError, match=r"no answer within 0.05 seconds; the connection is broken: .*goes on"):
            client.containers()
        client._timeout = PATIENCE
        back(host, client)
        assert host.server.asked(m.Containers) == 0


def test_a_server_that_was_started_again(host: ThreadHost) -> None:
    """What was held is asked for anew behind the same object: the program is told of each, once."""
    events: list[m.Event] = []
    with connected(host, events.append) as client:
        client.access(600010, 13).release()
        lost, kept = client.access(600010, 15), client.access(600010, 14)
        assert (lost.handle, kept.handle) == (2, 3)
        host.server.sold_out = {15}
        host.server.restart()
        assert kept.info().handle == kept.handle == 1
        kept.check()
        with pytest.raises(LicenseError, match=r"Error 212\.$"):
            lost.check()
        lost.release()
        assert host.server.session.handles == {1: kept.request.key}
    assert [(event.event, event.handle) for event in events] == [("lost", 2), ("reacquired", 1)]
    assert host.server.asked(m.Hello) == 2


def test_a_server_that_is_still_starting(host: ThreadHost) -> None:
    """As long as it says 238 the access is neither there nor lost; it is asked for again."""
    with connected(host) as client:
        access = client.access(600010, 14)
        host.server.refusals[m.Access] = LicenseError.of(ErrorNumber.SERVER_STARTING).body
        host.server.restart()
        host.wait_for(lambda: host.server.asked(m.Access) >= 4)
        with pytest.raises(LicenseError, match=r"Error 100\.$"):
            access.check_nowait()
        with host.server.changed:
            host.server.refusals.clear()
        host.wait_for(lambda: host.server.sessions and host.server.session.handles)
        assert access.info().handle == access.handle
        access.check()


def test_who_checks_waits_for_the_server(host: ThreadHost) -> None:
    """A server that is away in the middle of it, and starts again, is not noticed; one that stays away is, in time."""
    with connected(host) as client:
        access = client.access(600010, 14)
        host.server.refusals[m.Access] = LicenseError.of(ErrorNumber.SERVER_STARTING).body
        cut(host, client)
        stood = threading.Event()

        def check() -> None:
            access.check()
            stood.set()

        checking = threading.Thread(target=check, daemon=True)
        checking.start()
        host.wait_for(lambda: client._session._recovery._checks)
        host.server.restart()
        back(host, client)
        host.wait_for(lambda: host.server.asked(m.Access) >= 3)
        assert not stood.is_set()
        with host.server.changed:
            host.server.refusals.clear()
        finish(checking)
        assert stood.is_set()
        assert host.server.session.handles == {access.handle: access.request.key}
        cut(host, client)
        client._timeout = SHORT
        with pytest.raises(LicenseError, match=r"no answer within 0.05 seconds; the connection is broken: .*goes on"):
            access.check()
        client._timeout = PATIENCE
        back(host, client)
    with pytest.raises(LicenseError, match=r"Error 100\.$"):
        access.check()


def test_a_defect_does_not_hide(host: ThreadHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no failure of the network ends the client for good, and is told as Python tells it."""
    told: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", told.append)
    with connected(host) as client:
        access = client.access(600010, 14)
        assert client._link is not None
        monkeypatch.setattr(client._link, "_dial", lambda *_: 1 / 0)
        host.server.connections[-1].hang_up()
        finish(client._link._thread)
        with pytest.raises(LicenseError, match=r"its thread has ended, Error 100\.$"):
            client.containers()
        with pytest.raises(LicenseError, match=r"its thread has ended, Error 100\.$"):
            access.check()
    assert [each.exc_type for each in told] == [ZeroDivisionError]


@pytest.mark.parametrize("chance", [0.0, 10_000.0], ids=["while it dials", "while it pauses"])
def test_closing_during_an_outage(host: ThreadHost, chance: float) -> None:
    """Leaving waits neither for the pause nor for whoever is being dialled."""
    with connected(host) as client, client.access(600010, 14):
        client._session.backoff.random = lambda: chance
        if chance:
            host.server.connections[-1].hang_up()
            host.wait_for(lambda: not host.server.connections)
        else:
            cut(host, client)
    assert client._link is not None
    assert client._link._thread.is_alive() is not bool(chance)
    host.way.set()
    finish(client._link._thread)
    assert host.server.asked(m.Goodbye) == 0
    assert host.server.asked(m.Resume) == 0


def test_a_release_across_a_cut(host: ThreadHost) -> None:
    """A release whose answer was lost is repeated; that the handle is gone by then is success (decision 14)."""
    with connected(host) as client:
        access = client.access(600010, 14)
        interrupted(host, client, m.Release, access.release)
        assert access.released
        assert host.server.asked(m.Release) == 2


def test_a_release_during_an_outage(host: ThreadHost) -> None:
    """It waits for the connection; whoever leaves a block does not wait, and the handle is given back all the same."""
    with connected(host) as client:
        access = client.access(600010, 14)
        with client.access(600010, 14):
            cut(host, client)
        thread = in_thread(access.release)
        host.way.set()
        finish(thread)
        assert access.released
        host.wait_for(lambda: not host.server.session.handles)


def test_a_first_release_of_a_strange_handle(host: ThreadHost) -> None:
    """106 to a release that was not repeated is an error: the handle was gone, and nobody had said so."""
    with connected(host) as client:
        access = client.access(600010, 14)
        host.server.session.handles.clear()
        with pytest.raises(LicenseError, match=r"Error 106\.$"):
            access.release()


def test_what_ended_meanwhile(host: ThreadHost) -> None:
    """After a cut what the server confirms stands; what it ended, and what it does not know, is ended and told."""
    events: list[m.Event] = []
    with connected(host, events.append) as client:
        kept, removed, forgotten = (client.access(600010, 14) for _ in range(3))
        cut(host, client)
        host.server.end(removed.handle)
        del host.server.session.handles[forgotten.handle]
        back(host, client)
        assert removed.ended is not None
        assert removed.ended.cause == m.EndCause.ADMINISTRATOR
        assert forgotten.ended is not None
        assert "does not confirm it" in str(forgotten.ended)
        assert kept.info().handle == kept.handle
    assert [(event.event, event.handle) for event in events] == [("ended", removed.handle), ("ended", forgotten.handle)]


def test_a_cut_in_the_middle_of_an_access(host: ThreadHost) -> None:
    """An access whose answer the cut swallowed is asked for with the same key, and gets the same handle."""
    with connected(host) as client:
        accesses: list[blocking.Access] = []
        interrupted(host, client, m.Access, lambda: accesses.append(client.access(600010, 14)))
        assert list(host.server.session.handles) == [accesses[0].handle]
        first, second = (params for params in host.server.seen if isinstance(params, m.Access))
        assert first == second
        accesses[0].check()


def test_many_threads_and_many_cuts(host: ThreadHost) -> None:
    """However often the connection is cut while threads are at work, each gets what it asked for; nothing is left."""
    failures: list[BaseException] = []

    def work(client: Client) -> None:
        try:
            for _ in range(40):
                access = client.access(600010, 14)
                assert access.info().handle == access.handle
                access.release()
        except BaseException as error:
            failures.append(error)
            raise

    with connected(host) as client:
        threads = [in_thread(lambda: work(client)) for _ in range(8)]
        for number in range(20, 520, 20):
            host.wait_for(partial(host.server.has_seen, number))
            with host.server.changed:
                for connection in host.server.connections[-1:]:
                    connection.hang_up()
        for thread in threads:
            finish(thread)
        back(host, client)
        assert host.server.session.handles == {}
    assert failures == []
    assert host.server.asked(m.Hello) == 1
    assert host.server.asked(m.Resume) > 1


def test_connecting(host: ThreadHost, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Servers are tried in their order; if none answers, the one error names each and what was wrong."""
    monkeypatch.delenv("CMSERVERD_SERVER", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "cmserverd").mkdir()
    (tmp_path / "cmserverd" / "client.toml").write_text('servers = ["dead", "dead:2", "good", "never"]\n')
    host.unreachable = {Tcp("dead"), Tcp("dead", 2)}
    with Client(station="desk-4", dial=host.dial) as client:
        assert client.address == Tcp("good")
    host.unreachable |= {Tcp("good"), Tcp("never")}
    with pytest.raises(LicenseError) as failure, Client(station="desk-4", dial=host.dial):
        pytest.fail("there is no server")
    assert failure.value.number == ErrorNumber.SERVER_NOT_FOUND
    assert "dead:22350: Connection refused" in str(failure.value)
    assert "never:22350: Connection refused" in str(failure.value)
    with pytest.raises(SettingError, match="names no host"), Client("a b"):
        pytest.fail("there is no such server")


def test_a_server_that_does_not_greet(host: ThreadHost) -> None:
    """Refused or left without an answer, the client raises, and nothing is left of the connection."""
    host.server.refusals[m.Hello] = LicenseError.of(ErrorNumber.RUNTIME_TOO_OLD).body
    with pytest.raises(LicenseError, match=r"Error 129\.$"), connected(host, lambda event: None):  # noqa: ARG005
        pytest.fail("it is not greeted")
    host.server.refusals.clear()
    host.server.kept_back = {m.Hello}
    silent = connected(host)
    silent._timeout = SHORT
    with pytest.raises(LicenseError, match=r"no answer within 0.05 seconds"), silent:
        pytest.fail("it is not greeted")
    host.wait_for(lambda: not host.server.connections)


def test_a_server_that_does_not_answer_goodbye(host: ThreadHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaving takes the timeout at most."""

    class Unanswered(Future[object]):
        """A waiting call whose time begins when its request has arrived."""

        def result(self, timeout: float | None = None) -> object:
            host.wait_for(lambda: host.server.asked(m.Goodbye) == 1)
            return super().result(timeout)

    with connected(host) as client:
        host.server.kept_back = {m.Goodbye}
        client._timeout = SHORT
        monkeypatch.setattr(blocking, "Future", Unanswered)
    host.wait_for(lambda: not host.server.connections)


def test_an_interrupted_goodbye(host: ThreadHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while the client waits for the answer leaves no thread that would keep the session alive."""

    class Interrupted(Future[object]):
        """A waiting call in which Ctrl-C is pressed once the request has arrived."""

        def result(self, _: float | None = None) -> object:
            host.wait_for(lambda: host.server.asked(m.Goodbye) == 1)
            raise KeyboardInterrupt

    client = connected(host, print)
    client.open()
    host.server.kept_back = {m.Goodbye}
    monkeypatch.setattr(blocking, "Future", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        client.close()
    assert client._link is not None
    assert not client._link._thread.is_alive()
    host.wait_for(lambda: not host.server.connections)
    assert len(host.dialled) == 1


def test_a_goodbye_of_ones_own(host: ThreadHost) -> None:
    """Who has said goodbye himself leaves the block quietly: it is not said twice."""
    with connected(host) as client:
        client.call(m.Goodbye())
    assert host.server.asked(m.Goodbye) == 1


def test_no_sign_of_life_behind_a_goodbye() -> None:
    """A keep-alive that falls due while the goodbye waits for its answer is not sent, and harms nobody."""
    host = ThreadHost(FakeServer(keep_alive=0.01))
    host.server.kept_back = {m.Goodbye}
    with connected(host) as client:
        thread = in_thread(lambda: client.call(m.Goodbye()))
        host.wait_for(lambda: host.server.asked(m.Goodbye) == 1)
        assert client._link is not None
        due = client._link._next
        asked = host.server.asked(m.KeepAlive)
        deadline = time.monotonic() + PATIENCE
        while client._link._next == due:
            assert time.monotonic() < deadline
        host.server.let_go()
        finish(thread)
        assert client.broken is None
        assert host.server.asked(m.KeepAlive) == asked
    host.close()


def test_no_file_descriptor_is_left(host: ThreadHost) -> None:
    """A connection that was made, but cannot be used, is closed again; the one sentence says why."""
    connections = []

    def fail() -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with pytest.MonkeyPatch.context() as patched:

        def dial_last(address: Address, timeout: float) -> socket.socket:
            connections.append(host.dial(address, timeout))
            patched.setattr(socket, "socketpair", fail)
            return connections[-1]

        client = Client("fake", station="desk-4", dial=dial_last)
        with pytest.raises(LicenseError, match=r"fake:22350: Too many open files, Error 101\.$"):
            client.open()
    (connection,) = connections
    assert connection.fileno() == -1
    host.wait_for(lambda: not host.server.connections)


def test_more_than_the_socket_takes(host: ThreadHost) -> None:
    """What does not go out at once goes out when the server reads on; nothing is lost or mixed up."""

    def dial_narrow(address: Address, timeout: float) -> socket.socket:
        connection = host.dial(address, timeout)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # as little as the system allows
        return connection

    with Client("fake", station="desk-4", timeout=PATIENCE, dial=dial_narrow) as client:
        host.server.kept_back = {m.Containers}  # no answer wakes the client
        with host.server.changed:  # the server cannot read on
            threads = [in_thread(client.containers) for _ in range(64)]
            deadline = time.monotonic() + PATIENCE
            assert client._link is not None
            while len(client._session._asked) < 64 or select.select([], [client._link._connection], [], 0)[1]:
                assert time.monotonic() < deadline
            assert client._session.outbox
        host.wait_for(lambda: host.server.asked(m.Containers) == 64)
        host.server.let_go()
        for thread in threads:
            finish(thread)


def test_a_forked_child_is_refused(host: ThreadHost) -> None:
    """In a child after a fork every use raises one sentence, and its end does not end the parent's session."""
    with connected(host) as client:
        access = client.access(600010, 14)
        uses: list[Callable[[], object]] = [
            client.containers,
            lambda: client.access(600010, 14),
            access.info,
            access.check,
            access.release,
        ]
        receive, send = os.pipe()
        client._lock.acquire()  # the worst moment for a fork: another thread is at work
        child = os.fork()
        if child == 0:
            signal.alarm(int(PATIENCE))  # a child that hangs must not hang us
            sentences = [_refusal_of(use) for use in uses]
            client.close()
            os.write(send, "\n".join(sentences).encode())
            os._exit(0)
        client._lock.release()
        os.close(send)
        with os.fdopen(receive) as pipe:
            sentences = pipe.read().split("\n")
        assert os.waitpid(child, 0)[1] == 0
        sentence = f"this client belongs to process {os.getpid()}; a process forked from it opens a client of its own"
        assert sentences == [sentence] * len(uses)
        access.check()
        assert access.info().handle == access.handle
    assert host.server.sessions == {}


def _refusal_of(use: Callable[[], object]) -> str:
    try:
        use()
    except LocalProtocolError as error:
        return str(error)
    return "it was not refused"


def test_real_sockets(tmp_path: Path) -> None:
    """Over TCP small messages leave at once (TCP_NODELAY); a Unix socket is reached by its path."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with dial(Tcp("127.0.0.1", port), PATIENCE) as connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "x.sock"))
        listener.listen()
        dial(Unix(str(tmp_path / "x.sock")), PATIENCE).close()
    with pytest.raises(OSError, match="No such file"):
        dial(Unix(str(tmp_path / "y.sock")), PATIENCE)


def test_the_addresses_of_a_name_share_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many addresses a name has, and whatever each takes, connecting takes the timeout at most."""
    now = 0.0
    dead: list[str] = []
    refusing = {"192.0.2.2"}

    class Unanswered(socket.socket):
        """A socket whose connections nobody answers: time passes, or a refusal comes at once."""

        def connect(self, place: tuple[str, int]) -> None:  # type: ignore[override]  # of the few that are used here
            nonlocal now
            dead.append(place[0])
            if place[0] in refusing:
                raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
            now += self.gettimeout() or PATIENCE
            raise TimeoutError("timed out")

    def found(host: str, port: int, **_: object) -> list[object]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"192.0.2.{last}", port)) for last in (1, 2, 3)]

    monkeypatch.setattr(socket, "socket", Unanswered)
    monkeypatch.setattr(socket, "getaddrinfo", found)
    monkeypatch.setattr(link, "time", SimpleNamespace(monotonic=lambda: now))
    with pytest.raises(TimeoutError):
        dial(Tcp("licenses"), 9.0)
    assert dead == ["192.0.2.1", "192.0.2.2", "192.0.2.3"]
    assert now == pytest.approx(9.0)
