"""Taking licenses along with `cmu`: from a real daemon and a signed container, by connection and by files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cmserverd.cmu import borrowing
from cmserverd.cmu.main import main
from cmserverd.cmu.outcome import FOUND, NOTHING, REFUSED, UNREACHED, UNWRITTEN, USAGE
from drivers import keys
from protocol.blocking import Client
from protocol.certificate import SKEW
from protocol.errors import ErrorNumber, LicenseError
from protocol.loan_files import GRANT, RECEIPT, REQUEST, Kind
from protocol.loans import Loan, Loans
from protocol.messages import Borrow, Borrowed, GiveBack, GivenBack, KeepAlive, Lend, LoanId, Params
from protocol.terms import Client as Who
from protocol.terms import Station
from tests.cmboxpgm.bench import FIRM_CODE, Bench
from tests.cmu.fake_server import serving
from tests.daemon.harness import Daemon, ending
from tests.protocol.lender import Lender

Captured = pytest.CaptureFixture[str]

CHARTS = 14
BORROW = ["--borrow", "--firmcode", str(FIRM_CODE), "--productcode", str(CHARTS), "--duration", "3d"]
NOBODY = "127.0.0.1:1"


@pytest.fixture(autouse=True)
def _nothing_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Have loans, sockets and files in directories of the test's own."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("CMSERVERD_RUN_DIRECTORY", str(tmp_path / "run"))
    monkeypatch.setenv("CMSERVERD_STATION", "laptop")
    for name in ("CMSERVERD_SERVER", "COLUMNS", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


class Served:
    """A daemon with two licenses that may be borrowed, and their licensor's public key."""

    def __init__(self, directory: Path, capsys: Captured) -> None:
        bench = Bench(directory, capsys)
        bench.begin()
        bench.program("firm-item", "--text", "Chart Works")
        what = ("--product-code", str(CHARTS), "--text", "Charts", "--quantity", "2", "--borrowing", "30d")
        bench.program("item", "--item", "1", *what)
        self.licensor = keys.public_of(keys.read(directory / "licensor.key"))
        self.daemon = Daemon(directory, dongle=None)
        self.daemon.config.write_text(self.daemon.config.read_text().replace("dongle.toml", "box.cmc"))

    def start(self) -> None:
        """Start it."""
        self.daemon.serve().said("container plugged in")

    @property
    def address(self) -> str:
        """Where it listens."""
        return "{}:{}".format(*self.daemon.address)

    def found(self) -> Loan | None:
        """Return what an application finds without a connection."""
        return Loans().find(FIRM_CODE, CHARTS, self.licensor)

    def counts(self, capsys: Captured) -> tuple[int, int, int]:
        """Return how many licenses are used, free and borrowed."""
        capsys.readouterr()
        main(["-n", "--json", "--server", f"unix:{self.daemon.monitor}"])
        (row,) = json.loads(capsys.readouterr().out)["licenses"]
        return row["used"], row["free"], row["borrowed"]


@pytest.fixture
def served(tmp_path: Path, capsys: Captured) -> Iterator[Served]:
    """A daemon that runs."""
    served = Served(tmp_path, capsys)
    with ending(served.daemon):
        served.start()
        yield served


def document(capsys: Captured, *arguments: str) -> dict[str, Any]:
    """Run a command, which must succeed; return its document."""
    assert main([*arguments, "--json"]) == FOUND
    printed = capsys.readouterr()
    assert printed.err == ""
    found: dict[str, Any] = json.loads(printed.out)
    return found


def told(capsys: Captured) -> str:
    """Return the one line of an error, and that nothing else was printed."""
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("cmu: ")
    assert printed.err.count("\n") == 1
    return printed.err


def only(capsys: Captured) -> dict[str, Any]:
    """Return the only loan that `--loans` lists; what was printed before is forgotten."""
    capsys.readouterr()
    (loan,) = document(capsys, "--loans")["loans"]
    assert isinstance(loan, dict)
    return loan


# --- by connection ------------------------------------------------------------------------------------------------


