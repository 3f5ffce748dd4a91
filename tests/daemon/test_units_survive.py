"""The daemon is killed and its container pulled, at every step: a use that was answered is taken exactly once, one that
was not at most once, and a repeated key never twice (decision 5).

A real process counts in a virtual container's file. After each kill the file itself is asked what it holds; in the next
life whoever had no answer asks again with the same key. How the chip bears a cut of its power is in
`tests/drivers/chip/test_cuts.py`.
"""

from __future__ import annotations

import os
import random
import select
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

import pytest
from msgspec import Struct

from drivers import cmc, image
from drivers.container import Allowance, Container, ContainerKind, FirmItem, ProductItem, container_id
from drivers.driver import Purpose
from drivers.image import SigningKeys
from drivers.trust import NOBODY
from protocol import messages as m
from protocol import rpc
from protocol.errors import ErrorNumber, LicenseError
from tests.daemon.harness import FIRM, LIMIT, Caller, Daemon, access, ending, hello
from tests.drivers.samples import CONTAINER_KEY, LICENSOR_KEY

UNITS: Final = 15
CLIENTS: Final = 3
REPEATED: Final = 6
"""How many answered uses are asked for again in each life; the container remembers 64 keys."""

STEPS: Final = ("before", "torn", "unsynced", "synced")
"""Where a write to the file may be when the process dies: not begun, half done, done, and on the disk."""

DYING: Final = """
import os, signal
write, sync, left = os.pwrite, os.fsync, [int(os.environ["DIE_AT_WRITE"])]

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def dying_write(descriptor, octets, at):
    left[0] -= 1
    if left[0] == 0 and os.environ["DIE"] == "before":
        die()
    if left[0] == 0 and os.environ["DIE"] == "torn":
        write(descriptor, octets[: len(octets) // 2], at)
        die()
    written = write(descriptor, octets, at)
    if left[0] == 0 and os.environ["DIE"] == "unsynced":
        die()
    return written

def dying_sync(descriptor):
    sync(descriptor)
    if left[0] == 0 and os.environ["DIE"] == "synced":
        die()

os.pwrite, os.fsync = dying_write, dying_sync
"""
"""Makes a Python process die at one of its writes, if it finds this as its `sitecustomize`."""


class Use(Struct):
    """A use of some units. `left` is what was answered: the units that were left after it; None without an answer."""

    key: bytes
    units: int
    left: int | None = None


