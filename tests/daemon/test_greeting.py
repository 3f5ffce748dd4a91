"""How a session begins and is taken up again: hello, resume, and every fault in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack
import pytest

from cmserverd.answers import Peer
from cmserverd.core.rules import Limits
from cmserverd.core.terms import SessionState
from cmserverd.service import Detachment
from drivers.container import ContainerId
from protocol import messages as m
from protocol import rpc
from protocol.errors import ErrorNumber, LicenseError
from tests.daemon.harness import (
    CONTROL,
    HERE,
    LOCAL_CHARTS,
    MACHINE,
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


def test_a_greeting_says_all_that_a_client_must_know() -> None:
    """Version, token, intervals, time and limits are in the first answer."""
    service = make_service(limits=Limits(handles=7))
    greeting = Talk(service, greeting=hello()).greeting
    assert greeting is not None
    assert greeting.version == 1
    assert len(greeting.token) == 64
    assert (greeting.keep_alive, greeting.timeout) == (40, 120)
    assert greeting.limits == m.Limits(requests=64, message=rpc.FROM_CLIENT.total, handles=7)
    assert abs(greeting.time - service.engine.clock.now()) <= 1
    assert (greeting.handles, greeting.ended) == ((), ())
    assert list(service.engine.table.sessions) == [greeting.session]


def test_who_brings_updates_is_told_how_long_a_message_may_be() -> None:
    """On the control socket that is what an update file has and more; a client that keeps to it can send one."""
    control = Talk(make_service(), CONTROL, greeting=hello())
    assert control.greeting is not None
    assert control.greeting.limits.message == rpc.FROM_OPERATOR.total
    update = m.Import(bytes(rpc.FROM_OPERATOR.binary))
    assert len(rpc.encode_request(1, update)) <= control.greeting.limits.message


def test_the_server_keeps_no_token() -> None:
    """Only its hash is in the table, and two sessions have two."""
    service = make_service()
    first, second = Talk(service, greeting=hello()), Talk(service, greeting=hello())
    assert first.token != second.token
    assert not {first.token.encode(), bytes.fromhex(first.token)} & set(service.engine.table.tokens)


@pytest.mark.parametrize(
    ("offered", "answer"),
    [
        ((3, 3), 3),
        ((1, 9), 3),
        ((2, 3), 3),
        ((4, 9), ErrorNumber.SERVER_TOO_OLD),
        ((1, 2), ErrorNumber.RUNTIME_TOO_OLD),
        ((9, 1), ErrorNumber.SERVER_TOO_OLD),
    ],
)
def test_the_version_is_chosen_from_the_range(
    offered: tuple[int, int], answer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server of version 3 speaks it if it is offered; else it says who is too old, and opens no session."""
    monkeypatch.setattr(m, "PROTOCOL_VERSION", 3)
    service = make_service()
    talk = Talk(service)
    if isinstance(answer, ErrorNumber):
        with pytest.raises(LicenseError) as refusal:
            talk.ask(hello(versions=offered))
        assert number_of(refusal.value) == answer
        assert "version 3" in refusal.value.text
        assert not service.engine.table.sessions
    else:
        assert talk.ask(hello(versions=offered)).version == answer


def without(name: str) -> Callable[[dict[str, Any]], Any]:
    """Return what leaves a field out of a hello."""

    def leave_out(fields: dict[str, Any]) -> dict[str, Any]:
        del fields[name]
        return fields

    return leave_out


def having(**values: object) -> Callable[[dict[str, Any]], Any]:
    """Return what gives a hello other values; a dict is merged into the field's map."""

    def replace(fields: dict[str, Any]) -> dict[str, Any]:
        for name, value in values.items():
            fields[name] = {**fields[name], **value} if isinstance(value, dict) else value
        return fields

    return replace


HELLO_FAULTS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no versions": (without("versions"), "versions"),
    "no client": (without("client"), "client"),
    "no station": (without("station"), "station"),
    "versions are no range": (having(versions=1), "versions"),
    "three versions": (having(versions=[1, 1, 1]), "versions"),
    "version 0": (having(versions=[0, 1]), "versions"),
    "version 65536": (having(versions=[1, 2**16]), "versions"),
    "version is true": (having(versions=[True, True]), "versions"),
    "version is a float": (having(versions=[1.0, 1.0]), "versions"),
    "client is a text": (having(client="me"), "client"),
    "client is nil": (having(client=None), "client"),
    "host is a number": (having(client={"host": 1}), "host"),
    "host is binary": (having(client={"host": b"pc"}), "host"),
    "host is too long": (having(client={"host": "x" * 256}), "host"),
    "pid is negative": (having(client={"pid": -1}), "pid"),
    "pid is a bool": (having(client={"pid": True}), "pid"),
    "pid is a text": (having(client={"pid": "1"}), "pid"),
    "pid is too large": (having(client={"pid": 2**32}), "pid"),
    "machine is empty": (having(station={"machine": ""}), "machine"),
    "machine is too long": (having(station={"machine": "x" * 65}), "machine"),
    "machine has a space": (having(station={"machine": "a b"}), "machine"),
    "machine has a newline": (having(station={"machine": "a\n"}), "machine"),
    "machine is not ASCII": (having(station={"machine": "é"}), "machine"),
    "seat is negative": (having(station={"seat": -1}), "seat"),
    "events are unknown": (having(events="shout"), "events"),
    "a list instead of a map": (list, ""),
    "a text instead of a map": (lambda _: "hello", ""),
    "a key that is no text": (lambda fields: {**fields, 1: 2}, ""),
    "a text longer than any may be": (having(client={"host": "x" * 1025}), ""),
    "a bin longer than any may be": (having(extra=b"x" * 65), ""),
    "an ext": (having(extra=msgpack.ExtType(4, b"x")), ""),
    "a map with too many keys": (having(extra={str(key): 0 for key in range(33)}), ""),
    "a list with too many elements": (having(extra=[0] * 17), ""),
}


