"""The command line of `cmu` taken apart: every option, and which go together."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Final, NoReturn

from cmserverd.cmu.outcome import Misused
from cmserverd.cmu.tracking import FORMATS, moment
from cmserverd.cmu.usage import SPANS
from protocol.certificate import SKEW
from protocol.deallocation import LONGEST_HOLD_OFF

HELP: Final = """\
The server asked is the one that --server names; else the daemon of this machine by its monitor socket, if there is one
in $CMSERVERD_RUN_DIRECTORY (default /run/cmserverd) that you may open; else the first that answers of those that every
client here asks (cmu -k shows them): $CMSERVERD_SERVER names one; several stand in client.toml, of the user
(~/.config/cmserverd) or of the machine (/etc/xdg/cmserverd); else it is this machine.

--tracking, --usage, --verify-tracking, --events and -n --watch ask the daemon of this machine by monitor.sock in that
directory, or by the socket that --server names (unix:/path).

-c, -i, --deallocate, --reload, --lend and --take-back change something: they ask the daemon of this machine by
control.sock in that directory, or by the socket that --server names (unix:/path), and nobody else.

--borrow, --extend and --return ask a server as every client does, the last two the one that lent it. With --file they
ask nobody: they write what the operator of a server takes, --lend a request and --take-back a receipt; --take takes his
grant.

exit codes:
  0  something was found, or it is done
  1  nothing was found: no container, no license
  2  the command line, a setting or a file that it names is wrong
  3  no server was reached, or the connection broke
  4  the server refused; the message has the error number
  5  the output could not be written
  6  license tracking is not as it was written
"""

HISTORY: Final = ("--tracking", "--usage", "--verify-tracking")
LISTINGS: Final = ("--list", "--list-content", "--list-network")


class _Parser(argparse.ArgumentParser):
    """A parser that raises where the original exits, so that the error can be told as JSON too."""

    def error(self, message: str) -> NoReturn:
        raise Misused(f"{message}; see cmu --help")


def parse(given: list[str]) -> argparse.Namespace:
    """Return the options; `command` is the long name of what is to be done. Raises Misused; --help exits."""
    parser = _Parser(
        prog="cmu",
        usage="cmu COMMAND [OPTION...]",
        add_help=False,
        description="Shows containers, licenses and who holds them, and brings licensors' updates to containers.",
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    group = parser.add_argument_group("commands, one of them")
    group.add_argument("-h", "--help", action="help", help="show this help")
    commands = group.add_mutually_exclusive_group()
    for short, name, text in (
        ("-l", "--list", "list the containers"),
        ("-x", "--list-content", "list the contents of the containers"),
        ("-n", "--list-network", "list the licenses and the accesses to them"),
        ("-k", "--list-server", "list the servers that a client on this machine asks, in their order"),
        ("-v", "--version", "show the version of this tool"),
        (None, "--tracking", "write out who had which license when, and who was denied one"),
        (None, "--usage", "show the most and the mean use of each license, and how often it was denied"),
        (None, "--events", "write out the last lines of the daemon's log"),
        (None, "--reload", "have the daemon read its configuration anew, and say what a restart is needed for"),
        (None, "--verify-tracking", "check that license tracking is as it was written"),
        (None, "--borrow", "take a license along for a time, to be used on this machine without a connection"),
        (None, "--loans", "list what you have borrowed"),
    ):
        commands.add_argument(*filter(None, (short, name)), dest="command", action="store_const", const=name, help=text)
    for short, name, text in (
        ("-c", "--context", "write a container's request file, to be sent to its licensor; an earlier one is replaced"),
        ("-i", "--import", "apply an update file that came from a licensor"),
    ):
        commands.add_argument(short, name, type=_path, metavar="FILE", help=text)
    commands.add_argument(
        "--deallocate", type=_handle, metavar="ID", help="take a license from who holds it, with all its instances"
    )
    for name, kind, what, text in (
        ("--extend", _loan, "LOAN", "have a loan end later; cmu --loans has its ID"),
        ("--return", _loan, "LOAN", "give a loan back; it cannot be used from then on, whatever becomes of the server"),
        ("--take", _path, "GRANT", "take what an operator lent upon your request"),
        ("--lend", _path, "REQUEST", "lend a license to who asked in a file"),
        ("--take-back", _path, "RECEIPT", "take a license back from who gave it back in a file"),
    ):
        commands.add_argument(name, type=kind, metavar=what, help=text)
    further = parser.add_argument_group("options, with the commands in brackets, or with all")
    parts = further.add_mutually_exclusive_group()
    for name, what, text in (
        ("--only-access", "access", "only this one instance of it (--deallocate)"),
        ("--whole-client", "session", "all that its client holds (--deallocate)"),
    ):
        parts.add_argument(name, dest="what", action="store_const", const=what, help=text)
    further.add_argument(
        "--hold-off",
        type=_hold_off,
        metavar="SECONDS",
        help="give its station no new license of the product for so long (--deallocate)",
    )
    further.add_argument(
        "--watch", action="store_true", help="go on, and show what changes (-n on a terminal, --events)"
    )
    further.add_argument("--yes", action="store_true", help="do not ask before (--deallocate)")
    further.add_argument(
        "-s", "--serial", type=_serial, metavar="ID", help="only this container, as 3-3448482 (-l -x -n -c --borrow)"
    )
    further.add_argument("--time", action="store_true", help="ask the licensor for a certified time too (-c)")
    further.add_argument(
        "--firmcode", type=_code, metavar="FC", help="only licenses with this Firm Code (-n, --borrow)"
    )
    further.add_argument("--productcode", type=_code, metavar="PC", help="the same with a Product Code (-n, --borrow)")
    further.add_argument("--relevant", action="store_true", help="only accesses that are relevant to licensing (-n)")
    further.add_argument(
        "--duration", type=_duration, metavar="TIME", help="for how long from now on, as in 3d (--borrow, --extend)"
    )
    further.add_argument(
        "--file",
        type=_path,
        metavar="FILE",
        help="write a request (--borrow, --extend), a receipt (--return) or a grant (--lend) there",
    )
    further.add_argument("--format", choices=FORMATS, help="how to write it (--tracking; csv: --usage too)")
    further.add_argument("--by", choices=SPANS, help="how long the spans are, day unless you say other (--usage)")
    further.add_argument("--since", type=moment, metavar="TIME", help="only from then on, UTC (--tracking, --usage)")
    further.add_argument(
        "--until", type=moment, metavar="TIME", help="only until before then, UTC (--tracking, --usage)"
    )
    further.add_argument("--server", metavar="ADDRESS", help="host, host:port, [IPv6]:port or unix:/path")
    further.add_argument(
        "--timeout",
        type=_seconds,
        metavar="SECONDS",
        help="how long to wait for each answer (default 10; 3600 for license tracking and usage)",
    )
    further.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    options, unknown = parser.parse_known_args(given)
    if unknown:  # told before anything that is missing: it may be what was meant
        parser.error(f"there is no option {unknown[0]!r}")
    for name in ("context", "import", "deallocate", "extend", "return", "take", "lend", "take_back"):
        if getattr(options, name) is not None:
            options.command = f"--{name.replace('_', '-')}"
    if options.command is None:
        parser.error("say what to do: a command, as in cmu -n")
    if options.serial is not None and options.command not in (*LISTINGS, "--context", "--borrow"):
        parser.error("--serial goes with -l, -x, -n, -c or --borrow")
    if options.watch and (options.command not in ("--list-network", "--events")):
        parser.error("--watch goes with -n or --events")
    if options.watch and options.json and options.command == "--list-network":
        parser.error("-n --watch is for people; programs ask for --json each time")
    if options.time and options.command != "--context":
        parser.error("--time goes with -c")
    if options.relevant and options.command != "--list-network":
        parser.error("--relevant goes with -n")
    coded = options.firmcode is not None or options.productcode is not None
    if coded and options.command not in ("--list-network", "--borrow"):
        parser.error("--firmcode and --productcode go with -n or --borrow")
    _check_borrowing(parser, options)
    _complete_history(parser, options)
    if options.command != "--deallocate" and (options.what or options.hold_off is not None or options.yes):
        parser.error("--only-access, --whole-client, --hold-off and --yes go with --deallocate")
    options.what, options.hold_off = options.what or "allocation", options.hold_off or 0
    return options


def _check_borrowing(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Check what is about taking licenses along. Raises Misused."""
    if options.command == "--borrow" and None in (options.firmcode, options.productcode):
        parser.error("--borrow wants --firmcode and --productcode")
    if (options.duration is not None) != (options.command in ("--borrow", "--extend")):
        parser.error("--borrow and --extend want --duration, and it goes with nothing else")
    if options.file is not None and options.command not in ("--borrow", "--extend", "--return", "--lend"):
        parser.error("--file goes with --borrow, --extend, --return or --lend")
    if options.file is None and options.command == "--lend":
        parser.error("--lend wants --file, for the grant")


