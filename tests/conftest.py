"""How Hypothesis is run: the same every time in the gate, and at random where that is asked for.

    pytest                                              profile `gate`: derandomized, nothing kept between two runs
    HYPOTHESIS_PROFILE=explore pytest tests/core        profile `explore`: a new seed each time, which is printed first
    HYPOTHESIS_PROFILE=explore pytest --hypothesis-seed=1234 tests/core      the same again

`EXPLORE` in the environment is how many times as long the exploring lasts. With `REQUIRE_EVERYTHING` a test fails that
would be skipped since something is not installed. `PATIENCE` is how many seconds a test waits for what must happen.
"""

from __future__ import annotations

import gc
import os
import secrets
from collections.abc import Generator

import pytest
from hypothesis import settings

settings.register_profile("gate", derandomize=True, deadline=None, max_examples=100)
settings.register_profile("explore", deadline=None, max_examples=25 * int(os.environ.get("EXPLORE", "1")))

PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "gate")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Load the profile, and choose the seed before Hypothesis looks for it."""
    settings.load_profile(PROFILE)
    if PROFILE == "explore" and config.option.hypothesis_seed is None:
        config.option.hypothesis_seed = str(secrets.randbits(32))


def pytest_sessionstart(session: pytest.Session) -> None:
    """Print the seed, before anything can go wrong."""
    if PROFILE == "explore":
        seed = session.config.option.hypothesis_seed
        session.config.get_terminal_writer().line(f"exploring at random with --hypothesis-seed={seed}")


def pytest_collection_finish() -> None:
    """Have nobody look for garbage in what is there before the first test: that is much, and stays."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let nothing be skipped where everything must be there."""
    report = yield
    if report.skipped and "REQUIRE_EVERYTHING" in os.environ:
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, and here nothing may be: {report.longrepr}"
    return report
