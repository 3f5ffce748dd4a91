"""The process that reads the history: page after page from one, and nothing of it stays behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from cmserverd import audit
from cmserverd.auditor import Auditor
from cmserverd.core.refusal import Refused
from cmserverd.store import Store
from protocol import messages as m
from protocol.errors import ErrorNumber
from protocol.tracking import TrackingPage, TrackingProof, TrackingRequest, VerifyTracking
from tests.core.scene import Scene, container, item
from tests.daemon.harness import LIMIT
from tests.daemon.kept import told


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A file with a history of three pages."""
    scene = Scene(container(item()))
    scene.checking = False
    session = scene.session("pc")
    for _ in range(2_100):
        scene.release(scene.access(session))
    store = Store(tmp_path / "journal.db", power=False)
    store.append(told(scene), 0)
    yield store
    store.close()


def pid(auditor: Auditor) -> int:
    """Return the number of the process that waits."""
    assert auditor._waiting is not None
    return auditor._waiting._process.pid


def is_there(number: int) -> bool:
    """Whether a process of ours has not been seen to its end."""
    return Path(f"/proc/{number}").exists()


async def test_one_process_tells_page_after_page(store: Store) -> None:
    """The whole, and it is gone then."""
    auditor = Auditor(store.path)
    with trio.fail_after(LIMIT):
        pages = [await auditor.ask(TrackingRequest(), TrackingPage)]
        first = pid(auditor)
        seen = {first}
        while pages[-1].next is not None:
            seen.add(pid(auditor))
            pages.append(await auditor.ask(TrackingRequest(cursor=pages[-1].next), TrackingPage))
    assert pages == list(audit.pages(store, TrackingRequest()))
    assert len(pages) == 3
    assert seen == {first}
    assert auditor._waiting is None
    assert not is_there(first)


async def test_the_next_page_comes_also_from_another_process(store: Store) -> None:
    """If the first one waits no longer; or if somebody asked for something else meanwhile."""
    auditor = Auditor(store.path)
    expected = list(audit.pages(store, TrackingRequest()))
    with trio.fail_after(LIMIT):
        page = await auditor.ask(TrackingRequest(), TrackingPage)
        first = pid(auditor)
        assert auditor._waiting is not None
        auditor._waiting._process.kill()
        page = await auditor.ask(TrackingRequest(cursor=page.next), TrackingPage)
        assert page == expected[1]
        second = pid(auditor)
        proof = await auditor.ask(VerifyTracking(), TrackingProof)
        assert proof.sound
        assert not is_there(first)
        assert not is_there(second)
        assert await auditor.ask(TrackingRequest(cursor=page.next), TrackingPage) == expected[2]


async def test_who_goes_takes_the_process_along(store: Store) -> None:
    """And the next one is answered."""
    auditor = Auditor(store.path)
    with trio.fail_after(LIMIT):
        page = await auditor.ask(TrackingRequest(), TrackingPage)
        first = pid(auditor)
        with trio.CancelScope() as scope:
            scope.cancel()
            await auditor.ask(TrackingRequest(cursor=page.next), TrackingPage)
        assert scope.cancelled_caught
        with trio.move_on_after(0.01):
            await auditor.ask(VerifyTracking(), TrackingProof)
        assert (await auditor.ask(VerifyTracking(), TrackingProof)).sound
        assert not is_there(first)


async def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """With the reason, in one sentence."""
    (tmp_path / "journal.db").write_text("no journal at all, but long enough for one" * 100)
    with trio.fail_after(LIMIT), pytest.raises(Refused) as refusal:
        await Auditor(tmp_path / "journal.db").ask(m.TrackingRequest(), TrackingPage)
    assert refusal.value.number is ErrorNumber.INTERNAL
    assert "it is no journal, or damaged" in str(refusal.value)


async def test_what_is_not_there_is_not_begun_anew(tmp_path: Path) -> None:
    """An empty history would be sound: whoever moved the file away must not be told that nothing was altered."""
    with trio.fail_after(LIMIT), pytest.raises(Refused) as refusal:
        await Auditor(tmp_path / "journal.db").ask(VerifyTracking(), TrackingProof)
    assert "is not in its place any more; put it back" in str(refusal.value)
    assert not (tmp_path / "journal.db").exists()
