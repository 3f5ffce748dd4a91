"""What a conversation answers to requests, without I/O: numbers, order, turns, doors, bugs."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any, NoReturn

import pytest
from structlog.testing import capture_logs

from cmserverd import conversation, views
from cmserverd.answers import Door, Peer
from cmserverd.conversation import OUTBOX, ROUND, TURN
from cmserverd.core.rules import Limits
from protocol import messages as m
from protocol import rpc
from protocol.errors import ErrorNumber, LicenseError
from protocol.terms import HandleKind
from tests.daemon.harness import (
    CONTROL,
    HERE,
    LOCAL_CHARTS,
    MACHINE,
    MONITOR,
    REMOTE,
    Talk,
    access,
    charts,
    hello,
    local_charts,
    make_service,
    number_of,
    request,
    wire,
)


@pytest.mark.parametrize("method", ["no_such", "", "Access", "access ", "x" * 1024, "event", "__class__"])
def test_an_unknown_method_is_304_and_the_session_goes_on(method: str) -> None:
    """The answer lists what is known."""
    talk = Talk(make_service(charts()), greeting=hello())
    talk.send(request(77, method, {}))
    with pytest.raises(LicenseError, match="known are access, ") as refusal:
        talk.inbox.take(77, m.KeepAlive())
    assert number_of(refusal.value) == ErrorNumber.NOT_IMPLEMENTED
    talk.ask(access())


@pytest.mark.parametrize("ask", [m.Info, m.Release])
def test_a_handle_that_is_not_ones_own_is_106(ask: Callable[[int], m.Params[Any]]) -> None:
    """One that never was, one released, and one of another session: which goes on unharmed."""
    service = make_service(charts())
    talk, other = Talk(service, greeting=hello(1)), Talk(service, greeting=hello(2))
    released = talk.ask(access()).handle
    talk.ask(m.Release(released))
    foreign = other.ask(access()).handle
    for handle in (4711, 2**53 - 1, released, foreign):
        with pytest.raises(LicenseError) as refusal:
            talk.ask(ask(handle))
        assert number_of(refusal.value) == ErrorNumber.INVALID_HANDLE
    assert other.ask(m.Info(foreign)).handle == foreign


@pytest.mark.parametrize("handle", [0, -1, 2**53, True, 1.0, "1", None])
def test_a_handle_out_of_range_is_105(handle: object) -> None:
    """It is no handle at all."""
    talk = Talk(make_service(charts()), greeting=hello())
    talk.send(request(9, "release", {"handle": handle}))
    with pytest.raises(LicenseError) as refusal:
        talk.inbox.take(9, m.Release(1))
    assert number_of(refusal.value) == ErrorNumber.INVALID_PARAMETER


def test_a_session_holds_so_many_handles_and_no_more() -> None:
    """The next one is 107; after a release there is room again."""
    talk = Talk(make_service(charts(), limits=Limits(handles=3)), greeting=hello())
    handles = [talk.ask(access(kind=HandleKind.SUBSYSTEM)).handle for _ in range(3)]
    with pytest.raises(LicenseError, match="may hold 3") as refusal:
        talk.ask(access())
    assert number_of(refusal.value) == ErrorNumber.NO_MORE_HANDLES
    talk.ask(m.Release(handles[1]))
    talk.ask(access())


def test_an_address_has_so_many_sessions_and_no_more() -> None:
    """The next one is 309 and may try again; other addresses do not notice, and an end makes room."""
    service = make_service(limits=Limits(sessions_per_address=2))
    first, _ = Talk(service, greeting=hello(1)), Talk(service, greeting=hello(2))
    third = Talk(service)
    with pytest.raises(LicenseError) as refusal:
        third.ask(hello(3))
    assert number_of(refusal.value) == ErrorNumber.REQUEST_OVERLOAD
    Talk(service, peer=Peer("192.0.2.8", here=False), greeting=hello(4))
    first.ask(m.Goodbye())
    third.ask(hello(3))


def test_replies_leave_in_the_order_of_the_requests() -> None:
    """What is granted, refused and wrong is answered in its place."""
    talk = Talk(make_service(charts(quantity=1)), greeting=hello())
    talk.inbox.order.clear()
    asked = [
        rpc.encode_request(10, access()),
        rpc.encode_request(9, access()),
        request(8, "no_such", {}),
        request(7, "release", {"handle": "x"}),
        rpc.encode_request(6, m.NetCluster()),
        rpc.encode_request(5, m.Release(1)),
        rpc.encode_request(4, access()),
    ]
    talk.send(b"".join(asked))
    answers = [message for message in talk.inbox.order if isinstance(message, rpc.Response)]
    assert [answer.msgid for answer in answers] == [10, 9, 8, 7, 6, 5, 4]
    numbers = [answer.error["number"] if isinstance(answer.error, dict) else 0 for answer in answers]
    assert numbers == [0, 212, 304, 105, 0, 0, 0]


def test_requests_are_answered_in_turns() -> None:
    """Nobody's pipeline holds up the others: after some requests it is their turn."""
    talk = Talk(make_service(), greeting=hello())
    talk.conversation.receive(b"".join(rpc.encode_request(number, m.KeepAlive()) for number in range(TURN + 1)))
    assert talk.conversation.work()
    talk.collect()
    assert len(talk.inbox.replies) == TURN
    assert not talk.conversation.work()
    talk.collect()
    assert len(talk.inbox.replies) == TURN + 1


