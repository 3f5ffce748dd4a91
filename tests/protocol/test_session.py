"""One session over cuts and restarts, against the daemon's own conversation, without I/O: byte by byte."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmserverd.service import Service
from drivers.container import container_id
from protocol import messages as m
from protocol import rpc
from protocol.backoff import Backoff
from protocol.errors import ErrorNumber, LicenseError, LocalProtocolError, text_of
from protocol.held import Held, new_key
from protocol.phase import Phase
from tests.daemon.harness import CHARTS, FIRM, charts, make_service
from tests.protocol.wire import Asked, Wire, stands

RARE = 99
"""A product that no server here has."""


@pytest.fixture
def wire() -> Wire:
    """A session with a server that has four licenses."""
    return Wire(make_service(charts(quantity=4)))


def restart(wire: Wire, service: Service | None = None) -> Service:
    """Have the server fall and come back without a memory."""
    wire.cut()
    wire.service = service or make_service(charts(quantity=4))
    return wire.service


def of(kind: type[m.Params], seen: list[m.Params]) -> list[m.Params]:
    """Return the requests of a class."""
    return [params for params in seen if isinstance(params, kind)]


def kinds(events: list[m.Event]) -> list[tuple[str, int]]:
    """Return what was told, and of which handle."""
    return [(event.event, event.handle) for event in events]


# --- a plain cut --------------------------------------------------------------------------------------------------


def test_what_stood_stands_again(wire: Wire) -> None:
    """While the connection is broken nobody says that an access stands; the greeting confirms it."""
    held = wire.hold()
    wire.cut()
    assert wire.session.phase is Phase.SEEKING
    with pytest.raises(LicenseError, match=r"broken: it was cut, Error 100\.$"):
        held.check_nowait()
    wire.come_back()
    held.check_nowait()
    assert wire.events == []
    assert of(m.Resume, wire.seen) == [m.Resume((1, 1), wire.session.greeted.token, "push")]


def test_what_was_asked_is_asked_again_in_its_order(wire: Wire) -> None:
    """What had no answer, and what was asked meanwhile, is sent after the greeting; an access with the same key."""
    held = wire.hold()
    wire.seen.clear()
    before = [wire.ask(m.Info(held.handle), held), wire.access()[1], wire.ask(m.Containers())]
    wire.send()
    wire.cut()
    after = [wire.access()[1], wire.release(held)]
    wire.come_back()
    info, first, containers, resume, *again = wire.seen
    assert again[:3] == [info, first, containers]
    assert isinstance(resume, m.Resume)
    assert [params.method for params in again[3:]] == ["access", "release"]
    assert not any(isinstance(each.outcome, Exception) for each in before + after)
    assert wire.held() == wire.believed()
    assert len(wire.held()) == 2


def test_a_grant_that_the_cut_swallowed(wire: Wire) -> None:
    """Asked again with its key, it is the same handle, and no other license."""
    held, asked = wire.access()
    wire.send()
    (handle,) = wire.held()
    wire.cut()
    assert asked.outcomes == []
    wire.come_back()
    assert held.handle == handle
    assert wire.held() == {handle}


def test_strays_are_given_back_when_it_is_known_that_they_are(wire: Wire) -> None:
    """A handle in the greeting may be one that is about to be asked for again: whose it is, only the answer tells."""
    wanted, _ = wire.access()
    _, unwanted = wire.access()
    wire.send()
    assert len(wire.held()) == 2
    wire.session.abandon(unwanted.call)
    wire.cut()
    wire.connect()
    wire.send()
    wire.hear()  # the greeting, with both
    wire.send()
    assert of(m.Release, wire.seen) == []
    assert len(wire.held()) == 2
    wire.run()
    assert len(of(m.Release, wire.seen)) == 1
    assert wire.held() == {wanted.handle}


def test_a_stray_whose_caller_gives_up_late(wire: Wire) -> None:
    """What was to be asked again, and is given up before that, is given back too."""
    _, asked = wire.access()
    wire.send()
    wire.cut()
    wire.session.abandon(asked.call)
    wire.come_back()
    assert of(m.Access, wire.seen[-1:]) == []
    assert wire.held() == set()


def test_a_release_that_arrived(wire: Wire) -> None:
    """Asked again, 106 is what a release that is done looks like."""
    held = wire.hold()
    asked = wire.release(held)
    wire.send()
    wire.cut()
    wire.come_back()
    assert asked.outcome == m.Done()
    assert len(of(m.Release, wire.seen)) == 2
    assert wire.events == []


def test_a_release_of_a_handle_that_is_not_ours(wire: Wire) -> None:
    """Asked once, 106 is an error."""
    asked = wire.ask(m.Release(77))
    wire.run()
    assert asked.number == ErrorNumber.INVALID_HANDLE


def test_a_release_that_nobody_waits_for_any_more(wire: Wire) -> None:
    """Its wish stands: the handle is given back after the greeting."""
    held = wire.hold()
    asked = wire.release(held)
    wire.send(0)
    wire.cut()
    wire.session.abandon(asked.call)
    wire.come_back()
    assert wire.held() == set()
    assert not stands(held)
    assert wire.events == []


@pytest.mark.parametrize("cut", [True, False])
def test_what_ended_by_its_cleanup_time_is_asked_for_anew(wire: Wire, *, cut: bool) -> None:
    """As all is after a longer absence: behind the same object, told as `reacquired` or `lost`, and nothing before."""
    first, second, released, bystander = [wire.hold() for _ in range(4)]
    old = {first.handle, second.handle, released.handle}
    keys = {first.request.key, second.request.key}
    engine = wire.service.engine
    if cut:
        wire.cut()
    (session,) = engine.table.sessions.values()
    left = Asked(m.Release(released.handle), released)
    left.call.patient = not cut
    with suppress(LicenseError):
        wire.session.release(left.call, released)
    engine.clean_up(session, [engine.table.accesses[handle] for handle in sorted(old)])
    if cut:
        wire.connect()
    wire.run()
    told = [("reacquired", first.handle), ("reacquired", second.handle)]
    assert kinds(wire.events) == (told if cut else [("ended", released.handle), *told])
    assert wire.believed() == wire.held() == {first.handle, second.handle, bystander.handle}
    assert wire.held().isdisjoint(old)
    assert keys.isdisjoint({first.request.key, second.request.key})


def test_what_ended_by_its_cleanup_time_may_be_gone() -> None:
    """Somebody else has the license by now: the program is told by one event, and the object says why."""
    wire = Wire(make_service(charts(quantity=1)))
    held = wire.hold()
    old = held.handle
    wire.cut()
    engine = wire.service.engine
    engine.clean_up(next(iter(engine.table.sessions.values())), [engine.table.accesses[old]])
    other = Wire(wire.service)
    other.hold()
    wire.come_back()
    assert kinds(wire.events) == [("lost", old)]
    assert held.ended is not None
    assert held.ended.number == ErrorNumber.NO_MORE_LICENSES


def test_what_the_server_ended_meanwhile_is_not_asked_for_anew(wire: Wire) -> None:
    """It ended for a reason: the reason is told, once, and that is all."""
    held = wire.hold()
    wire.cut()
    wire.service.engine.remove(container_id(3, 1))
    wire.come_back()
    assert held.ended is not None
    assert held.ended.cause == m.EndCause.CONTAINER_GONE
    wire.cut()
    wire.come_back()
    assert kinds(wire.events) == [("ended", held.handle)]
    assert len(of(m.Access, wire.seen)) == 1


def test_a_call_that_nobody_waits_for_is_not_repeated(wire: Wire) -> None:
    """Neither what was sent before the cut, nor what waited during it: an outage fills no memory."""
    sent = wire.ask(m.Containers())
    wire.send()
    wire.session.abandon(sent.call)
    wire.cut()
    waits = wire.ask(m.Containers())
    assert "it was cut; the client goes on trying" in str(wire.session.no_answer(10.0))
    wire.session.abandon(waits.call)
    assert not wire.session._queue
    wire.come_back()
    assert len(of(m.Containers, wire.seen)) == 1
    assert str(wire.session.no_answer(10.0)).endswith("broken: no answer within 10 seconds, Error 100.")


def test_an_attempt_that_fails(wire: Wire) -> None:
    """The last reason is the one that is told."""
    wire.cut()
    wire.session.lost("nobody listens.")
    assert str(wire.session.broken).endswith("broken: nobody listens, Error 100.")
    wire.come_back()
    assert wire.session.broken is None


@pytest.mark.parametrize("refusal", [ErrorNumber.REQUEST_OVERLOAD, ErrorNumber.SERVER_TOO_OLD])
def test_a_greeting_that_is_refused_for_now(wire: Wire, refusal: ErrorNumber) -> None:
    """Any number but 106 says nothing about the session: it is resumed at the next attempt."""
    held = wire.hold()
    wire.cut()
    wire.session.begin()
    wire.session.outbox.clear()
    wire.session.receive(rpc.encode_error(1, LicenseError.of(refusal).body))
    assert wire.session.phase is Phase.SEEKING
    reason = text_of(refusal).partition(", Error")[0]
    assert str(wire.session.broken) == text_of(ErrorNumber.NETWORK_FAULT, reason)
    wire.come_back()
    held.check_nowait()


def test_a_server_that_speaks_nonsense(wire: Wire) -> None:
    """Its connection is left for another one."""
    held = wire.hold()
    wire.session.receive(b"\xc1")
    assert wire.session.phase is Phase.SEEKING
    assert "broke the protocol" in str(wire.session.broken)
    wire.come_back()
    held.check_nowait()


def test_who_is_not_patient_does_not_wait(wire: Wire) -> None:
    """A block is left at once when the connection breaks, and during that; what it held is given back afterwards."""
    first, second = wire.hold(), wire.hold()
    waits, during = Asked(m.Release(first.handle), first), Asked(m.Release(second.handle), second)
    waits.call.patient = during.call.patient = False
    wire.session.release(waits.call, first)
    wire.cut()
    assert waits.number == ErrorNumber.NETWORK_FAULT
    with pytest.raises(LicenseError, match="it was cut"):
        wire.session.release(during.call, second)
    wire.come_back()
    assert wire.held() == set()


def test_what_was_let_go_of_is_given_back_before_anything_else_is_asked() -> None:
    """The only license: whoever leaves one block and enters the next is not refused for want of his own."""
    wire = Wire(make_service(charts(quantity=1)))
    held = wire.hold()
    left = Asked(m.Release(held.handle), held)
    left.call.patient = False
    wire.session.release(left.call, held)
    wire.cut()
    _, asked = wire.access()
    wire.come_back()
    assert isinstance(asked.outcome, m.Granted), asked.outcome


def test_whoever_checks_is_answered_when_it_is_known(wire: Wire) -> None:
    """At once while there is a connection or it is over for good; else after the greeting, or the claim's answer."""
    first, second = wire.hold(), wire.hold()

    def check(held: Held) -> Asked:
        asked = Asked(m.KeepAlive(), held)
        wire.session.check(asked.call)
        return asked

    assert check(first).outcomes == [m.Done()]
    wire.cut()
    waits, gone = check(first), check(first)
    wire.session.abandon(gone.call)
    assert waits.outcomes == []
    wire.come_back()
    assert (waits.outcomes, gone.outcomes) == ([m.Done()], [])
    restart(wire, make_service(charts(quantity=1)))
    stands_again, lost = check(first), check(second)
    wire.connect()
    wire.send()
    wire.hear()
    assert stands_again.outcomes == lost.outcomes == []
    wire.run()
    assert stands_again.outcomes == [m.Done()]
    assert lost.number == ErrorNumber.NO_MORE_LICENSES
    wire.cut()
    waits = check(first)
    wire.session.close("it is over")
    assert waits.number == check(first).number == ErrorNumber.NETWORK_FAULT