def test_a_license_is_borrowed_listed_and_given_back(served: Served, capsys: Captured) -> None:
    """An application finds it offline; the operator sees who has it until when, and cannot take it away."""
    assert main([*BORROW, "--server", served.address]) == FOUND
    assert capsys.readouterr().out.startswith(f"Firm Code {FIRM_CODE}, Product Code {CHARTS} of 3-1 can be used until ")
    found = served.found()
    assert found is not None
    found.check()
    assert served.counts(capsys) == (1, 1, 1)
    assert main(["--loans"]) == FOUND
    assert "borrowed" in capsys.readouterr().out
    loan = only(capsys)
    assert (loan["id"], loan["state"], loan["container"], loan["item"]) == (found.id.hex(), "borrowed", "3-1", 1)
    assert (loan["until"], loan["end"], loan["server"]) == (found.until, found.until + SKEW, served.address)
    monitor, control = f"unix:{served.daemon.monitor}", f"unix:{served.daemon.control}"
    assert main(["-n", "--server", monitor]) == FOUND
    printed = capsys.readouterr().out
    assert "0 (1)" in printed
    assert "Borrowed until " in printed
    assert main(["-x", "--server", monitor]) == FOUND
    assert "may be borrowed for 30 d" in capsys.readouterr().out
    assert main(["--deallocate", str(loan["number"]), "--yes", "--server", control]) == REFUSED
    assert "Error 226" in told(capsys)
    assert main(["--return", loan["id"][:6]]) == FOUND
    assert capsys.readouterr().out == "The license is free.\n"
    assert served.found() is None
    assert served.counts(capsys) == (0, 2, 0)
    capsys.readouterr()
    assert main(["--loans"]) == NOTHING
    assert capsys.readouterr().out == "Result: 0 loan(s) listed; times are UTC.\n"
    assert main(["--return", loan["id"][:6]]) == NOTHING
    assert "you have no loan" in told(capsys)


def test_an_application_borrows_what_it_holds(served: Served, capsys: Captured) -> None:
    """The last one too: the access becomes the loan, which lasts longer, and is given back by `cmu`."""
    with Client(served.address, application="charts") as client, client.access(FIRM_CODE, CHARTS) as access:
        other = client.access(FIRM_CODE, CHARTS)
        loan = access.borrow(3_600, licensor=served.licensor)
        assert served.counts(capsys) == (2, 0, 1)
        other.check()
        client.extend(loan, 7_200)
        with pytest.raises(LicenseError) as refusal:
            client.extend(loan, 31 * 86_400)
        assert refusal.value.number == ErrorNumber.BORROW_FAILED
        loan.check()
        with pytest.raises(LicenseError) as refusal:
            client.borrow(FIRM_CODE, CHARTS, 3_600, licensor=served.licensor)
        assert refusal.value.number == ErrorNumber.NO_MORE_LICENSES
    assert served.counts(capsys) == (1, 1, 1)
    before = only(capsys)
    longer = document(capsys, "--extend", before["id"], "--duration", "2d")["loan"]
    assert longer["end"] > before["end"]
    assert document(capsys, "--return", loan.id.hex()) == {"id": loan.id.hex(), "stood": True}
    with pytest.raises(LicenseError):
        loan.check()
    assert served.counts(capsys) == (0, 2, 0)


def test_giving_back_where_no_server_is(served: Served, capsys: Captured) -> None:
    """It is of no use from then on, is told so, and is sent once the server is there."""
    assert main([*BORROW, "--server", served.address]) == FOUND
    loan = only(capsys)
    assert main(["--return", loan["id"], "--server", NOBODY]) == UNREACHED
    assert "the loan cannot be used any more, and its receipt is kept" in told(capsys)
    assert served.found() is None
    assert only(capsys)["state"] == "given_back"
    assert main(["--loans"]) == FOUND
    assert "given back; the server has not confirmed it" in capsys.readouterr().out.replace("\n", " ")
    assert main(["--extend", loan["id"], "--duration", "1d"]) == REFUSED
    assert "was given back" in told(capsys)
    assert served.counts(capsys) == (1, 1, 1)
    assert main(["--return", loan["id"]]) == FOUND
    assert served.counts(capsys) == (0, 2, 0)


def test_what_a_server_refuses_leaves_nothing(served: Served, capsys: Captured) -> None:
    """Too long, or a product that there is not."""
    assert main([*BORROW[:-1], "31d", "--server", served.address]) == REFUSED
    assert "Error 226" in told(capsys)
    assert main([*BORROW, "--productcode", "99", "--server", served.address]) == REFUSED
    assert "Error 200" in told(capsys)
    assert main(["--loans"]) == NOTHING


# --- by files -----------------------------------------------------------------------------------------------------


