"""The command line of `cmu`: its options, which server it asks, what goes where, and its exit codes."""

from __future__ import annotations

import argparse
import os
import re
import sys
from importlib.metadata import version
from io import TextIOWrapper
from pathlib import Path
from typing import Final, NoReturn

from cmserverd.cmu import fetch, json_output, tables
from protocol.address import candidates
from protocol.blocking import Client
from protocol.errors import ErrorNumber, LicenseError, SettingError
from protocol.messages import ErrorBody, ServerInfo, ServerInfoRequest

FOUND, NOTHING, USAGE, UNREACHED, REFUSED, UNWRITTEN = range(6)
INTERRUPTED: Final = 130
"""What shells give for a program that Ctrl-C has ended."""

HELP: Final = """\
The server asked is the one that --server names; else the daemon of this machine by its monitor socket, if there is one
in $CMSERVERD_RUN_DIRECTORY (default /run/cmserverd) that you may open; else the first that answers of those that every
client here asks (cmu -k shows them): $CMSERVERD_SERVER names one; several stand in client.toml, of the user
(~/.config/cmserverd) or of the machine (/etc/xdg/cmserverd); else it is this machine.

exit codes:
  0  something was found
  1  nothing was found: no container, no license
  2  the command line or a setting is wrong
  3  no server was reached, or the connection broke
  4  the server refused; the message has the error number
  5  the output could not be written
"""


class _Misused(Exception):
    """The command line is wrong; the text says what would be right."""


class _Parser(argparse.ArgumentParser):
    """A parser that raises where the original exits, so that the error can be told as JSON too."""

    def error(self, message: str) -> NoReturn:
        raise _Misused(f"{message}; see cmu --help")


def main(arguments: list[str] | None = None) -> int:
    """Run the tool; return its exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # what the terminal's encoding lacks is spelled out
    try:
        code = _run(_parse(given))
        sys.stdout.flush()
    except (_Misused, SettingError) as error:
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


def _parse(given: list[str]) -> argparse.Namespace:
    parser = _Parser(
        prog="cmu",
        description="Shows containers, licenses and who holds them.",
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_mutually_exclusive_group()
    for short, name, text in (
        ("-l", "--list", "list the containers"),
        ("-x", "--list-content", "list the contents of the containers"),
        ("-n", "--list-network", "list the licenses and the accesses to them"),
        ("-k", "--list-server", "list the servers that a client on this machine asks, in their order"),
        ("-v", "--version", "show the version of this tool"),
    ):
        commands.add_argument(short, name, dest="command", action="store_const", const=name, help=text)
    parser.add_argument(
        "-s", "--serial", type=_serial, metavar="ID", help="only this container, as 3-3448482 (-l -x -n)"
    )
    parser.add_argument("--firmcode", type=_code, metavar="FC", help="only licenses with this Firm Code (-n)")
    parser.add_argument("--productcode", type=_code, metavar="PC", help="only licenses with this Product Code (-n)")
    parser.add_argument("--relevant", action="store_true", help="only accesses that are relevant to licensing (-n)")
    parser.add_argument("--server", metavar="ADDRESS", help="host, host:port, [IPv6]:port or unix:/path")
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=10.0,
        metavar="SECONDS",
        help="how long to wait for each answer (default 10)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    options, unknown = parser.parse_known_args(given)
    if unknown:  # told before anything that is missing: it may be what was meant
        parser.error(f"there is no option {unknown[0]!r}")
    if options.command is None:
        parser.error("say what to list: -l, -x, -n, -k or -v")
    if options.serial is not None and options.command not in ("--list", "--list-content", "--list-network"):
        parser.error("--serial goes with -l, -x or -n")
    narrowed = options.firmcode is not None or options.productcode is not None or options.relevant
    if narrowed and options.command != "--list-network":
        parser.error("--firmcode, --productcode and --relevant go with -n")
    return options


def _run(options: argparse.Namespace) -> int:
    """Do what the options say. Raises LicenseError, SettingError."""
    if options.command == "--version":
        text = version("cmserverd")
        _print(json_output.version(text) if options.json else f"cmu {text}")
        return FOUND
    if options.command == "--list-server":
        return _list_servers(options)
    chosen = fetch.Selection(options.serial, options.firmcode, options.productcode, options.relevant)
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


def _list_servers(options: argparse.Namespace) -> int:
    def ask(address: str) -> ServerInfo:
        with Client(address, application="cmu", timeout=options.timeout) as client:
            return client.call(ServerInfoRequest())

    found = fetch.servers([str(address) for address in candidates(options.server)], ask)
    if options.json:
        _print(json_output.servers(found))
    else:
        tables.show_servers(tables.console(sys.stdout), found)
    return FOUND if any(one.info for one in found) else UNREACHED


def _server(named: str | None) -> str | None:
    """Return the server to ask, None for the client's own order."""
    if named is not None:
        return named
    monitor = Path(os.environ.get("CMSERVERD_RUN_DIRECTORY") or "/run/cmserverd").absolute() / "monitor.sock"
    return f"unix:{monitor}" if os.access(monitor, os.W_OK) else None


def _fail(body: ErrorBody, code: int, *, as_json: bool) -> int:
    sys.stderr.write((json_output.error(body) if as_json else f"cmu: {LicenseError(body)}") + "\n")
    return code


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")


def _serial(text: str) -> str:
    if not re.fullmatch(r"[0-9]{1,5}-[0-9]{1,10}(-[0-9]{1,10})?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no container; write its mask and serial, as in 3-3448482")
    return text


def _code(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,10}", text) or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text!r} is no code; write a whole number from 0 to 4294967295")
    return int(text)


def _seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]*)?", text) or not 0.01 <= float(text) <= 3_600:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; write seconds from 0.01 to 3600")
    return float(text)