# --- a server that has forgotten ----------------------------------------------------------------------------------


def test_a_server_that_was_started_again(wire: Wire) -> None:
    """What was held is asked for anew behind the same object, in its order; one event each, and nothing before it."""
    first, second = wire.hold(), wire.hold()
    old = (first.handle, second.handle)
    restart(wire, make_service(charts(serial=8, quantity=1)))
    wire.connect()
    for _ in range(2):
        wire.send()
        wire.hear()  # the refusal, then the greeting of the new session
    assert wire.session.broken is None
    for held in (first, second):
        with pytest.raises(LicenseError, match=r"the access is being asked for anew, Error 100\.$"):
            held.check_nowait()
    assert wire.events == []
    wire.run()
    first.check_nowait()
    assert (first.container, {first.handle}) == ("3-8", wire.held())
    with pytest.raises(LicenseError) as refusal:
        second.check_nowait()
    assert refusal.value.number == ErrorNumber.NO_MORE_LICENSES
    reacquired, lost = wire.events
    assert reacquired == m.Event("reacquired", 0, first.handle, None, "3-8", first.item, first.allocation)
    assert (lost.event, lost.handle, lost.error) == ("lost", old[1], refusal.value.body)
    assert wire.believed() == wire.held()
    assert [params.method for params in wire.seen[-5:]] == ["access", "resume", "hello", "access", "access"]
    assert wire.seen[-2:] == [first.request, second.request]


