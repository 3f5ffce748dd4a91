"""How `cmu` takes licenses along and gives them back, for the user who runs it: asking a server, or by files.

The licensor's key is not known here: it is the application that checks his signature when it uses a loan, and all else
is checked here. The files are written and read by `protocol.loan_files`; who lends by them is an operator.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final, TypeVar

from msgspec import Struct
from rich.console import Console
from rich.text import Text

from cmserverd.cmu import files, updating
from cmserverd.cmu.folding import FoldingTable
from cmserverd.cmu.options import LOUD, instant
from cmserverd.cmu.outcome import Misused, NotThere
from cmserverd.cmu.tables import print_table
from protocol import signed
from protocol.blocking import Client
from protocol.loan_files import GRANT, LIMIT, RECEIPT, REQUEST, Kind, Unreadable
from protocol.loans import LoanInfo, Loans, LoanState
from protocol.messages import Borrow, Lend, LoanId
from protocol.proof import Wanted
from protocol.station import client as this_client
from protocol.station import station as this_station
from protocol.terms import printable

T = TypeVar("T", bound=Struct)

COMMANDS: Final = ("--borrow", "--loans", "--return", "--extend", "--take", "--lend", "--take-back")

_SHOWN: Final = 8
"""Digits of a loan's ID in a table; each command takes as many as make it clear."""


class LoanListing(Struct, frozen=True):
    """What the user who runs `cmu` has borrowed."""

    loans: tuple[LoanInfo, ...]


class Taken(Struct, frozen=True):
    """A license that was taken along, until a time (Unix seconds) from which on it is honoured no more."""

    loan: LoanInfo

    def sentence(self) -> str:
        """Say it to people."""
        until = instant(self.loan.until or 0)
        return f"{_license(self.loan)} can be used until {until} UTC, as loan {_short(self.loan)}."


class Asked(Struct, frozen=True):
    """A request, or a receipt, that was written to a file."""

    id: str
    file: str
    receipt: bool

    def sentence(self) -> str:
        """Say it to people."""
        if self.receipt:
            return f"The loan cannot be used any more; its receipt is in {self.file}: send it to the server's operator."
        return f"The request is in {self.file}; send it to the server's operator, who answers with a grant."


class GivenBack(Struct, frozen=True):
    """A loan that was given back; whether the server still counted it."""

    id: str
    stood: bool

    def sentence(self) -> str:
        """Say it to people."""
        return "The license is free." if self.stood else "The server did not count this loan any more."


class Granted(Struct, frozen=True):
    """What an operator lent, to whom, until its end (Unix seconds), and the file in which the grant is."""

    id: str
    client: str
    station: str
    container: str
    firm_code: int
    product_code: int
    item: int
    number: int
    end: int
    file: str

    def sentence(self) -> str:
        """Say it to people."""
        what = f"Firm Code {self.firm_code}, Product Code {self.product_code} of {self.container}"
        end = f"until {instant(self.end)} UTC"
        return printable(
            f"{what} is lent to {self.client} {end}; the grant is in {self.file}: send it to the borrower."
        )


Done = Taken | Asked | GivenBack | Granted


def run(options: argparse.Namespace) -> LoanListing | Done:
    """Do what the options say. Raises Ended, LicenseError, SettingError."""
    match options.command:
        case "--lend":
            return _lend(options)
        case "--take-back":
            receipt = _read(options.take_back, RECEIPT, "the receipt that the borrower sent")
            answer = updating.ask(updating.control_socket(options.server), receipt, options.timeout)
            return GivenBack(receipt.id.hex(), answer.stood)
    loans = Loans()
    match options.command:
        case "--loans":
            return LoanListing(loans.list())
        case "--borrow":
            return _borrow(loans, options)
        case "--extend":
            return _extend(loans, _loan(loans, options.extend), options)
        case "--return":
            return _give_back(loans, _loan(loans, getattr(options, "return")), options)
        case _:
            return _take(loans, options)


def show(out: Console, listing: LoanListing) -> None:
    """Print what is borrowed."""
    table = FoldingTable(
        "=ID", "#Firm Code", "#Product Code", "=CmContainer", "#Item", "~Usable Until", "Server", "State"
    )
    for one in listing.loans:
        until = instant(one.until) if one.until is not None else ""
        what = ("" if word is None else word for word in (one.firm_code, one.product_code, one.container, one.item))
        table.row(_short(one), *what, until, one.server or "", _state(one))
    if table.rows:
        print_table(out, table)
        out.print()
    out.print(f"Result: {len(listing.loans)} loan(s) listed; times are UTC.")


# --- the borrower -------------------------------------------------------------------------------------------------


