"""What conversations share: who is attached, the server's state, what is logged of clients, and clones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from structlog.testing import capture_logs

from cmserverd.clones import Clones
from cmserverd.core.terms import SessionState
from cmserverd.seldom import Seldom
from cmserverd.service import Detachment, Service
from drivers.container import ContainerId
from protocol import messages as m
from protocol.errors import ErrorNumber, LicenseError
from protocol.terms import AccessMode
from tests.daemon.harness import MONITOR, Talk, access, charts, hello, make_service, number_of

# --- sessions and the server's state ------------------------------------------------------------------------------


def test_who_watches_is_told_of_each_connection_that_comes_or_goes() -> None:
    """The reaper lives of this: attached, gone, attached again; a session that is over needs no watching."""
    service = make_service()
    seen: list[SessionState] = []
    service.watch = lambda session: seen.append(session.state)
    talk = Talk(service, greeting=hello())
    talk.cut(Detachment.SILENT)
    again = Talk(service, greeting=m.Resume((1, 1), talk.token))
    again.ask(m.Goodbye())
    assert seen == [SessionState.ATTACHED, SessionState.SILENT, SessionState.ATTACHED]


def test_a_late_end_of_an_old_connection_does_not_detach_the_new_one() -> None:
    """The session speaks over its newest connection only."""
    service = make_service()
    old = Talk(service, greeting=hello())
    (session,) = service.engine.table.sessions.values()
    Talk(service, greeting=m.Resume((1, 1), old.token))
    service.detached(old.conversation, session, Detachment.CLOSED)
    assert session.state is SessionState.ATTACHED


def test_a_stop_ends_every_conversation() -> None:
    """Also those that have not greeted, and those of the local sockets."""
    service = make_service()
    talks = [Talk(service), Talk(service, greeting=hello()), Talk(service, peer=MONITOR, greeting=hello())]
    service.stop()
    for talk in talks:
        assert talk.conversation.over
        assert talk.inbox.farewell is not None
        assert "the server stops" in talk.inbox.farewell.text


def test_the_servers_state_is_told() -> None:
    """Counts, position and addresses are those of the moment."""
    service = make_service(charts(1), charts(2))
    service.listening = ("127.0.0.1:22350", "[::1]:22350")
    client = Talk(service, greeting=hello())
    client.ask(access())
    info = Talk(service, peer=MONITOR, greeting=hello()).ask(m.ServerInfoRequest())
    assert (info.containers, info.sessions, info.accesses, info.starting) == (2, 1, 1, False)
    assert info.position == service.engine.position
    assert info.listening == service.listening
    assert info.started <= info.time


def test_contents_of_an_unknown_container_are_201() -> None:
    """The error names it."""
    talk = Talk(make_service(charts()), greeting=hello())
    assert talk.ask(m.Contents("3-1")).container.id == "3-1"
    with pytest.raises(LicenseError, match="3-7") as refusal:
        talk.ask(m.Contents("3-7"))
    assert number_of(refusal.value) == ErrorNumber.BOX_NOT_FOUND


def test_events_reach_the_session_that_they_concern_and_no_other() -> None:
    """Each client hears of its own handles, and its own releases are no events."""
    service = make_service(charts(1, 1), charts(2, 1))
    one, two = Talk(service, greeting=hello(1, events="push")), Talk(service, greeting=hello(2, events="push"))
    first, second = one.ask(access()).handle, two.ask(access()).handle
    service.engine.remove(ContainerId("3-2"))
    assert (one.inbox.events, [event.handle for event in two.inbox.events]) == ([], [second])
    one.ask(m.Release(first))
    assert one.inbox.events == []


def test_a_bug_in_telling_one_client_does_not_keep_events_from_the_others() -> None:
    """It is reported with its session, whose connection is over; those after it are told, then and later."""
    service = make_service(charts(1, 2), charts(2, 1))
    unlucky, lucky, later = (Talk(service, greeting=hello(number, events="push")) for number in range(3))
    for talk in (unlucky, lucky, later):
        talk.ask(access())

    def meets_a_bug() -> None:
        msg = "planted"
        raise RuntimeError(msg)

    unlucky.conversation.flush = meets_a_bug
    with capture_logs() as said:
        service.engine.remove(ContainerId("3-1"))
        service.engine.remove(ContainerId("3-2"))
    assert [(line["log_level"], line["session"]) for line in said] == [("error", 1)]
    assert unlucky.conversation.over
    assert [len(talk.inbox.events) for talk in (lucky, later)] == [1, 1]
    assert len(service.engine.table.sessions) == 3


def test_an_application_that_is_started_again_supersedes_its_ghost() -> None:
    """The ghost has no connection that could be told; when it resumes after all, it learns what ended."""
    service = make_service(charts(quantity=1))
    ghost = Talk(service, greeting=hello(1, application="chart"))
    handle = ghost.ask(access()).handle
    ghost.cut()
    Talk(service, greeting=hello(1, application="chart")).ask(access())
    greeting = Talk(service, greeting=m.Resume((1, 1), ghost.token)).greeting
    assert greeting is not None
    assert [(gone.handle, gone.error.cause) for gone in greeting.ended] == [(handle, "superseded")]


# --- seldom -------------------------------------------------------------------------------------------------------


def test_so_many_lines_in_a_while_and_then_how_many_were_left_out() -> None:
    """Each period has its lines; what was not said is counted and told with the next one."""
    now = [0.0]
    said: list[tuple[str, dict[str, object]]] = []
    seldom = Seldom(lambda: now[0], lines=2, period=60)

    def log(event: str, **facts: object) -> None:
        said.append((event, facts))

    for number in range(5):
        seldom.say(log, "a", number=number)
    now[0] = 59.9
    seldom.say(log, "b")
    now[0] = 60
    for number in range(3):
        seldom.say(log, "c", number=number)
    now[0] = 1000
    seldom.say(log, "d")
    assert said == [
        ("a", {"number": 0}),
        ("a", {"number": 1}),
        ("c", {"number": 0, "left_out": 4}),
        ("c", {"number": 1}),
        ("d", {"left_out": 1}),
    ]


# --- clones -------------------------------------------------------------------------------------------------------


def watched() -> Service:
    """Return a service that looks for clones."""
    service = make_service(charts())
    Clones(service.engine)
    return service


def warnings(said: Sequence[Mapping[str, object]]) -> list[object]:
    """Return the hosts that each warning names."""
    return [line["hosts"] for line in said if line["log_level"] == "warning"]


def test_one_station_with_two_host_names_at_once_is_a_warning() -> None:
    """Copies of a disk image share their licenses, which the operator has to know: once, and with both names."""
    service = watched()
    with capture_logs() as said:
        first = Talk(service, greeting=hello(machine="copied", host="pc1"))
        Talk(service, greeting=hello(machine="copied", host="PC1"))
        assert warnings(said) == []
        second = Talk(service, greeting=hello(machine="copied", host="pc2"))
        Talk(service, greeting=hello(machine="copied", host="pc2"))
        Talk(service, greeting=hello(machine="copied", host="pc3"))
        assert warnings(said) == [["pc1", "pc2"]]
    assert said[0]["station"] == "copied"
    for talk in (first, second):
        talk.ask(access(AccessMode.STATION_SHARE))


def test_two_host_names_one_after_the_other_are_none() -> None:
    """A PC that was renamed is no clone, nor are two stations, two seats of a terminal server included."""
    service = watched()
    with capture_logs() as said:
        Talk(service, greeting=hello(machine="renamed", host="old")).ask(m.Goodbye())
        Talk(service, greeting=hello(machine="renamed", host="new"))
        Talk(service, greeting=hello(machine="other", host="old"))
        Talk(service, greeting=hello(machine="other", host="seat1", seat=1))
    assert warnings(said) == []


def test_a_session_that_is_cut_off_still_counts_and_an_ended_one_does_not() -> None:
    """What is watched is the table's sessions; at the end nothing of them is left."""
    service = watched()
    with capture_logs() as said:
        gone = Talk(service, greeting=hello(machine="m", host="one"))
        gone.cut()
        again = Talk(service, greeting=m.Resume((1, 1), gone.token))
        other = Talk(service, greeting=hello(machine="m", host="two"))
        assert warnings(said) == [["one", "two"]]
        for talk in (again, other):
            talk.ask(m.Goodbye())
        Talk(service, greeting=hello(machine="m", host="two"))
    assert warnings(said) == [["one", "two"]]