def test_numbers_of_the_old_session_are_not_used_in_the_new_one(wire: Wire) -> None:
    """A server that starts again counts from 1: an old number is another access's there."""
    given, kept = wire.hold(), wire.hold()
    raw = wire.ask(m.Access(new_key(), FIRM, CHARTS))
    wire.run()
    assert isinstance(raw.outcome, m.Granted)
    restart(wire)
    release, info = wire.release(given), wire.ask(m.Info(kept.handle), kept)
    strange = [wire.ask(m.Release(raw.outcome.handle)), wire.ask(m.Info(raw.outcome.handle))]
    wire.come_back()
    assert kept.handle == given.handle == 1
    assert release.outcome == m.Done()
    assert isinstance(info.outcome, m.HandleInfo)
    assert info.outcome.handle == kept.handle
    assert strange[0].outcome == m.Done()
    assert strange[1].number == ErrorNumber.INVALID_HANDLE
    assert wire.release(given).outcome == m.Done()
    assert of(m.Release, wire.seen) == []
    assert wire.held() == wire.believed() == {1}
    assert kinds(wire.events) == [("ended", raw.outcome.handle), ("reacquired", 1)]


def test_a_cut_while_it_is_asked_anew(wire: Wire) -> None:
    """What is not answered stays to be asked, with the same key; what was answered is resumed as it is."""
    first, second = wire.hold(), wire.hold()
    restart(wire)
    wire.connect()
    for _ in range(2):
        wire.send()
        wire.hear()
    wire.send()
    answers = wire.conversation.take()
    wire.events += wire.session.receive(answers[: len(answers) // 2])
    assert [stands(first), stands(second)] == [True, False]
    assert len(wire.held()) == 2
    wire.cut()
    assert not stands(first)
    wire.come_back()
    assert kinds(wire.events) == [("reacquired", first.handle), ("reacquired", second.handle)]
    assert wire.held() == wire.believed() == {1, 2}
    assert len({m_.key for m_ in wire.seen if isinstance(m_, m.Access)}) == 2


def test_a_new_session_that_is_refused(wire: Wire) -> None:
    """Everything stays to be asked; the next attempt begins with the same introduction, and does not resume."""
    held = wire.hold()
    restart(wire)
    wire.connect()
    wire.send()
    wire.hear()
    wire.session.outbox.clear()
    wire.session.receive(rpc.encode_error(2, LicenseError.of(ErrorNumber.REQUEST_OVERLOAD).body))
    assert wire.session.phase is Phase.SEEKING
    assert not stands(held)
    wire.seen.clear()
    wire.come_back()
    assert [params.method for params in wire.seen] == ["hello", "access"]
    assert kinds(wire.events) == [("reacquired", 1)]
    assert held.handle in wire.held()


def test_a_server_that_is_still_starting(wire: Wire) -> None:
    """238 settles nothing: the access is asked for again after a pause; other calls do not wait for that."""
    held = wire.hold()
    service = restart(wire, make_service())
    service.engine.table.starting = True
    asked = wire.ask(m.Containers())
    wire.come_back()
    assert isinstance(asked.outcome, m.ContainerList)
    assert wire.session.postponed
    assert not stands(held)
    assert wire.events == []
    service.engine.plug(charts(quantity=1))
    wire.session.claim()
    assert not wire.session.postponed
    wire.run()
    held.check_nowait()
    assert kinds(wire.events) == [("reacquired", 1)]


def test_a_cut_while_a_server_is_starting(wire: Wire) -> None:
    """A pause that ends when the connection has ended asks for nothing twice."""
    wire.hold()
    service = restart(wire, make_service())
    service.engine.table.starting = True
    wire.come_back()
    wire.cut()
    wire.session.claim()
    wire.seen.clear()
    wire.come_back()
    assert len(of(m.Access, wire.seen)) == 1


def test_more_than_may_be_asked_at_once() -> None:
    """Claims wait for room as everything does, and everything else for them."""
    wire = Wire(make_service(charts(quantity=200)))
    held = [wire.hold() for _ in range(150)]
    restart(wire, make_service(charts(quantity=200)))
    wire.seen.clear()
    asked = wire.ask(m.Info(held[0].handle), held[0])
    wire.come_back()
    assert wire.seen[2:] == [*(each.request for each in held), m.Info(held[0].handle)]
    assert isinstance(asked.outcome, m.HandleInfo)
    assert [event.handle for event in wire.events] == [each.handle for each in held] == list(range(1, 151))


def test_a_release_while_a_server_is_starting(wire: Wire) -> None:
    """What its holder does not want any more is not asked for again either."""
    given, kept = wire.hold(), wire.hold()
    service = restart(wire, make_service())
    service.engine.table.starting = True
    wire.come_back()
    assert wire.release(given).outcome == m.Done()
    service.engine.plug(charts())
    wire.seen.clear()
    wire.session.claim()
    wire.run()
    assert wire.seen == [kept.request]
    assert wire.held() == {kept.handle}


def test_what_is_to_be_released_is_not_asked_for_anew(wire: Wire) -> None:
    """Before it is asked, the wish is enough; while it is asked, a grant is given back at once. Neither is told."""
    early, late, kept = wire.hold(), wire.hold(), wire.hold()
    restart(wire)
    waits = wire.release(early)
    wire.connect()
    for _ in range(2):
        wire.send()
        wire.hear()
    assert wire.release(late).outcome == waits.outcome == m.Done()
    assert late.released
    wire.run()
    assert early.released
    assert kinds(wire.events) == [("reacquired", kept.handle)]
    assert wire.held() == wire.believed() == {kept.handle}
    assert early.request not in wire.seen[-5:]


def test_an_interrupted_caller_whose_access_is_asked_anew(wire: Wire) -> None:
    """Ctrl-C between the grant and its use: the new session does not keep it either."""
    held, asked = wire.access()
    wire.run()
    assert isinstance(asked.outcome, m.Granted)
    restart(wire)
    wire.connect()
    for _ in range(2):
        wire.send()
        wire.hear()
    wire.session.abandon(asked.call)
    wire.run()
    assert wire.held() == set()
    assert not stands(held)


def test_a_call_on_an_access_that_is_lost(wire: Wire) -> None:
    """It waits until that is known, and gets the reason."""
    held = wire.hold()
    restart(wire, make_service())
    asked = wire.ask(m.Info(held.handle), held)
    wire.come_back()
    assert asked.number == ErrorNumber.ENTRY_NOT_FOUND
    assert of(m.Info, wire.seen) == []
    held.finish_release(LicenseError.of(ErrorNumber.ENTRY_NOT_FOUND))


def test_a_session_that_another_connection_has_taken(wire: Wire) -> None:
    """It is left to that one: a new session begins, and neither takes it from the other for ever."""
    held = wire.hold()
    wire.seen.clear()
    other = Wire(wire.service)
    other.session.greeting = wire.session.greeting
    other.cut()
    other.come_back()
    wire.run()
    assert wire.session.phase is Phase.SEEKING
    assert "resumed on another connection" in str(wire.session.broken)
    wire.come_back()
    assert [params.method for params in wire.seen] == ["hello", "access"]
    assert not other.conversation.over
    assert kinds(wire.events) == [("reacquired", held.handle)]


def test_what_the_server_fails_at_is_not_asked_again(wire: Wire) -> None:
    """A fault of the server ends the session; who asked for what it failed at is told, the others get their answers."""
    held = wire.hold()
    culprit, innocent = wire.ask(m.Containers()), wire.ask(m.ServerInfoRequest())
    wire.session.outbox.clear()
    wire.session.receive(rpc.encode_notification("goodbye", m.Farewell(LicenseError.of(ErrorNumber.INTERNAL).body)))
    assert culprit.number == ErrorNumber.INTERNAL
    wire.service.engine.close(next(iter(wire.service.engine.table.sessions.values())))
    wire.conversation.session = None
    wire.cut()
    wire.come_back()
    assert isinstance(innocent.outcome, m.ServerInfo)
    assert kinds(wire.events) == [("reacquired", held.handle)]
    assert of(m.Containers, wire.seen) == []


# --- the end ------------------------------------------------------------------------------------------------------


def test_a_socket_without_sessions(wire: Wire) -> None:
    """There is nothing to resume: the first cut is the last."""
    wire.session.greeting = m.Greeting(1, 0, "", m.Server("", "", ""), 40.0, 120.0, 0, m.Limits(64, 16_384, 0))
    asked = wire.ask(m.Containers())
    wire.cut()
    assert wire.session.phase is Phase.CLOSED
    assert asked.number == ErrorNumber.NETWORK_FAULT
    with pytest.raises(LicenseError, match="it was cut"):
        wire.ask(m.Containers())


def test_a_goodbye_is_not_repeated(wire: Wire) -> None:
    """Whoever leaves does not come back because the answer was lost."""
    asked = wire.ask(m.Goodbye())
    wire.send()
    wire.cut()
    assert wire.session.phase is Phase.CLOSED
    assert asked.number == ErrorNumber.NETWORK_FAULT


def test_a_goodbye_without_a_connection(wire: Wire) -> None:
    """It is nobody's to answer: the session is closed, and with it whatever waits."""
    wire.cut()
    waits = wire.ask(m.Containers())
    with pytest.raises(LicenseError, match="said goodbye"):
        wire.ask(m.Goodbye())
    assert wire.session.phase is Phase.CLOSED
    assert waits.number == ErrorNumber.NETWORK_FAULT


def test_nothing_is_asked_behind_a_goodbye(wire: Wire) -> None:
    """That is the program's fault, and said so."""
    wire.ask(m.Goodbye())
    asked = wire.ask(m.Containers())
    assert isinstance(asked.outcome, LocalProtocolError)


# --- the pauses ---------------------------------------------------------------------------------------------------


def test_the_pauses() -> None:
    """They double from a quarter of a second to five, by chance anything up to that; a good connection resets them."""
    chances = iter([1.0] * 7 + [0.5, 0.0, 1.0, 0.5])
    backoff = Backoff(lambda: next(chances))
    assert [backoff.next() for _ in range(9)] == [0.25, 0.5, 1.0, 2.0, 4.0, 5.0, 5.0, 2.5, 0.0]
    backoff.reset()
    assert [backoff.next() for _ in range(2)] == [0.25, 0.25]


def test_many_attempts() -> None:
    """However long the server is away, a pause stays a pause."""
    backoff = Backoff(lambda: 1.0)
    assert {backoff.next() for _ in range(10_000)} == {0.25, 0.5, 1.0, 2.0, 4.0, 5.0}
    assert all(0.0 <= Backoff().next() <= 0.25 for _ in range(100))


# --- a cut at every byte ------------------------------------------------------------------------------------------

History = tuple[list[Asked], Held]
"""What was asked and is waited for, and an access whose holder must not notice anything."""


def history(wire: Wire) -> History:
    """Hold two, then ask in one go: give one back, look at the other, take more than there is, give one up."""
    given, kept = wire.hold(), wire.hold()
    wanted = [wire.release(given), wire.ask(m.Info(kept.handle), kept), wire.access()[1]]
    _, given_up = wire.access()
    wanted += [wire.access()[1], wire.access(RARE)[1], wire.access()[1]]
    wire.session.abandon(given_up.call)
    return wanted, kept


def settled(wire: Wire, history: History) -> None:
    """Assert that both sides agree, and that everybody got his answer."""
    wanted, kept = history
    release, info, *accesses = (each.outcome for each in wanted)
    assert wire.held() == wire.believed()
    assert release == m.Done()
    assert isinstance(info, m.HandleInfo)
    assert kept.handle in wire.believed()
    refused = [outcome.number for outcome in accesses if isinstance(outcome, LicenseError)]
    assert ErrorNumber.ENTRY_NOT_FOUND in refused
    assert len(wire.held()) == 1 + sum(isinstance(outcome, m.Granted) for outcome in accesses)
    asked_for = [params for params in wire.seen if isinstance(params, m.Access)]
    assert len({params.key for params in asked_for}) <= len(wire.granted)


def forgetting(wire: Wire) -> None:
    restart(wire)


Cut = Callable[[Wire], object]
CUTS = [Wire.cut, forgetting]


@pytest.mark.parametrize("cut", CUTS, ids=["the server remembers", "the server forgets"])
def test_a_cut_at_every_byte_of_the_answers(cut: Cut) -> None:
    """Wherever in the server's answers it comes, afterwards the client believes what the server counts."""
    length, most = 1, 1
    while length <= most:
        wire = Wire(make_service(charts(quantity=4)))
        asked = history(wire)
        wire.send()
        most = wire.hear(length)
        cut(wire)
        wire.come_back()
        settled(wire, asked)
        length += 1
    assert most > 500


@pytest.mark.parametrize("cut", CUTS, ids=["the server remembers", "the server forgets"])
def test_a_cut_at_every_byte_of_the_questions(cut: Cut) -> None:
    """The same if the server does not hear everything, and nobody hears the server."""
    length, most = 0, 1
    while length < most:
        wire = Wire(make_service(charts(quantity=4)))
        asked = history(wire)
        most = len(wire.session.outbox)
        wire.send(length)
        cut(wire)
        wire.come_back()
        settled(wire, asked)
        length += 1
    assert most > 300


@pytest.mark.parametrize("first", CUTS, ids=["remembers", "forgets"])
@pytest.mark.parametrize("second", CUTS, ids=["then remembers", "then forgets"])
def test_two_cuts(first: Cut, second: Cut) -> None:
    """The second comes while the first is being mended: in the greeting, in the claims, in what is asked again."""
    for before in (0, 60, 150, 290, 1_000):
        done = False
        length = 0
        while not done:
            wire = Wire(make_service(charts(quantity=4)))
            asked = history(wire)
            wire.send()
            wire.hear(before)
            first(wire)
            wire.connect()
            done = hear_so_much(wire, length)
            second(wire)
            wire.come_back()
            settled(wire, asked)
            length += 7


def hear_so_much(wire: Wire, most: int) -> bool:
    """Let the two talk until the server has said so much; return whether it had no more to say."""
    while wire.session.outbox:
        wire.send()
        said = wire.hear(most)
        if said > most:
            return False
        most -= said
    return True


# --- whatever happens ---------------------------------------------------------------------------------------------


class Life:
    """A client that asks this and that while its connection is cut, its server started again, its answers in pieces."""

    def __init__(self) -> None:
        self.wire = Wire(make_service(charts(quantity=3)))
        self.waiting: list[Asked] = []

    def access(self, _: int) -> None:
        """Ask for a license."""
        self.waiting.append(self.wire.access()[1])

    def release(self, number: int) -> None:
        """Give one back."""
        if stand := [held for held in self.wire.granted if held.granted is not None and not held.releases]:
            self.waiting.append(self.wire.release(stand[number % len(stand)]))

    def info(self, number: int) -> None:
        """Look at one."""
        if known := [held for held in self.wire.granted if held.granted is not None]:
            held = known[number % len(known)]
            self.waiting.append(self.wire.ask(m.Info(held.handle), held))

    def give_up(self, number: int) -> None:
        """Wait no more for something, as Ctrl-C and the timeout do: even if its answer has just come."""
        if self.waiting:
            self.wire.session.abandon(self.waiting.pop(number % len(self.waiting)).call)

    def send(self, most: int) -> None:
        """Have some of the questions arrive; the rest is cut off."""
        if self.wire.session.connected:
            whole = most >= len(self.wire.session.outbox)
            self.wire.send(most)
            if not whole:
                self.wire.cut()

    def hear(self, most: int) -> None:
        """Have some of the answers arrive; the rest is cut off."""
        if self.wire.session.connected and self.wire.hear(most) > most:
            self.wire.cut()

    def run(self, _: int) -> None:
        """Have everything arrive."""
        if self.wire.session.connected:
            self.wire.run()

    def cut(self, _: int) -> None:
        """Cut the connection."""
        self.wire.cut()

    def restart(self, quantity: int) -> None:
        """Start the server anew, perhaps with fewer licenses."""
        restart(self.wire, make_service(charts(quantity=1 + quantity % 3)))

    def connect(self, _: int) -> None:
        """Make another connection, if there is none."""
        if not self.wire.session.connected:
            self.wire.connect()

    def pull(self, _: int) -> None:
        """Pull the dongle for good, and plug another one in."""
        self.wire.service.engine.remove(container_id(3, 1))
        self.run(0)
        self.wire.service.engine.plug(charts(quantity=2))


DEEDS = [Life.access, Life.access, Life.release, Life.info, Life.give_up, Life.send, Life.hear, Life.run, Life.cut,
         Life.restart, Life.connect, Life.connect, Life.pull]  # fmt: skip


@given(st.lists(st.tuples(st.sampled_from(DEEDS), st.integers(0, 400)), max_size=60))
def test_whatever_happens(deeds: list[tuple[Callable[[Life, int], None], int]]) -> None:
    """At no time does the client claim what the server does not count; and once all is said, they agree."""
    life = Life()
    wire = life.wire
    for deed, number in deeds:
        deed(life, number)
        assert wire.believed() <= wire.held()
    life.connect(0)
    wire.run()
    assert wire.session.phase is Phase.OPEN
    assert wire.believed() == wire.held()
    assert all(len(each.outcomes) == 1 for each in life.waiting)
    assert not any(held.doubt for held in wire.granted)
    told = Counter(event.event for event in wire.events)
    over = sum(held.ending is not None for held in wire.granted)
    assert told["lost"] <= over <= told["lost"] + told["ended"]