def test_the_whole_way_by_files(served: Served, capsys: Captured) -> None:
    """Request, grant, receipt: nobody here ever reaches the server, and its operator sees it all."""
    control = ("--server", f"unix:{served.daemon.control}")
    asked = document(capsys, *BORROW, "--file", "a.request")
    assert only(capsys)["state"] == "asked"
    assert document(capsys, *BORROW, "--file", "a.request")["id"] == asked["id"]  # written once more: it was lost
    granted = document(capsys, "--lend", "a.request", "--file", "a.grant", *control)
    assert (granted["id"], granted["container"], granted["station"]) == (asked["id"], "3-1", "laptop/0")
    assert main(["--lend", "a.request", "--file", "a.grant", *control]) == FOUND  # it was lost: the same again
    printed = capsys.readouterr().out
    assert printed.startswith(f"Firm Code {FIRM_CODE}, Product Code {CHARTS} of 3-1 is lent to ")
    assert served.counts(capsys) == (1, 1, 1)
    assert served.found() is None
    taken = document(capsys, "--take", "a.grant")["loan"]
    assert (taken["id"], taken["state"], taken["server"]) == (asked["id"], "borrowed", None)
    assert served.found() is not None
    assert main(["--extend", asked["id"], "--duration", "4d", "--file", "a.request"]) == FOUND
    assert main(["--lend", "a.request", "--file", "a.grant", *control]) == FOUND
    capsys.readouterr()
    assert document(capsys, "--take", "a.grant")["loan"]["end"] >= taken["end"] + 86_400
    assert served.counts(capsys) == (1, 1, 1)
    assert main(["--return", asked["id"], "--file", "a.receipt"]) == FOUND
    assert "cannot be used any more; its receipt is in a.receipt" in capsys.readouterr().out
    assert served.found() is None
    assert document(capsys, "--take-back", "a.receipt", *control) == {"id": asked["id"], "stood": True}
    assert served.counts(capsys) == (0, 2, 0)
    assert main(["--take-back", "a.receipt", *control]) == FOUND
    assert capsys.readouterr().out == "The server did not count this loan any more.\n"
    # The grant is still there, and is of no use: the receipt lies beside the loan until that is over.
    assert main(["--take", "a.grant"]) == REFUSED
    assert "was given back" in told(capsys)
    assert served.found() is None


