"""Sessions: they outlive their connections, and take everything with them when they end (design, section 5)."""

from __future__ import annotations

import pytest

from cmserverd.core.refusal import Refused
from cmserverd.core.rules import Limits
from cmserverd.core.terms import Session, SessionState
from drivers.container import QuantityFlag
from protocol.errors import ErrorNumber
from protocol.messages import EndCause
from protocol.terms import HandleKind
from tests.core.scene import EXCLUSIVE, NO_USER_LIMIT, STATION_SHARE, USER_LIMIT, Scene, container, item


def how(session: Session) -> SessionState:
    """Return whether a session is attached, and if not, how it went."""
    return session.state


@pytest.mark.parametrize("closed", [True, False])
def test_a_detached_session_keeps_what_it_holds(closed: bool) -> None:
    """Nobody gets its license as long as it may come back, and it finds its handles when it does."""
    scene = Scene(container(item()))
    session = scene.session(address="192.0.2.1")
    held = scene.access(session)
    scene.engine.detach(session, closed=closed)
    assert how(session) is (SessionState.CLOSED if closed else SessionState.SILENT)
    assert scene.refused(scene.session("other")).number is ErrorNumber.NO_MORE_LICENSES
    assert scene.engine.resume(session.token_hash, "2001:db8::1", local=True) is session
    assert how(session) is SessionState.ATTACHED
    assert (session.address, session.local) == ("2001:db8::1", True)
    assert scene.table.addresses == {"2001:db8::1": 1, "192.0.2.1": 1}
    assert scene.use(session, held.handle) is held


def test_the_first_word_on_how_a_connection_went_stands() -> None:
    """A session that is silent already does not become a ghost when its dead connection is closed at last."""
    scene = Scene(container(item()))
    session = scene.session()
    scene.engine.detach(session, closed=False)
    scene.engine.detach(session, closed=True)
    assert session.state is SessionState.SILENT
    assert not scene.table.ghosts


def test_an_attached_session_can_be_taken_over() -> None:
    """Resuming does not wait until the server has noticed that the old connection is dead."""
    scene = Scene(container(item()))
    session = scene.session(address="192.0.2.1")
    held = scene.access(session)
    assert scene.engine.resume(session.token_hash, "192.0.2.2", local=False) is session
    assert session.address == "192.0.2.2"
    assert scene.table.addresses == {"192.0.2.2": 1}
    assert scene.use(session, held.handle) is held


def test_resuming_what_is_not_there_is_106_and_says_what_to_do() -> None:
    """An unknown token and that of a closed session are answered alike."""
    scene = Scene()
    session = scene.session()
    scene.engine.close(session)
    for token_hash in (session.token_hash, b"?" * 32):
        with pytest.raises(Refused, match="greet anew with hello") as refusal:
            scene.engine.resume(token_hash, "192.0.2.1", local=False)
        assert refusal.value.number is ErrorNumber.INVALID_HANDLE


def test_closing_frees_all_that_a_session_holds() -> None:
    """Every kind of access ends, shares of others go on, and nothing of the session is left."""
    scene = Scene(container(item(1, 9), item(2, 9, product=15)))
    session = scene.session()
    for mode in (USER_LIMIT, STATION_SHARE, STATION_SHARE, NO_USER_LIMIT):
        scene.access(session, mode)
    scene.access(session, EXCLUSIVE, product=15)
    scene.refer(session, HandleKind.CONTAINER)
    scene.refer(session, HandleKind.SUBSYSTEM)
    shared = scene.access(scene.session(address="192.0.2.9"), STATION_SHARE)
    scene.engine.detach(session, closed=True)
    scene.engine.close(session)
    assert scene.table.accesses == {shared.handle: shared}
    assert (scene.used(), scene.used("3-1", 2)) == (1, 0)
    assert list(scene.table.sessions.values()) == list(scene.table.tokens.values()) == [shared.session]
    assert scene.table.addresses == {"192.0.2.9": 1}


def test_one_address_opens_no_more_sessions_than_its_limit() -> None:
    """One more is 309; detached sessions count, closed ones and those of other addresses do not."""
    scene = Scene(limits=Limits(sessions_per_address=2))
    first, second = scene.session(), scene.session()
    scene.engine.detach(second, closed=True)
    with pytest.raises(Refused) as refusal:
        scene.session()
    assert refusal.value.number is ErrorNumber.REQUEST_OVERLOAD
    scene.session(address="192.0.2.2")
    scene.engine.close(first)
    scene.session()


def test_sessions_are_numbered_for_ever() -> None:
    """A session's number is never used twice."""
    scene = Scene()
    first = scene.session()
    scene.engine.close(first)
    assert scene.session().id > first.id


def test_what_is_for_the_server_s_machine_ends_when_its_session_comes_back_from_elsewhere() -> None:
    """License quantity 0 and local-only entries do not exist for others; whatever else it holds stands."""
    scene = Scene(container(item(1, 0), item(2, flags=QuantityFlag.LOCAL_ONLY), item(3)))
    here = scene.session("here", local=True)
    kept = scene.access(here, item=3)
    ended = [scene.access(here, item=number) for number in (1, 2)]
    scene.engine.resume(here.token_hash, "192.0.2.1", local=False)
    assert list(here.accesses.values()) == [kept]
    assert [scene.gone(held).cause for held in ended] == [EndCause.NOT_LOCAL] * 2
    scene.engine.resume(here.token_hash, "127.0.0.1", local=True)
    assert scene.table.accesses.find(kept.handle) is kept
