"""Events: pushed or fetched, in their place, and bounded."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from cmserverd.conversation import EVENTS
from cmserverd.service import Service
from drivers.container import ContainerId
from protocol import messages as m
from protocol import rpc
from protocol.errors import LicenseError
from tests.daemon.harness import (
    REMOTE,
    Talk,
    access,
    charts,
    hello,
    make_service,
    request,
)


def test_events_are_pushed_to_who_wants_them_so() -> None:
    """The end of a handle is told at once, with its cause; later uses give the same number."""
    service = make_service(charts())
    talk = Talk(service, greeting=hello(events="push"))
    handle = talk.ask(access()).handle
    service.engine.remove(ContainerId("3-1"))
    (event,) = talk.inbox.events
    assert (event.event, event.handle, event.position) == ("ended", handle, service.engine.position)
    assert event.error is not None
    assert (event.error.number, event.error.cause) == (106, "container_gone")
    with pytest.raises(LicenseError) as refusal:
        talk.ask(m.Info(handle))
    assert refusal.value.body == event.error


def test_a_move_to_another_container_is_an_event() -> None:
    """The handle goes on, and its client is told where."""
    service = make_service(charts(1, 1), charts(2, 1))
    talk = Talk(service, greeting=hello(events="push"))
    handle = talk.ask(access()).handle
    service.engine.remove(ContainerId("3-1"))
    (event,) = talk.inbox.events
    assert (event.event, event.handle, event.container, event.item) == ("rebooked", handle, "3-2", 1)
    assert talk.ask(m.Info(handle)).container is not None


def test_an_event_never_precedes_the_reply_that_gave_its_handle() -> None:
    """Whatever the moment, a client knows a handle before it hears of its end."""
    service = make_service(charts())
    talk = Talk(service, greeting=hello(events="push"))
    talk.conversation.flush = lambda: None  # what is sent waits, as with a slow client
    talk.conversation.receive(rpc.encode_request(50, access()))
    talk.conversation.work()
    service.engine.remove(ContainerId("3-1"))
    talk.inbox.order.clear()
    talk.collect()
    reply, event = talk.inbox.order
    assert isinstance(reply, rpc.Response)
    assert isinstance(event, rpc.Notification)


def test_events_are_kept_for_who_polls() -> None:
    """They come in one list, oldest first, and once; none was pushed."""
    service = make_service(charts())
    talk = Talk(service, greeting=hello())
    handles = [talk.ask(access()).handle for _ in range(2)]
    service.engine.remove(ContainerId("3-1"))
    events = talk.ask(m.Events()).events
    assert sorted(event.handle for event in events) == handles
    assert talk.ask(m.Events()).events == ()
    assert talk.inbox.events == []


def test_a_wait_ends_with_the_first_event() -> None:
    """The waiting request is answered when something happens, without being asked again."""
    service = make_service(charts())
    talk = Talk(service, greeting=hello())
    handle = talk.ask(access()).handle
    waiting = talk.begin(m.Events(wait=60))
    assert waiting not in talk.inbox.replies
    talk.ask(m.KeepAlive())  # meanwhile other requests are answered
    service.engine.remove(ContainerId("3-1"))
    assert [event.handle for event in talk.inbox.take(waiting, m.Events()).events] == [handle]
    assert talk.conversation.waiting is None


def test_a_wait_is_needless_when_there_are_events() -> None:
    """What has happened before is answered at once."""
    service = make_service(charts())
    talk = Talk(service, greeting=hello())
    talk.ask(access())
    service.engine.remove(ContainerId("3-1"))
    assert len(talk.ask(m.Events(wait=60)).events) == 1


def test_a_wait_that_is_over_is_answered_with_nothing() -> None:
    """The client asks again."""
    talk = Talk(make_service(), greeting=hello())
    waiting = talk.begin(m.Events(wait=1))
    talk.conversation.waited()
    talk.collect()
    assert talk.inbox.take(waiting, m.Events()).events == ()


def test_a_second_wait_answers_the_first() -> None:
    """A client has one wait; the first of two gets an empty list, the second the event."""
    service = make_service(charts())
    talk = Talk(service, greeting=hello())
    talk.ask(access())
    first = talk.begin(m.Events(wait=60))
    second = talk.begin(m.Events(wait=60))
    assert talk.inbox.take(first, m.Events()).events == ()
    service.engine.remove(ContainerId("3-1"))
    assert len(talk.inbox.take(second, m.Events()).events) == 1


@pytest.mark.parametrize("params", [{}, {"handle": "wrong"}])
def test_the_number_of_an_unanswered_request_cannot_be_used_again(params: dict[str, str]) -> None:
    """Two answers with one number would be ambiguous: the connection ends, be the second one right or not."""
    talk = Talk(make_service(), greeting=hello())
    waiting = talk.begin(m.Events(wait=60))
    talk.send(request(waiting, "release", params))
    assert talk.conversation.over
    assert talk.inbox.farewell is not None
    assert f"request number {waiting} is still unanswered" in talk.inbox.farewell.text
    assert waiting not in talk.inbox.replies


def test_a_goodbye_answers_a_wait_first() -> None:
    """No request stays without its reply."""
    talk = Talk(make_service(), greeting=hello())
    waiting = talk.begin(m.Events(wait=60))
    talk.ask(m.Goodbye())
    assert talk.inbox.take(waiting, m.Events()).events == ()


def move_to_and_fro(service: Service, times: int) -> None:
    """Have the one access moved between two containers, and so cause as many events."""
    for _ in range(times):
        (gone,) = service.engine.table.containers
        service.engine.plug(charts(2 if gone == "3-1" else 1, 1))
        service.engine.remove(gone)


def test_events_that_nobody_fetches_are_bounded() -> None:
    """The oldest are dropped, so a client that never polls costs no more than one that does."""
    service = make_service(charts(1, 1))
    talk = Talk(service, greeting=hello())
    talk.ask(access())
    move_to_and_fro(service, EVENTS + 10)
    events = talk.ask(m.Events()).events
    assert len(events) == EVENTS
    assert events[-1].position == service.engine.position


def test_a_client_that_leaves_pushed_events_unread_is_cut_off() -> None:
    """What waits for it is bounded too; it has its session, and can resume it."""
    service = make_service(charts(1, 1))
    talk = Talk(service, greeting=hello(events="push"))
    talk.ask(access())
    collect, talk.conversation.flush = talk.conversation.flush, lambda: None
    with capture_logs() as said:
        move_to_and_fro(service, EVENTS)
        assert not talk.conversation.over
        move_to_and_fro(service, 2)
    assert talk.conversation.over
    assert [line["address"] for line in said] == [REMOTE.address]
    collect()
    assert talk.inbox.farewell is not None
    assert len(talk.inbox.events) == EVENTS