def test_a_grant_is_the_one_s_who_asked(served: Served, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user cannot take it, nor can the same one on another machine use it."""
    control = ("--server", f"unix:{served.daemon.control}")
    assert main([*BORROW, "--file", "a.request"]) == FOUND
    assert main(["--lend", "a.request", "--file", "a.grant", *control]) == FOUND
    capsys.readouterr()
    mine = str(served.daemon.directory / "data")
    monkeypatch.setenv("XDG_DATA_HOME", str(served.daemon.directory / "another"))
    assert main(["--take", "a.grant"]) == NOTHING
    assert "answers no request of yours" in told(capsys)
    monkeypatch.setenv("XDG_DATA_HOME", mine)
    monkeypatch.setenv("CMSERVERD_STATION", "desk")
    assert main(["--take", "a.grant"]) == REFUSED
    assert "for another machine, or another seat" in told(capsys)
    assert only(capsys)["state"] == "asked"
    monkeypatch.setenv("CMSERVERD_STATION", "laptop")
    assert main(["--take", "a.grant"]) == FOUND


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        (["--lend", "a.file", "--file", "out"], REQUEST),
        (["--take", "a.file"], GRANT),
        (["--take-back", "a.file"], RECEIPT),
    ],
)
def test_a_file_that_is_none(command: list[str], kind: Kind[Any], capsys: Captured) -> None:
    """One sentence that says what it is and what to name; nobody is asked, nothing is written."""
    request = Lend(
        id=LoanId(bytes(16)),
        holder=bytes(32),
        seconds=99,
        client=Who("WIBU", "fs", 1),
        station=Station("laptop"),
        firm_code=1,
        product_code=2,
    )
    ask = Borrow(id=LoanId(bytes(16)), holder=bytes(32), seconds=99, time=1)
    files: dict[Kind[Any], bytes] = {REQUEST: REQUEST.encode(request), GRANT: GRANT.encode(Lender().lend(ask))}
    files[RECEIPT] = RECEIPT.encode(GiveBack("3-7", LoanId(bytes(16)), bytes(64)))
    for other, octets in files.items():
        if other is not kind:
            Path("a.file").write_bytes(octets)
            assert main(command) == USAGE
            assert f"a.file is no {kind.name}, but a {other.name}; name the " in told(capsys)
    Path("a.file").write_bytes(files[kind][:-1])
    assert main(command) == USAGE
    assert "a.file is damaged" in told(capsys)
    Path("a.file").write_bytes(b"cmrequest")
    assert main(command) == USAGE
    assert f"a.file is no {kind.name}; name the " in told(capsys)
    with Path("a.file").open("wb") as file:
        file.truncate(2**40)
    assert main(command) == USAGE
    assert f"has more than 262144 bytes, so it is no {kind.name}" in told(capsys)
    Path("a.file").unlink()
    assert main(command) == USAGE
    assert "cannot be read: No such file" in told(capsys)
    assert not Path("out").exists()


def test_what_is_there_is_not_overwritten(served: Served, capsys: Captured) -> None:
    """By another kind of file, or before it is known that it can be written: then nothing is lent or given back."""
    control = ("--server", f"unix:{served.daemon.control}")
    assert main([*BORROW, "--file", "a.request"]) == FOUND
    assert main([*BORROW, "--file", "licensor.key"]) == USAGE
    assert main(["--lend", "a.request", "--file", "a.request", *control]) == USAGE
    assert main(["--lend", "a.request", "--file", "no/such", *control]) == UNWRITTEN
    assert served.counts(capsys) == (0, 2, 0)
    assert main(["--lend", "a.request", "--file", "a.grant", *control]) == FOUND
    assert main(["--take", "a.grant"]) == FOUND
    loan = only(capsys)["id"]
    assert main(["--return", loan, "--file", "a.grant"]) == USAGE
    assert main(["--return", loan, "--file", "no/such"]) == UNWRITTEN
    assert served.found() is not None


# --- the command line ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--borrow", "--duration", "1d"], "--borrow wants --firmcode and --productcode"),
        (BORROW[:-2], "--borrow and --extend want --duration"),
        (["--extend", "a"], "--borrow and --extend want --duration"),
        (["--loans", "--duration", "1d"], "--borrow and --extend want --duration, and it goes with nothing else"),
        ([*BORROW[:-1], "60s"], "'60s' is no such time; write it as in 3d, 12h, 90m or 90s, more than 60s"),
        ([*BORROW[:-1], "1w"], "'1w' is no such time"),
        ([*BORROW[:-1], "99999d"], "'99999d' is no such time"),
        (["--return", "x"], "'x' is no ID of a loan; cmu --loans lists them"),
        (["--lend", "x"], "--lend wants --file, for the grant"),
        (["--take", "x", "--file", "y"], "--file goes with --borrow, --extend, --return or --lend"),
        (["--lend", "x", "--file", "y", "--server", "alpha"], "cannot be read"),
        (["--return", "a", "--loans"], "not allowed with argument"),
    ],
)
def test_a_wrong_command_line_is_told(arguments: list[str], said: str, capsys: Captured) -> None:
    """One sentence on standard error that says what would be right."""
    assert main(arguments) == USAGE
    assert said in told(capsys)


def test_an_id_must_be_clear(capsys: Captured) -> None:
    """As many digits as it takes."""
    for product in range(17):
        assert main([*BORROW, "--productcode", str(product), "--file", f"{product}.request"]) == FOUND
    capsys.readouterr()
    ids = [loan["id"] for loan in document(capsys, "--loans")["loans"]]
    twice = next(digit for digit in "0123456789abcdef" if sum(one[0] == digit for one in ids) > 1)
    assert main(["--return", twice]) == USAGE
    assert f"loans whose ID begins with {twice}; write more of it" in told(capsys)


def test_the_server_that_lent_it_is_asked(capsys: Captured) -> None:
    """Without --server, by the address that was kept; another one only if it is named."""
    lender = Lender()
    asked: list[Params[Any]] = []

    def answer(params: Params[Any]) -> Borrowed | GivenBack | Any:
        asked.append(params)
        if isinstance(params, Borrow):
            return lender.lend(params, Station("laptop"), now=params.time)
        return GivenBack(stood=True)

    with serving(answer) as address:
        assert main([*BORROW, "--server", address]) == FOUND
        loan = only(capsys)["id"]
        assert main(["--extend", loan, "--duration", "4d"]) == FOUND
        assert main(["--return", loan]) == FOUND
    kinds = [type(params) for params in asked if not isinstance(params, KeepAlive)]
    assert kinds == [Borrow, Borrow, GiveBack]


def test_every_command_is_there() -> None:
    """What the parser knows is run here."""
    assert len(borrowing.COMMANDS) == len(set(borrowing.COMMANDS)) == 7