def _complete_history(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Check and complete what is about license tracking and usage. Raises Misused."""
    chosen = options.format or options.since is not None or options.until is not None
    if options.command not in ("--tracking", "--usage") and chosen:
        parser.error("--format, --since and --until go with --tracking or --usage")
    if options.by and options.command != "--usage":
        parser.error("--by goes with --usage")
    if options.command == "--usage" and (options.format not in (None, "csv") or (options.format and options.json)):
        parser.error("--usage has --json, or --format csv")
    if options.json and options.command == "--tracking":
        if options.format not in (None, "jsonl"):
            parser.error("--json goes with --format jsonl")
        options.format = "jsonl"
    if options.timeout is None:
        options.timeout = 3_600.0 if options.command in HISTORY else 10.0


def _path(text: str) -> Path:
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is no file's name")
    return Path(text)


def _serial(text: str) -> str:
    if not re.fullmatch(r"[0-9]{1,5}-[0-9]{1,10}(-[0-9]{1,10})?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no container; write its mask and serial, as in 3-3448482")
    return text


def _code(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,10}", text) or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text!r} is no code; write a whole number from 0 to 4294967295")
    return int(text)


def _handle(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,15}", text) or int(text) >= 2**53:
        raise argparse.ArgumentTypeError(f"{text!r} is no ID of an access; cmu -n lists them")
    return int(text)


def _hold_off(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) > LONGEST_HOLD_OFF:
        raise argparse.ArgumentTypeError(f"{text!r} is no hold-off; write whole seconds up to {LONGEST_HOLD_OFF}")
    return int(text)


def _loan(text: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{1,32}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no ID of a loan; cmu --loans lists them")
    return text


def _duration(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,10})([smhd])", text)
    seconds = int(match[1]) * {"s": 1, "m": 60, "h": 3_600, "d": 86_400}[match[2]] if match else 0
    if not SKEW < seconds < 2**32:  # it is used until so much before its end
        how = f"write it as in 3d, 12h, 90m or 90s, more than {SKEW}s"
        raise argparse.ArgumentTypeError(f"{text!r} is no such time; {how}")
    return seconds


def _seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]*)?", text) or not 0.01 <= float(text) <= 3_600:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; write seconds from 0.01 to 3600")
    return float(text)