def _borrow(loans: Loans, options: argparse.Namespace) -> Taken | Asked:
    wanted = Wanted(options.firmcode, options.productcode, container=options.serial)
    if options.file is not None:
        with (
            files.new_file(options.file, REQUEST.beginning, REQUEST.name) as write,
            loans.asking(wanted, options.duration) as asked,
        ):
            write(REQUEST.encode(_by_file(asked)))
        return Asked(asked.id.hex(), str(options.file), receipt=False)
    with (
        Client(options.server, application="cmu", timeout=options.timeout) as client,
        loans.asking(wanted, options.duration, str(client.address)) as asked,
    ):
        loans.keep(asked.id, client.call(asked), None)
    return Taken(loans.info(asked.id))


def _extend(loans: Loans, loan: LoanInfo, options: argparse.Namespace) -> Taken | Asked:
    asked = loans.extension(_id(loan), options.duration)
    if options.file is not None:
        with files.new_file(options.file, REQUEST.beginning, REQUEST.name) as write:
            write(REQUEST.encode(_by_file(asked)))
        return Asked(loan.id, str(options.file), receipt=False)
    with Client(options.server or loan.server, application="cmu", timeout=options.timeout) as client:
        loans.keep(asked.id, client.call(asked), None)
    return Taken(loans.info(asked.id))


def _give_back(loans: Loans, loan: LoanInfo, options: argparse.Namespace) -> GivenBack | Asked:
    if options.file is not None:
        with files.new_file(options.file, RECEIPT.beginning, RECEIPT.name) as write:
            write(RECEIPT.encode(loans.receipt(_id(loan))))
        return Asked(loan.id, str(options.file), receipt=True)
    with (
        loans.returning(_id(loan)) as receipt,  # from here on it is of no use here, whether a server is there or not
        Client(options.server or loan.server, application="cmu", timeout=options.timeout) as client,
    ):
        answer = client.call(receipt)
    return GivenBack(loan.id, answer.stood)


def _take(loans: Loans, options: argparse.Namespace) -> Taken:
    grant = _read(options.take, GRANT, "the grant that the operator sent")
    try:
        loan = LoanId(signed.certificate(grant.message).id)
    except signed.Malformed as error:
        raise Misused(f"{options.take} is no grant: {error}") from None
    if loan.hex() not in {one.id for one in loans.list()}:
        raise NotThere(f"{options.take} answers no request of yours; who asked must take it, on the same machine")
    loans.keep(loan, grant, None, online=False)
    return Taken(loans.info(loan))


def _by_file(asked: Borrow) -> Lend:
    """Return a request for somebody who does not know who asks."""
    return Lend(
        id=asked.id,
        holder=asked.holder,
        seconds=asked.seconds,
        client=this_client("cmu"),
        station=this_station(),
        firm_code=asked.firm_code,
        product_code=asked.product_code,
        feature_code=asked.feature_code,
        container=asked.container,
        item=asked.item,
        release_date=asked.release_date,
    )


def _loan(loans: Loans, digits: str) -> LoanInfo:
    """Return the loan whose ID begins so. Raises NotThere, Misused."""
    found = [one for one in loans.list() if one.id.startswith(digits)]
    if not found:
        raise NotThere(f"you have no loan {digits} (cmu --loans lists them)")
    if len(found) > 1:
        raise Misused(f"there are {len(found)} loans whose ID begins with {digits}; write more of it")
    return found[0]


def _id(loan: LoanInfo) -> LoanId:
    return LoanId(bytes.fromhex(loan.id))


# --- the operator -------------------------------------------------------------------------------------------------


def _lend(options: argparse.Namespace) -> Granted:
    request = _read(options.lend, REQUEST, "the request that the borrower sent")
    control = updating.control_socket(options.server)
    with files.new_file(options.file, GRANT.beginning, GRANT.name) as write:
        lent = updating.ask(control, request, options.timeout)
        write(GRANT.encode(lent))
    return Granted(
        request.id.hex(),
        f"{request.client.host} \\ {request.client.user}",
        f"{request.station.machine}/{request.station.seat}",
        lent.container,
        request.firm_code,
        request.product_code,
        lent.item,
        lent.number,
        lent.end,
        str(options.file),
    )


# --- files and words ----------------------------------------------------------------------------------------------


def _read(path: Path, kind: Kind[T], named: str) -> T:
    """Return what is in a file of borrowing. Raises Misused."""
    try:
        return kind.decode(files.read(path, kind.name, named, LIMIT))
    except Unreadable as error:
        raise Misused(f"{path} {error}; name {named}") from None


def _license(loan: LoanInfo) -> str:
    return f"Firm Code {loan.firm_code}, Product Code {loan.product_code} of {loan.container}"


def _short(loan: LoanInfo) -> str:
    return loan.id[:_SHOWN]


def _state(loan: LoanInfo) -> str | Text:
    match loan.state:
        case LoanState.BORROWED:
            return "borrowed"
        case LoanState.ASKED:
            return "asked for, not answered"
        case LoanState.GIVEN_BACK:
            return "given back; the server has not confirmed it"
        case LoanState.OVER:
            return Text("OVER", LOUD)
        case _:
            return Text(printable(f"NOT VALID: {loan.text}"), LOUD)
