"""The daemon is killed at every step while licenses are borrowed and given back: what was answered stands, no license
is lent twice, and each next life counts what the container's own ledger has (behaviours 16 and 18).

A real process lends from a virtual container's file. After each kill the file itself is asked; now and then the state
directory is wiped, or an older journal put back.
"""

from __future__ import annotations

import os
import random
import select
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

import pytest

from drivers import cmc, image
from drivers.container import Borrowing, Container, ContainerKind, FirmItem, ProductItem, container_id
from drivers.firm_item import encode_owner
from drivers.image import SigningKeys
from drivers.trust import NOBODY
from protocol import messages as m
from protocol import rpc
from protocol.errors import ErrorNumber, LicenseError
from tests.daemon.borrowing import CHARTS, DAY, Borrower
from tests.daemon.harness import FIRM, Caller, Daemon, access, ending, hello
from tests.daemon.test_units_survive import DYING, STEPS
from tests.drivers.samples import CONTAINER_KEY, LICENSOR_KEY

QUANTITY: Final = 4
BORROWERS: Final = 7
_USUAL: Final = (ErrorNumber.NO_MORE_LICENSES, ErrorNumber.BOX_LOST, ErrorNumber.SERVER_STARTING)


class Traveller:
    """A borrower, and what he knows: `has` a license, has none, or (None) asked and was not answered."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.has: bool | None = False
        self.borrower = Borrower()

    def gave_back(self) -> None:
        """He borrows with another id next time."""
        self.has, self.borrower = False, Borrower()


class Trial:
    """A container with some licenses, all who borrow of it, and what chance says."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.directory = directory
        self.chance = random.Random(seed)
        self.travellers = [Traveller(number) for number in range(BORROWERS)]
        self.path = directory / "lends.cmc"
        item = ProductItem(1, CHARTS, "Charts", QUANTITY, borrowing=Borrowing(30 * DAY))
        contents = Container(
            container_id(3, 7), ContainerKind.VIRTUAL, "Lends", (FirmItem(FIRM, "Chart Works", 1, (item,)),)
        )
        cmc.create(self.path, contents, SigningKeys(CONTAINER_KEY, {FIRM: LICENSOR_KEY}))
        self.owner = encode_owner(self._image().owner)
        self.out: set[bytes] = set()
        self.lent = self.returned = 0

    def _image(self) -> image.Image:
        file = cmc.CmcFile(self.path)
        (dongle,) = file.dongles()
        device = file.open(dongle)
        read = image.parse(device.read(), NOBODY)
        device.close()
        return read

    def daemon(self, config: str = "") -> Daemon:
        """Return a daemon that serves the container once it is started."""
        daemon = Daemon(self.directory, dongle=None, config=f"[containers]\npoll = 0.1\n{config}")
        daemon.config.write_text(daemon.config.read_text().replace(daemon.dongle.name, self.path.name))
        return daemon

    def check(self) -> None:
        """Hold the file, which nobody has open, against what everybody knows."""
        self.out = {loan.id for loan in self._image().state.loans}
        for each in self.travellers:
            stands = each.borrower.loan in self.out
            assert each.has in {None, stands}, (each.number, each.has, stands)
        assert len(self.out) <= QUANTITY
        assert self.out <= {each.borrower.loan for each in self.travellers}

    def check_counts(self, daemon: Daemon) -> None:
        """Hold what a new life counts against what was in the file, before anything else is asked."""
        with Caller(daemon.monitor) as monitor:
            monitor.ask(hello())
            (count,) = monitor.ask(m.NetCluster()).licenses
            rows = monitor.ask(m.NetUsers()).accesses
        assert count.borrowed == len([row for row in rows if row.mode == "borrowed"]) == len(self.out)


