"""License time leaps with the system clock: nothing that lasts for so long is over by that, nor is a loan."""

from __future__ import annotations

from cmserverd.core import history
from drivers.container import Borrowing, ContainerId, Loan
from protocol.errors import ErrorNumber
from protocol.messages import EndCause
from tests.core.replay import facts, replayed
from tests.core.scene import FIRM, START, Scene, container, item

HOUR = 3_600
BOX = ContainerId("3-1")
CONTENTS = container(item(1, 2, borrowing=Borrowing(HOUR)), item(2, 1, linger=60), item(3, 1, expiration=START + HOUR))


def replays(scene: Scene) -> bool:
    """Whether the shortest history gives the same table."""
    return facts(replayed(history.shortest(scene.table))) == facts(scene.table)


def test_a_clock_step_of_an_hour_frees_nothing_but_what_expires() -> None:
    """What was left is left: of a loan, of lingering, a life, being held off. A license expires by license time."""
    scene = Scene(CONTENTS, container(item(4, 9), id="3-2"))
    session, other = scene.session(), scene.session("other")
    loan = scene.borrow(session, seconds=600)
    scene.lingered(scene.access(session, item=2))
    mortal = scene.access(session, item=1, maximum_life=100)
    expiring = scene.access(other, item=3)
    taken = scene.access(scene.session("third"), item=4)
    scene.engine.deallocate(taken.handle, alone=True, seen=frozenset(), hold_off=90)
    scene.pass_time(40)
    scene.leap(HOUR)
    assert scene.gone(expiring).cause == EndCause.EXPIRED
    assert (scene.used(reference=1), scene.used(reference=2)) == (2, 1)
    assert (loan.end, loan.until) == (START + 600, START + 660 + HOUR)
    assert "had in 49 s" in str(scene.refused(scene.session("third")))  # a leap is noticed within a second
    assert replays(scene)
    scene.pass_time(18)
    assert scene.used(reference=2) == 1
    scene.pass_time(1)
    assert scene.used(reference=2) == 0
    scene.pass_time(39)
    scene.use(session, mortal.handle)
    scene.pass_time(1)
    assert scene.gone(mortal).cause == EndCause.MAXIMUM_LIFE
    scene.pass_time(559)
    assert scene.used() == 1
    scene.pass_time(1)
    assert scene.used() == 0


def test_a_container_that_strikes_a_loan_off_by_a_time_that_leapt_frees_nothing_either() -> None:
    """It knows license time only. Nor is one that it has still, and that is over by license time, taken for over."""
    scene = Scene(CONTENTS)
    loan = scene.borrow(scene.session(), seconds=600)
    row = Loan(loan.id, FIRM, 1, 1, loan.end, loan.holder)
    scene.leap(HOUR)
    for ledger in ([row], []):
        scene.engine.plug(CONTENTS, ledger)
        assert scene.used() == 1
    scene.access(scene.session("a"), item=1)
    assert scene.refused(scene.session("b"), item=1).number is ErrorNumber.NO_MORE_LICENSES
    scene.pass_time(659)
    scene.engine.plug(CONTENTS)
    assert scene.used() == 1


def test_a_time_that_is_set_right_again_ends_a_loan_when_it_says() -> None:
    """A certified time after a leap: what was put off is so no more, and no more than that."""
    scene = Scene(CONTENTS)
    loan = scene.borrow(scene.session(), seconds=600)
    scene.leap(HOUR)
    scene.now -= HOUR
    scene.engine.set_time(scene.now)
    assert (loan.until, scene.engine.due()) == (START + 660, START + 660)
    scene.now -= 10
    scene.engine.set_time(scene.now)
    assert loan.until == START + 660
    assert replays(scene)


def test_a_loan_that_is_extended_after_a_leap_stays_put_off() -> None:
    """Its holder's clock is what it was."""
    scene = Scene(CONTENTS)
    session = scene.session()
    scene.borrow(session, seconds=600)
    scene.leap(1_000)
    loan = scene.borrow(session, seconds=HOUR)
    assert loan.until == loan.end + 60 + 1_000
    scene.engine.plug(CONTENTS, [Loan(loan.id, FIRM, 1, 1, loan.end + 50, loan.holder)])
    assert loan.until == loan.end + 60 + 1_000


def test_what_is_listed_as_first_used_before_a_leap_was_then() -> None:
    """Also once the time was set back behind it: nothing was later than it was set back to."""
    scene = Scene(CONTENTS)
    session = scene.session()
    accesses = [scene.access(session, item=1)]
    scene.leap(100)
    accesses.append(scene.access(session, item=1))
    was = scene.table.elapsed.was
    assert [was(held.first) for held in accesses] == [START, START + 101]
    scene.pass_time(10)
    scene.now -= 60
    scene.engine.set_time(scene.now)
    assert [was(held.first) for held in accesses] == [START, START + 51]
    assert replays(scene)
