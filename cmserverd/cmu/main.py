"""Runs `cmu`: which server it asks, what goes where, and with which exit code it ends."""

from __future__ import annotations

import argparse
import os
import sys
from importlib.metadata import version
from io import TextIOWrapper

from cmserverd.cmu import borrowing, deallocating, fetch, json_output, tables, tracking, updating, usage, watching
from cmserverd.cmu.outcome import (
    FOUND,
    INTERRUPTED,
    NOTHING,
    REFUSED,
    UNREACHED,
    UNSOUND,
    UNWRITTEN,
    USAGE,
    Ended,
    Misused,
)
from cmserverd.cmu.parser import HISTORY, parse
from protocol.address import named
from protocol.blocking import Client
from protocol.errors import ErrorNumber, LicenseError, SettingError
from protocol.messages import ErrorBody, ServerInfo, ServerInfoRequest


def main(arguments: list[str] | None = None) -> int:
    """Run the tool; return its exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # what the terminal's encoding lacks is spelled out
    try:
        code = _run(parse(given))
        sys.stdout.flush()
    except Ended as error:
        body = ErrorBody(error.number.value, error.number.name, str(error))
        return _fail(body, error.code, as_json="--json" in given)
    except SettingError as error:
        name = ErrorNumber.INVALID_PARAMETER
        return _fail(ErrorBody(name.value, name.name, str(error)), USAGE, as_json="--json" in given)
    except LicenseError as error:
        broken = error.number in (ErrorNumber.NETWORK_FAULT, ErrorNumber.SERVER_NOT_FOUND)
        return _fail(error.body, UNREACHED if broken else REFUSED, as_json="--json" in given)
    except BrokenPipeError:
        # Whoever reads has seen enough (`| head`); what is still buffered must not fail at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FOUND
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # likewise
        name = ErrorNumber.INTERNAL
        text = f"cannot write: {error.strerror}"
        return _fail(ErrorBody(name.value, name.name, text), UNWRITTEN, as_json="--json" in given)
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


def _run(options: argparse.Namespace) -> int:
    """Do what the options say. Raises Ended, LicenseError, SettingError."""
    if options.command == "--version":
        text = version("cmserverd")
        _print(json_output.version(text) if options.json else f"cmu {text}")
        return FOUND
    if options.command == "--list-server":
        return _list_servers(options)
    if options.command in ("--context", "--import"):
        done = updating.request(options) if options.command == "--context" else updating.update(options)
        _print(json_output.done(done) if options.json else done.sentence())
        return FOUND
    if options.command == "--deallocate":
        freed = deallocating.deallocate(options)
        _print(json_output.done(freed) if options.json else freed.sentence())
        return FOUND
    if options.command in borrowing.COMMANDS:
        return _borrow(options)
    if options.command == "--reload":
        taken = watching.reload(options)
        _print(json_output.done(taken) if options.json else taken.sentence())
        return FOUND
    if options.command == "--events":
        return FOUND if watching.events(options, sys.stdout) else NOTHING
    if options.command in HISTORY:
        return _tell_history(options)
    chosen = fetch.Selection(options.serial, options.firmcode, options.productcode, options.relevant)
    if options.watch:
        if not sys.stdout.isatty():
            raise Misused("--watch wants a terminal; elsewhere ask for -n each time")
        watching.watch(options, chosen, tables.console(sys.stdout))
    found: fetch.Listing
    with Client(_server(options.server), application="cmu", timeout=options.timeout) as client:
        match options.command:
            case "--list":
                found = fetch.containers(client, chosen)
            case "--list-content":
                found = fetch.contents(client, chosen)
            case _:
                found = fetch.network(client, chosen)
    if options.json:
        _print(json_output.listing(found))
    else:
        tables.show(tables.console(sys.stdout), found)
    return FOUND if fetch.found_any(found) else NOTHING


def _borrow(options: argparse.Namespace) -> int:
    done = borrowing.run(options)
    if not isinstance(done, borrowing.LoanListing):
        _print(json_output.done(done) if options.json else done.sentence())
        return FOUND
    if options.json:
        _print(json_output.loans(done))
    else:
        borrowing.show(tables.console(sys.stdout), done)
    return FOUND if done.loans else NOTHING


def _tell_history(options: argparse.Namespace) -> int:
    match options.command:
        case "--tracking":
            return FOUND if tracking.export(options, sys.stdout.write) else NOTHING
        case "--verify-tracking":
            proof = tracking.verify(options)
            _print(json_output.proof(proof) if options.json else tracking.sentence(proof))
            return FOUND if proof.sound else UNSOUND
        case _:
            listing = usage.ask(options)
            if options.json:
                _print(json_output.usage(listing))
            elif options.format == "csv":
                sys.stdout.writelines(usage.csv(listing))
            else:
                usage.show(tables.console(sys.stdout), listing)
            return FOUND if listing.rows else NOTHING


def _list_servers(options: argparse.Namespace) -> int:
    def ask(address: str) -> ServerInfo:
        with Client(address, application="cmu", timeout=options.timeout) as client:
            return client.call(ServerInfoRequest())

    source, addresses = named(options.server)
    found = fetch.servers(
        [str(address) for address in addresses], "--server" if options.server is not None else source, ask
    )
    if options.json:
        _print(json_output.servers(found))
    else:
        tables.show_servers(tables.console(sys.stdout), found)
    return FOUND if any(one.info for one in found) else UNREACHED


def _server(asked: str | None) -> str | None:
    """Return the server to ask, None for the client's own order."""
    if asked is not None:
        return asked
    monitor = updating.run_directory() / updating.MONITOR
    return f"unix:{monitor}" if os.access(monitor, os.W_OK) else None


def _fail(body: ErrorBody, code: int, *, as_json: bool) -> int:
    sys.stderr.write((json_output.error(body) if as_json else f"cmu: {LicenseError(body)}") + "\n")
    return code


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