def test_many_that_ask_without_end_share_the_time_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The more they are, the fewer requests each is answered in a turn; who is gone, or done, takes no share."""
    monkeypatch.setattr(conversation, "perf_counter", count(0, ROUND / 99.5).__next__)  # a hundred requests, one round
    service = make_service()
    talks = [Talk(service, greeting=hello(number)) for number in range(10)]
    asked = b"".join(rpc.encode_request(number, m.KeepAlive()) for number in range(300))
    turns: list[int] = []
    for talk in (*talks, *talks):
        if len(turns) < 10:
            talk.conversation.receive(asked)
        assert talk.conversation.work()
        before = len(talk.inbox.replies)
        talk.collect()
        turns.append(len(talk.inbox.replies) - before)
    assert turns[0] == 100
    assert turns[-10:] == [10] * 10
    talks[0].cut()
    for talk in talks[1:]:
        talk.send(b"")
    assert service.busy == 0


@pytest.mark.parametrize("listing", [m.Containers(), m.Contents("3-1"), m.NetCluster(), m.NetUsers()])
def test_a_listing_takes_a_turn_of_its_own(listing: m.Params) -> None:
    """It may take long, so others come after each."""
    talk = Talk(make_service(charts()), greeting=hello())
    talk.conversation.receive(b"".join(rpc.encode_request(number, listing) for number in range(3)))
    for done in (1, 2, 3):
        assert talk.conversation.work()
        talk.collect()
        assert len(talk.inbox.replies) == done


def test_requests_wait_while_the_outbox_is_full() -> None:
    """Who does not read is not answered: the outbox exceeds its limit by one reply at most."""
    talk = Talk(make_service(charts()), greeting=hello())
    talk.ask(access())
    conversation = talk.conversation
    while conversation.pending < OUTBOX:
        conversation.receive(b"".join(rpc.encode_request(number, m.Info(1)) for number in range(500)))
        while conversation.work() and conversation.pending < OUTBOX:
            pass
    full = conversation.pending
    assert full < OUTBOX + 1000
    assert conversation.work()
    assert conversation.pending == full
    conversation.take()
    conversation.work()
    assert 0 < conversation.pending < OUTBOX


def test_local_only_licenses_are_for_this_machine_and_over_this_machine() -> None:
    """Local is who comes over loopback and declares the daemon's own machine; one of the two is not enough."""
    service = make_service(local_charts())
    answers = {}
    for peer in (HERE, REMOTE):
        for machine in (MACHINE, "another"):
            talk = Talk(service, peer=peer, greeting=hello(machine=machine))
            try:
                talk.ask(access(product=LOCAL_CHARTS))
                answers[peer.here, machine == MACHINE] = 0
            except LicenseError as refusal:
                answers[peer.here, machine == MACHINE] = refusal.number
    assert answers == {(True, True): 0, (True, False): 200, (False, True): 200, (False, False): 200}


READING = {"containers", "contents", "net_cluster", "net_users"}
ALWAYS = {"keep_alive", "goodbye", "server_info"}
WATCHING = {"happened", "log", "configuration", "statistics"}
OFFERED = {
    Door.CLIENT: READING | ALWAYS | {"access", "release", "info", "crypt", "events", "borrow", "give_back"},
    Door.MONITOR: READING | ALWAYS | WATCHING | {"tracking", "usage", "verify_tracking"},
    Door.CONTROL: ALWAYS | {"context", "import", "deallocate", "reload", "lend", "give_back"},
}
PEERS = {Door.CLIENT: REMOTE, Door.MONITOR: MONITOR, Door.CONTROL: CONTROL}