class Connection(Caller):
    """A traveller's connection; he need not wait for an answer."""

    def __init__(self, daemon: Daemon, trial: Trial, traveller: Traveller) -> None:
        super().__init__(daemon.address)
        self._trial = trial
        self._traveller = traveller
        self._asked: tuple[int, m.Borrow | m.GiveBack] | None = None
        self.closed = False
        self.ask(hello(traveller.number))

    @property
    def waits(self) -> bool:
        """Whether a reply is still to come."""
        return self._asked is not None and not self.closed

    def begin(self) -> None:
        """Ask for a license, take one along that he holds, extend what he has, or give it back."""
        traveller, chance = self._traveller, self._trial.chance
        params: m.Borrow | m.GiveBack
        if traveller.has is False or chance.random() < 0.5:
            handle = 0
            if traveller.has is False and chance.random() < 0.5:
                with suppress(LicenseError, AssertionError, ConnectionError):
                    handle = self.ask(access()).handle
            params = traveller.borrower.asks(int(time.time()), handle=handle, seconds=DAY)
        else:
            signature = traveller.borrower.signs(self._trial.owner)
            params = m.GiveBack("3-7", traveller.borrower.loan, signature)
        traveller.has = traveller.has if isinstance(params, m.Borrow) and traveller.has else None
        self._last += 1
        self._asked = self._last, params
        with suppress(ConnectionError):
            self.sock.sendall(rpc.encode_request(self._last, params))

    def collect(self) -> bool:
        """Read what has come; return whether that was the reply."""
        try:
            self.closed = not self._read()
        except ConnectionError:
            self.closed = True
        if self._asked is None or self._asked[0] not in self.inbox.replies:
            return False
        (msgid, params), self._asked = self._asked, None
        traveller = self._traveller
        try:
            if isinstance(params, m.Borrow):
                lent = self.inbox.take(msgid, params)
                assert traveller.borrower.loan == params.id
                assert lent.message[49:65] == params.id
                traveller.has = True
                self._trial.lent += 1
            else:
                self.inbox.take(msgid, params)
                traveller.gave_back()
                self._trial.returned += 1
        except LicenseError as error:
            if error.number not in _USUAL:
                raise
            if traveller.has is None and error.number == ErrorNumber.NO_MORE_LICENSES:
                traveller.has = False
        return True


def live(trial: Trial, daemon: Daemon, die: Callable[[Daemon, list[Connection]], None], clients: int) -> None:
    """Have some travellers ask; `die` ends the daemon. Then take what else was answered, and look into the file."""
    with ending(daemon), ExitStack() as stack:
        daemon.said("container plugged in")
        trial.check_counts(daemon)
        asking = trial.chance.sample(trial.travellers, clients)
        connections: list[Connection] = []
        with suppress(ConnectionError, AssertionError):  # it may die before all are in
            connections.extend(stack.enter_context(Connection(daemon, trial, each)) for each in asking)
        for each in connections:
            each.begin()
        die(daemon, connections)
        while not all(each.closed for each in connections):
            _take(connections)
    trial.check()


def _take(connections: list[Connection]) -> int:
    there = {each.sock: each for each in connections if not each.closed}
    ready, _, _ = select.select(list(there), [], [], 60)
    assert ready, "what must be answered was not"
    return sum(there[sock].collect() for sock in ready)