class Trial:
    """A container with units, all uses that were ever asked for, and what chance says."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.directory = directory
        self.chance = random.Random(seed)
        self.uses: list[Use] = []
        self.path = directory / "units.cmc"
        item = ProductItem(1, UNITS, "Reports", 1_000, units=Allowance(1_000_000))
        firm = FirmItem(FIRM, "Chart Works", 1, (item,))
        contents = Container(container_id(3, 7), ContainerKind.VIRTUAL, "Units", (firm,))
        cmc.create(self.path, contents, SigningKeys(CONTAINER_KEY, {FIRM: LICENSOR_KEY}))

    def daemon(self) -> Daemon:
        """Return a daemon that serves the container once it is started."""
        daemon = Daemon(self.directory, dongle=None, config="[containers]\npoll = 0.1\n")
        daemon.config.write_text(daemon.config.read_text().replace(daemon.dongle.name, self.path.name))
        return daemon

    def new(self) -> Use:
        """Return a use that nobody has asked for yet."""
        self.uses.append(Use(self.chance.randbytes(16), self.chance.randint(1, 9)))
        return self.uses[-1]

    def again(self) -> list[Use]:
        """Return what has to be asked for again, and some of what need not, in any order."""
        open_ones = [use for use in self.uses if use.left is None]
        answered = [use for use in self.uses if use.left is not None][-REPEATED:]
        return self.chance.sample(open_ones + answered, len(open_ones) + len(answered))

    def check(self) -> None:
        """Hold the file, which nobody has open, against what was asked and answered."""
        file = cmc.CmcFile(self.path)
        (dongle,) = file.dongles()
        device = file.open(dongle)
        found = image.parse(device.read(), NOBODY).state
        device.sign(Purpose.PRESENCE, bytes(32))
        device.close()
        counted = {receipt.key for receipt in found.receipts}
        taken = [use.units for use in self.uses if use.left is not None or use.key in counted]
        assert sum(item.units_used for item in found.items) == sum(taken)


class Spender(Caller):
    """A client that uses units, and need not wait for an answer before it asks for the next use."""

    def __init__(self, daemon: Daemon, trial: Trial, number: int) -> None:
        super().__init__(daemon.address)
        self._trial = trial
        self._asked: dict[int, tuple[m.Crypt, Use]] = {}
        self.closed = False
        self.ask(hello(number))
        self._handle = self.ask(access(product=UNITS)).handle

    @property
    def waits(self) -> bool:
        """Whether a reply is still to come."""
        return bool(self._asked) and not self.closed

    def begin(self, use: Use) -> None:
        """Ask, if there is still anybody to ask."""
        self._last += 1
        params = m.Crypt(self._handle, self._trial.chance.randbytes(16), use.units, m.AccessKey(use.key))
        self._asked[self._last] = params, use
        with suppress(ConnectionError):
            self.sock.sendall(rpc.encode_request(self._last, params))

    def collect(self) -> int:
        """Read what has come; return how many replies that were."""
        try:
            self.closed = not self._read()
        except ConnectionError:
            self.closed = True
        replies = [(*self._asked.pop(msgid), msgid) for msgid in self.inbox.replies.keys() & self._asked.keys()]
        for params, use, msgid in replies:
            if (left := self._left(msgid, params)) is not None:
                assert use.left in {None, left}, "a repeated key has another answer"
                use.left = left
        return len(replies)

    def _left(self, msgid: int, params: m.Crypt) -> int | None:
        """Return how many units are left by the answer; None if the container was away."""
        try:
            return self.inbox.take(msgid, params).units_left
        except LicenseError as error:
            if error.number != ErrorNumber.BOX_LOST:
                raise
            return None


def gather(spenders: list[Spender], wanted: int) -> None:
    """Take replies until there are as many as wanted, or nobody waits for one any more."""
    came = 0
    while came < wanted and any(each.waits for each in spenders):
        came += _take(spenders)


def gather_all(spenders: list[Spender]) -> None:
    """Take replies until all connections have ended."""
    while not all(each.closed for each in spenders):
        _take(spenders)


def _take(spenders: list[Spender]) -> int:
    """Wait for bytes on any connection; return how many replies they had."""
    there = {each.sock: each for each in spenders if not each.closed}
    ready, _, _ = select.select(list(there), [], [], LIMIT)
    assert ready, "what must be answered was not"
    return sum(there[sock].collect() for sock in ready)


def live(
    trial: Trial, daemon: Daemon, die: Callable[[Daemon, list[Spender], int], None], clients: int = CLIENTS
) -> None:
    """Have clients of a daemon ask for all that is open, and for new uses; `die` is told how many those are.

    Then take what else was answered, and look into the file.
    """
    with ending(daemon), ExitStack() as stack:
        daemon.said("container plugged in")
        spenders = [stack.enter_context(Spender(daemon, trial, number)) for number in range(clients)]
        asked = trial.again() + [trial.new() for _ in range(trial.chance.randint(5, 12))]
        for use in asked:
            trial.chance.choice(spenders).begin(use)
        die(daemon, spenders, len(asked))
        gather_all(spenders)
    trial.check()


def settle(trial: Trial) -> None:
    """Have everything answered in one more life: all that was ever asked for is taken, and nothing else."""

    def die(daemon: Daemon, spenders: list[Spender], asked: int) -> None:
        gather(spenders, asked)
        daemon.kill()

    live(trial, trial.daemon().serve(), die)
    assert all(use.left is not None for use in trial.uses)
    assert len({use.left for use in trial.uses}) == len(trial.uses)


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_from_outside(seed: int, tmp_path: Path) -> None:
    """After whatever reply, with others on the way; now and then the container was pulled and put back before."""
    trial = Trial(tmp_path, seed)

    def die(daemon: Daemon, spenders: list[Spender], asked: int) -> None:
        gather(spenders, trial.chance.choice((asked, trial.chance.randrange(asked))))
        if trial.chance.randrange(4) == 0:
            pull(trial, daemon)
            gather(spenders, trial.chance.randint(0, asked))
        daemon.kill()

    for _ in range(9):
        live(trial, trial.daemon().serve(), die)
    settle(trial)


def pull(trial: Trial, daemon: Daemon) -> None:
    """Take the container away until the daemon has seen it, and put it back until it has seen that."""
    aside = trial.path.with_suffix(".aside")
    trial.path.rename(aside)
    daemon.said("container pulled out")
    aside.rename(trial.path)
    daemon.said("container plugged in", times=2)


@pytest.mark.parametrize("step", STEPS)
def test_killed_by_itself(step: str, tmp_path: Path) -> None:
    """In the midst of each of the first writes; the first one of a life may be that of the time, at the plug.

    There is one client, so that each use was answered before the next one is written.
    """
    (tmp_path / "sitecustomize.py").write_text(DYING)
    trial = Trial(tmp_path, 1)

    def die(daemon: Daemon, spenders: list[Spender], asked: int) -> None:
        daemon.exited()

    for write in (2, 3, 4):
        environment = {"PYTHONPATH": os.fspath(tmp_path), "DIE_AT_WRITE": str(write), "DIE": step}
        live(trial, trial.daemon().serve(environment=environment), die, clients=1)
    settle(trial)