@pytest.mark.parametrize(("spoil", "named"), HELLO_FAULTS.values(), ids=HELLO_FAULTS)
def test_each_fault_in_a_hello_is_answered_with_105(spoil: Callable[[dict[str, Any]], Any], named: str) -> None:
    """The answer names the field, nothing is opened, and a right hello is welcome after it."""
    service = make_service()
    talk = Talk(service)
    fields = spoil({**wire(hello()), "extra": {}})
    talk.send(request(1, "hello", fields))
    (reply,) = talk.inbox.order
    assert isinstance(reply, rpc.Response)
    assert isinstance(reply.error, dict)
    assert reply.error["number"] == 105
    assert named in reply.error["text"]
    assert not service.engine.table.sessions
    talk.inbox.replies.clear()
    talk.ask(hello())


@pytest.mark.parametrize(
    "data",
    [
        request(1, "hello", {}, {}),
        request(1, "hello"),
        msgpack.packb([0, 1, "hello", wire(hello())]),
        msgpack.packb([0, 1, "hello", None]),
        bytes.fromhex("940001a568656c6c6f9182a161c0a161c0"),  # the same key twice
        bytes.fromhex("940001a568656c6c6f9181a1ffc0"),  # a text that is not UTF-8
        bytes.fromhex("940001a568656c6c6f918190c0"),  # a map whose key is a list
    ],
)
def test_parameters_are_one_map_with_texts_as_keys(data: bytes) -> None:
    """Anything else is 105, and can be done better."""
    service = make_service()
    talk = Talk(service)
    talk.send(data)
    if talk.conversation.over:  # what cannot be decoded at all may end the connection instead
        assert talk.inbox.farewell is not None
        assert talk.inbox.farewell.number == 105
    else:
        (reply,) = talk.inbox.order
        assert isinstance(reply, rpc.Response)
        assert isinstance(reply.error, dict)
        assert reply.error["number"] == 105
        talk.inbox.replies.clear()
        talk.ask(hello())


def test_unknown_fields_are_ignored() -> None:
    """A newer client's hello has fields that this server does not know."""
    talk = Talk(make_service())
    fields = having(colour="blue", client={"shoe_size": 43})({**wire(hello()), "client": wire(hello())["client"]})
    talk.send(request(5, "hello", fields))
    assert talk.inbox.take(5, hello()).session == 1


@pytest.mark.parametrize("method", ["access", "keep_alive", "goodbye", "no_such", "", "events", "net_users"])
def test_who_does_not_greet_first_is_sent_away(method: str) -> None:
    """The request is answered with 105, the connection with a goodbye, and nothing was opened."""
    service = make_service(charts())
    talk = Talk(service)
    talk.send(request(1, method, {}))
    with pytest.raises(LicenseError, match="greet with hello first"):
        talk.inbox.take(1, m.KeepAlive())
    assert talk.conversation.over
    assert talk.inbox.farewell is not None
    assert not service.engine.table.sessions


def test_a_second_greeting_is_refused_and_the_session_goes_on() -> None:
    """One connection, one session: hello and resume after a hello are 105."""
    service = make_service(charts())
    talk = Talk(service, greeting=hello())
    for again in (hello(2), m.Resume((1, 1), talk.token)):
        with pytest.raises(LicenseError, match="greeted already") as refusal:
            talk.ask(again)
        assert number_of(refusal.value) == ErrorNumber.INVALID_PARAMETER
    assert talk.ask(access()).handle == 1
    assert len(service.engine.table.sessions) == 1


@pytest.mark.parametrize("detachment", Detachment)
def test_a_session_is_resumed_with_its_handles(detachment: Detachment) -> None:
    """Closed or silent: token in, same session, same handles, attached again."""
    service = make_service(charts())
    first = Talk(service, greeting=hello())
    handles = tuple(first.ask(access()).handle for _ in range(2))
    first.cut(detachment)
    (session,) = service.engine.table.sessions.values()
    assert session.state.value == detachment.value
    second = Talk(service, peer=Peer("198.51.100.1", here=False), greeting=m.Resume((1, 1), first.token))
    assert second.greeting is not None
    assert (second.greeting.session, second.greeting.handles) == (session.id, handles)
    assert session.state is SessionState.ATTACHED
    assert session.address == "198.51.100.1"
    assert second.ask(m.Info(handles[0])).handle == handles[0]