def settle(trial: Trial) -> None:
    """Have everybody give back what he has, or may have; nothing is out then."""
    daemon = trial.daemon().serve()
    with ending(daemon):
        daemon.said("container plugged in")
        for each in trial.travellers:
            with Caller(daemon.address) as caller:
                caller.ask(hello(each.number))
                receipt = m.GiveBack("3-7", each.borrower.loan, each.borrower.signs(trial.owner))
                assert caller.ask(receipt).stood is (each.borrower.loan in trial.out)
                each.gave_back()
        trial.out = set()
        trial.check_counts(daemon)
    trial.check()


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_from_outside(seed: int, tmp_path: Path) -> None:
    """After whatever reply; then the state may be gone, or be older than what the container knows."""
    trial = Trial(tmp_path, seed)
    state, backup = tmp_path / "state", tmp_path / "backup"

    def die(daemon: Daemon, connections: list[Connection]) -> None:
        wanted, came = trial.chance.randint(0, len(connections)), 0
        while came < wanted and any(each.waits for each in connections):
            came += _take(connections)
        daemon.kill()

    for number in range(12):
        live(trial, trial.daemon().serve(), die, BORROWERS - 2)
        match trial.chance.randrange(4):
            case 0:
                shutil.rmtree(state)
            case 1 if backup.exists():
                shutil.rmtree(state)
                shutil.copytree(backup, state)
        if number == 4 and state.exists():
            shutil.copytree(state, backup)
    assert trial.lent
    assert trial.returned
    settle(trial)


@pytest.mark.parametrize("step", STEPS)
def test_killed_by_itself(step: str, tmp_path: Path) -> None:
    """In the midst of each of the first writes of a life to the container."""
    (tmp_path / "sitecustomize.py").write_text(DYING)
    trial = Trial(tmp_path, 1)

    def die(daemon: Daemon, connections: list[Connection]) -> None:
        while daemon.process.poll() is None and any(each.waits for each in connections):
            _take(connections)
        daemon.kill()

    for write in (2, 3, 4, 2, 3):
        environment = {"PYTHONPATH": os.fspath(tmp_path), "DIE_AT_WRITE": str(write), "DIE": step}
        live(trial, trial.daemon().serve(environment=environment), die, clients=BORROWERS)
    settle(trial)


@pytest.mark.parametrize(
    ("config", "seconds", "text"),
    [
        ("allowed = false", 60, "the operator allows no borrowing"),
        ("maximum = 3600", 3_601, "for 1 h at most"),
        (f"keep = {QUANTITY}", 60, f"the operator keeps {QUANTITY} of {QUANTITY} here"),
        ("maximum = 4294967295", 31 * DAY, "for 30 d at most"),
    ],
)
def test_the_configuration_says_what_may_be_borrowed(config: str, seconds: int, text: str, tmp_path: Path) -> None:
    """It takes from what the licensor allows, and adds nothing."""
    trial = Trial(tmp_path, 1)
    daemon = trial.daemon(f"[borrowing]\n{config}\n").serve()
    with ending(daemon), Caller(daemon.address) as client:
        daemon.said("container plugged in")
        client.ask(hello())
        with pytest.raises(LicenseError) as refusal:
            client.ask(Borrower().asks(int(time.time()), seconds=seconds))
        assert refusal.value.number == ErrorNumber.BORROW_FAILED
        assert text in str(refusal.value)


def test_what_the_configuration_allows_is_lent(tmp_path: Path) -> None:
    """Up to the very second, and the last one that is not kept."""
    trial = Trial(tmp_path, 1)
    daemon = trial.daemon(f"[borrowing]\nmaximum = 3600\nkeep = {QUANTITY - 1}\n").serve()
    with ending(daemon), Caller(daemon.address) as client:
        daemon.said("container plugged in")
        client.ask(hello())
        client.ask(Borrower().asks(int(time.time()), seconds=3_600))
        with pytest.raises(LicenseError):
            client.ask(Borrower().asks(int(time.time()), seconds=3_600))


def test_the_configuration_says_how_many_an_address_may_have(tmp_path: Path) -> None:
    """Whoever is there, and however many there are."""
    daemon = Trial(tmp_path, 1).daemon("[borrowing]\nper_address = 1\n").serve()
    with ending(daemon), Caller(daemon.address) as client:
        daemon.said("container plugged in")
        client.ask(hello())
        client.ask(Borrower().asks(int(time.time()), seconds=60))
        with pytest.raises(LicenseError, match=r"1 are borrowed from 127.0.0.1, .*\[borrowing\] per_address"):
            client.ask(Borrower().asks(int(time.time()), seconds=60))