@pytest.mark.parametrize("method", sorted(m.METHODS.keys() - {"hello", "resume"}))
@pytest.mark.parametrize("door", Door)
def test_each_door_offers_its_methods_and_no_others(door: Door, method: str) -> None:
    """Over TCP nothing administrative, over the monitor's socket reading only; the rest is 304, which says why."""
    talk = Talk(make_service(charts()), peer=PEERS[door], greeting=hello())
    loan = {"id": bytes(16), "holder": bytes(32), "seconds": 1}
    params = {
        "access": wire(access()),
        "release": {"handle": 1},
        "info": {"handle": 1},
        "crypt": {"handle": 1, "nonce": bytes(16)},
        "contents": {"container": "3-1"},
        "context": {"container": "3-1"},
        "import": {"update": b""},
        "deallocate": {"handle": 1},
        "borrow": loan | {"time": 0},
        "lend": loan | wire(hello()) | {"firm_code": 600010, "product_code": 14},
        "give_back": {"container": "3-1", "id": bytes(16), "signature": bytes(64)},
    }
    talk.send(request(30, method, params.get(method, {})))
    if talk.conversation.later is not None:  # a device has to be asked, which only what is offered can come to
        assert method in OFFERED[door]
        return
    error = talk.inbox.replies[30].error
    number = error["number"] if isinstance(error, dict) else 0
    if method in OFFERED[door]:
        assert number in (0, 106, 306)  # 306: this service keeps no journal
    else:
        assert number == 304
        assert isinstance(error, dict)
        assert f"the {door.value} socket does not offer it" in error["text"]


def test_a_method_that_is_added_is_offered_by_decision_only() -> None:
    """Whoever adds a method has to say here at which doors it is offered; TCP gets no administrative one."""
    operators = {"context", "import", "deallocate", "reload", "lend", "tracking", "usage", "verify_tracking"} | WATCHING
    assert set(m.METHODS) == OFFERED[Door.CLIENT] | {"hello", "resume"} | operators


@pytest.mark.parametrize("peer", [MONITOR, CONTROL])
def test_the_local_sockets_open_no_session(peer: Peer) -> None:
    """Who only looks counts as no client; who is resumed there is none either."""
    service = make_service()
    talk = Talk(service, peer=peer, greeting=hello())
    assert talk.greeting is not None
    assert (talk.greeting.session, talk.greeting.token) == (0, "")
    assert not service.engine.table.sessions
    talk.ask(m.Goodbye())
    assert talk.conversation.over
    owner = Talk(service, greeting=hello())
    stranger = Talk(service, peer=peer)
    with pytest.raises(LicenseError, match="greet with hello first"):
        stranger.ask(m.Resume((1, 1), owner.token))
    assert not owner.conversation.over


@pytest.mark.parametrize(
    ("net_info", "peer", "sees"),
    [
        ("auto", REMOTE, "own"),
        ("auto", HERE, "all"),
        ("own", HERE, "own"),
        ("own", REMOTE, "own"),
        ("all", REMOTE, "all"),
        ("own", MONITOR, "all"),
    ],
)
def test_who_sees_whose_accesses(net_info: Any, peer: Peer, sees: str) -> None:
    """Over TCP by the setting, `auto` by where the client is; the operator's socket shows all."""
    service = make_service(charts(quantity=5), net_info=net_info)
    other = Talk(service, greeting=hello(1))
    other.ask(access())
    talk = Talk(service, peer=peer, greeting=hello(2))
    own = set()
    if peer.door is Door.CLIENT:
        own = {talk.ask(access()).handle}
    shown = {row.handle for row in talk.ask(m.NetUsers()).accesses}
    assert shown == ({1} | own if sees == "all" else own)


def meets_a_bug(*_: object) -> NoReturn:
    """Be a function with a bug."""
    msg = "planted"
    raise RuntimeError(msg)


def test_a_bug_ends_one_session_and_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its client hears 104, its licenses are free, and the log has who it was and where the bug is."""
    monkeypatch.setattr(views, "handle_info", meets_a_bug)
    service = make_service(charts(quantity=1))
    unlucky = Talk(service, greeting=hello(1))
    unlucky.ask(access())
    unlucky.conversation.receive(rpc.encode_request(2, m.Info(1)))
    with capture_logs() as said:
        try:
            unlucky.conversation.work()
        except RuntimeError:
            unlucky.conversation.failed()
    (line,) = said
    assert line["log_level"] == "error"
    assert (line["address"], line["session"], line["client"]) == (REMOTE.address, 1, r"192.0.2.7(pc1 \ user)")
    assert line["exc_info"]
    assert unlucky.inbox.farewell is not None
    assert unlucky.inbox.farewell.number == ErrorNumber.INTERNAL
    assert not service.engine.table.sessions
    Talk(service, greeting=hello(2)).ask(access())