def test_resuming_an_attached_session_takes_it_over() -> None:
    """The old connection is told goodbye and is over; what it does afterwards touches the session no more."""
    service = make_service(charts())
    old = Talk(service, greeting=hello(events="push"))
    handle = old.ask(access()).handle
    new = Talk(service, greeting=m.Resume((1, 1), old.token, "push"))
    assert old.conversation.over
    assert old.inbox.farewell is not None
    assert old.inbox.farewell.number == ErrorNumber.INVALID_HANDLE
    old.send(rpc.encode_request(99, m.Release(handle)))
    old.cut()
    assert new.ask(m.Info(handle)).handle == handle
    service.engine.remove(ContainerId("3-1"))
    assert len(new.inbox.events) == 1
    assert old.inbox.events == []


@pytest.mark.parametrize("token", ["0" * 64, "5e" * 32])
def test_an_unknown_token_is_106(token: str) -> None:
    """The sentence says to greet anew, and that works."""
    talk = Talk(make_service())
    with pytest.raises(LicenseError, match="greet anew with hello") as refusal:
        talk.ask(m.Resume((1, 1), token))
    assert number_of(refusal.value) == ErrorNumber.INVALID_HANDLE
    talk.ask(hello())


@pytest.mark.parametrize("token", ["", "0" * 63, "0" * 65, "G" * 64, "A" * 64, "0" * 63 + "\n", 5, None])
def test_what_is_no_token_is_105(token: object) -> None:
    """It is not looked up at all."""
    talk = Talk(make_service())
    talk.send(request(1, "resume", {"versions": [1, 1], "token": token}))
    with pytest.raises(LicenseError) as refusal:
        talk.inbox.take(1, m.KeepAlive())
    assert number_of(refusal.value) == ErrorNumber.INVALID_PARAMETER


def test_a_resumed_session_speaks_a_version_too() -> None:
    """A client that was exchanged for a newer one meanwhile is told that the server is too old, and stays detached."""
    service = make_service()
    first = Talk(service, greeting=hello())
    first.cut()
    talk = Talk(service)
    with pytest.raises(LicenseError) as refusal:
        talk.ask(m.Resume((2, 5), first.token))
    assert number_of(refusal.value) == ErrorNumber.SERVER_TOO_OLD
    (session,) = service.engine.table.sessions.values()
    assert session.state is SessionState.CLOSED
    talk.ask(m.Resume((1, 5), first.token))


@pytest.mark.parametrize("before_the_cut", [True, False])
def test_what_ended_is_told_with_the_greeting(before_the_cut: bool) -> None:
    """Whether its event was waiting to be fetched or nobody was there to hear it; and it is not told twice."""
    service = make_service(charts())
    first = Talk(service, greeting=hello())
    handle = first.ask(access()).handle
    if before_the_cut:
        service.engine.remove(ContainerId("3-1"))
    first.cut()
    if not before_the_cut:
        service.engine.remove(ContainerId("3-1"))
    second = Talk(service, greeting=m.Resume((1, 1), first.token))
    assert second.greeting is not None
    (gone,) = second.greeting.ended
    assert (gone.handle, gone.error.number, gone.error.cause) == (handle, 106, "container_gone")
    assert second.greeting.handles == ()
    assert second.ask(m.Events()).events == ()


def test_a_session_is_local_where_it_is_resumed() -> None:
    """Whoever takes his token to another machine leaves the local licenses behind, and the other way round."""
    service = make_service(local_charts())
    first = Talk(service, peer=HERE, greeting=hello(machine=MACHINE))
    first.ask(access(product=LOCAL_CHARTS))
    second = Talk(service, peer=REMOTE, greeting=m.Resume((1, 1), first.token))
    with pytest.raises(LicenseError):
        second.ask(access(product=LOCAL_CHARTS))
    third = Talk(service, peer=HERE, greeting=m.Resume((1, 1), first.token))
    third.ask(access(product=LOCAL_CHARTS))


def test_a_goodbye_frees_at_once() -> None:
    """The license is free with the reply, and the token is worth nothing any more."""
    service = make_service(charts(quantity=1))
    talk = Talk(service, greeting=hello(1))
    talk.ask(access())
    talk.ask(m.Goodbye())
    assert talk.conversation.over
    talk.cut()
    assert not service.engine.table.sessions
    Talk(service, greeting=hello(2)).ask(access())
    with pytest.raises(LicenseError):
        Talk(service, greeting=m.Resume((1, 1), talk.token))


def test_a_connection_that_breaks_before_the_greeting_is_read_leaves_a_session_that_ends() -> None:
    """The session that nobody got the token of is detached like any other; it has no way to stay."""
    service = make_service()
    talk = Talk(service)
    talk.conversation.flush = lambda: None
    talk.conversation.receive(rpc.encode_request(1, hello()))
    talk.conversation.work()
    talk.cut(Detachment.CLOSED)
    (session,) = service.engine.table.sessions.values()
    assert session.state is SessionState.CLOSED
    assert not service.attached
    assert not service.conversations
