"""License time: it advances with the time since boot, is raised by the system clock, and never goes back."""

from __future__ import annotations

import time

from cmserverd.clock import LicenseClock, since_boot


class Times:
    """A system clock and a time since boot that a test sets."""

    def __init__(self) -> None:
        self.system = 1_000_000.0
        self.boot = 500.0
        self.clock = LicenseClock(lambda: self.system, lambda: self.boot)

    def after(self, *, system: float, boot: float) -> int:
        """Let both clocks advance, or be set, by so many seconds; return license time."""
        self.system += system
        self.boot += boot
        return self.clock.now()


def test_it_starts_as_the_system_clock_and_advances_with_it() -> None:
    """In the ordinary case both clocks advance alike; fractions of a second are cut off."""
    times = Times()
    assert times.clock.now() == 1_000_000
    assert times.after(system=0.9, boot=0.9) == 1_000_000
    assert times.after(system=0.2, boot=0.2) == 1_000_001


def test_a_system_clock_set_back_does_not_turn_it_back() -> None:
    """License time goes on with the time since boot, as if the system clock had not been touched (behaviour 21)."""
    times = Times()
    assert times.after(system=-3_600, boot=10) == 1_000_010
    assert times.after(system=5, boot=5) == 1_000_015


def test_a_system_clock_set_forward_raises_it_for_good() -> None:
    """It is not lowered when the system clock is set right again."""
    times = Times()
    assert times.after(system=3_600, boot=0) == 1_003_600
    assert times.after(system=-3_600, boot=7) == 1_003_607


def test_a_leap_is_told_once_and_that_a_clock_is_corrected_bit_by_bit_is_none() -> None:
    """Nor that it was set back, or that the time since boot went on alone."""
    times = Times()
    times.after(system=3_601, boot=1)
    assert [times.clock.take_leap(), times.clock.take_leap()] == [3_600, 0]
    for _ in range(9):
        times.after(system=2.5, boot=1)
    times.after(system=-3_600, boot=10)
    assert not times.clock.leapt


def test_a_certified_time_stands_though_the_system_clock_is_still_ahead() -> None:
    """The system clock is known to be wrong by that much: it raises license time by what it advances, and no more."""
    times = Times()
    assert times.after(system=1_000_000, boot=0) == 2_000_000
    times.clock.set(1_000_100)
    assert times.clock.now() == 1_000_100
    assert times.after(system=10, boot=10) == 1_000_110
    assert times.after(system=50, boot=5) == 1_000_160  # set forward once more, by 45 s


def test_a_system_clock_that_was_set_right_counts_again() -> None:
    """Once it was no longer ahead: whoever sets it forward then raises license time, by all of that."""
    times = Times()
    times.after(system=1_000_000, boot=0)
    times.clock.set(1_000_100)
    assert times.after(system=-1_000_000, boot=10) == 1_000_110
    assert times.after(system=3_600 + 100, boot=10) == 1_003_700


def test_a_system_clock_that_was_set_right_in_part_counts_from_there() -> None:
    """What it was set back by it can be set forward by: that is no longer known to be wrong."""
    times = Times()
    times.after(system=1_000_000, boot=0)
    times.clock.set(1_000_000)
    assert times.after(system=-600_000, boot=10) == 1_000_010
    assert times.after(system=10, boot=10) == 1_000_020
    assert times.after(system=600_000, boot=10) == 1_600_020


def test_a_certified_time_of_a_right_clock_changes_nothing() -> None:
    """A system clock that is behind the certified time is not ahead, and goes on counting once it is later."""
    times = Times()
    times.clock.set(1_000_500)
    assert times.after(system=10, boot=10) == 1_000_510
    assert times.after(system=600, boot=10) == 1_000_610


def test_a_container_s_time_counts_after_a_certified_one() -> None:
    """What a container knows of is no matter of the system clock."""
    times = Times()
    times.after(system=1_000_000, boot=0)
    times.clock.set(1_000_100)
    times.clock.raise_to(1_500_000)
    assert times.after(system=1, boot=1) == 1_500_001


def test_time_asleep_counts() -> None:
    """After a suspend the time since boot has advanced, whatever the system clock says."""
    times = Times()
    assert times.after(system=0, boot=28_800) == 1_028_800


def test_the_same_second_is_the_same_object() -> None:
    """A million accesses of one second share one number."""
    times = Times()
    assert times.clock.now() is times.after(system=0.5, boot=0.5)


def test_the_real_clocks() -> None:
    """By itself it reads the machine's clocks."""
    before = int(time.time())
    assert before <= LicenseClock().now() <= time.time() + 1
    assert since_boot() <= since_boot()
