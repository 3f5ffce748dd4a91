"""The command line: its subcommands, and the options of each."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn

from msgspec import Struct

from cmserverd.cmboxpgm import values

HELP: Final = """\
cmboxpgm COMMAND --help shows the options of a command; docs/licensors.md goes the whole way, step by step.

exit codes:
  0  it is done
  1  it is not done: something is not there, is damaged, or refuses; nothing is changed
  2  the command line is wrong
"""


class Misused(Exception):
    """The command line is wrong; the text says what would be right."""


class _Once(argparse.Action):
    """Stores what is typed for an option. Given once more, it would silently have another value than was said."""

    _typed = False

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        if self._typed:
            parser.error(f"{option_string} is given twice, and only one of them could count; leave one out")
        self._typed = True
        setattr(namespace, self.dest, values)


class _Parser(argparse.ArgumentParser):
    """A parser of one command line.

    It raises where the original exits, so that the error can be told as JSON too, and takes each option once.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.register("action", None, _Once)

    def error(self, message: str) -> NoReturn:
        raise Misused(f"{message.removesuffix('.')}; see {self.prog} --help")


class _Option(Struct, frozen=True):
    """An option of a product item: its name as in `drivers.container.ProductItem`, and what is typed for it."""

    name: str
    kind: Callable[[str], Any]
    metavar: str | tuple[str, ...]
    text: str

    @property
    def flag(self) -> str:
        return self.name.replace("_", "-")


_OPTIONS: Final = (
    _Option("text", values.text, "TEXT", "the name shown in listings"),
    _Option("quantity", values.count, "N", "licenses; 0: for the local machine only; without it 1"),
    _Option("denied", values.modes, "MODES", f"access modes that it denies, with commas, of {', '.join(values.MODES)}"),
    _Option("feature_map", values.count, "BITS", "32 feature bits, as in 0x3"),
    _Option("activation", values.date, "DATE", "valid from then on"),
    _Option("expiration", values.date, "DATE", "valid up to, and no longer at, this second"),
    _Option("usage", values.duration, "TIME", "valid for so long after its first use, which begins anew with this"),
    _Option("maintenance", values.date, ("START", "END"), "serves software that was released from START, before END"),
    _Option("units", values.units, "N", "so many may be used up; they are counted anew with this"),
    _Option("linger", values.duration, "TIME", "for how long a license stays occupied after its release"),
    _Option("borrowing", values.borrowing, "TIME[,N]", "may be borrowed for so long, and N at a time; without N all"),
    _Option("minimum_runtime", values.runtime, "VERSION", "the oldest server that may hand it out, as in 0.2"),
    _Option("protected_data", values.data, "DATA", "what applications read: a text, or @FILE; up to 256 bytes"),
    _Option("user_data", values.data, "DATA", "likewise"),
)
_LOCAL_ONLY: Final = "local_only"
_NAMES: Final = (*(option.name for option in _OPTIONS), _LOCAL_ONLY)


def parse(given: Sequence[str]) -> argparse.Namespace:
    """Return the command's options; `command` is its name. Raises Misused."""
    parser = _Parser(
        prog="cmboxpgm",
        description="Programs containers: the licensor's tool.",
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="store_true", help="show the version of this tool")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of text")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    def command(name: str, text: str, *, epilog: str | None = None) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text, epilog=epilog, allow_abbrev=False)
        added.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        return added

    _keygen(command("keygen", "Make a licensor's key pair."))
    _create(command("create", "Make an empty container: a virtual one, or of an empty dongle."))
    _enroll(command("enroll", "Take a container into the ledger: its requests are answered from then on."))
    _item(
        command(
            "item",
            "Add a product item, or change it; options that are not given stay as they are.",
            epilog="Dates are written 2030-01-31 or 2030-01-31T18:00:00+02:00; without a zone they are UTC. "
            "Durations have a unit: 30d, 12h, 90m or 45s.",
        )
    )
    removing = command("remove-item", "Remove a product item.")
    _programming(removing)
    removing.add_argument("--item", type=values.number, required=True, metavar="N", help="which one")
    naming = command("firm-item", "Give the firm item a text; makes it if it is not there.")
    _programming(naming)
    naming.add_argument("--text", type=values.text, required=True, metavar="TEXT", help="the name shown in listings")
    _programming(command("remove-firm-item", "Remove all product items, and the firm item's text."))
    _certify(command("certify-time", "Answer a request for a certified time with this machine's time."))
    _list(command("list", "Show all that is in a container, a request, an update or a ledger."))
    _request(command("request", "Make a request of a container at hand, as its customer does."))
    _apply(command("apply", "Apply an update to a container at hand, as its customer does."))

    options = parser.parse_args(given)
    if options.command is None and not options.version:
        parser.error("say what to do: a command, as in cmboxpgm list")
    _check(options)
    return options


def _keygen(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--firm-code", type=values.number, required=True, metavar="N", help="the licensor's firm code")
    parser.add_argument("--key", type=values.path, required=True, metavar="FILE", help="where the private key is to be")


def _create(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--id", type=values.container, required=True, metavar="ID", help="mask and serial, as in 3-1")
    parser.add_argument("--text", type=values.text, default="", metavar="TEXT", help="its name")
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument(
        "--file", type=values.path, metavar="FILE", help="a virtual one's place, NAME.cmc; its key is NAME.key"
    )
    place.add_argument("--usb", action="store_true", help="the one empty dongle that is plugged in")


def _enroll(parser: argparse.ArgumentParser) -> None:
    _source(parser, request=True)
    parser.add_argument(
        "--older", action="store_true", help="accept it again in a state that is older than one that was seen"
    )
    _ledger(parser)


def _item(parser: argparse.ArgumentParser) -> None:
    _programming(parser)
    parser.add_argument("--item", type=values.number, required=True, metavar="N", help="tells the items apart")
    parser.add_argument("--product-code", type=values.count, metavar="N", help="of a new item; it keeps it")
    for option in _OPTIONS:
        either = parser.add_mutually_exclusive_group()
        count = len(option.metavar) if isinstance(option.metavar, tuple) else None
        either.add_argument(f"--{option.flag}", type=option.kind, nargs=count, metavar=option.metavar, help=option.text)
        _taking_out(either, option.name)
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--local-only", action="store_true", default=None, help="only for the server's own machine")
    _taking_out(either, _LOCAL_ONLY)


def _taking_out(group: argparse._MutuallyExclusiveGroup, name: str) -> None:
    group.add_argument(
        f"--no-{name.replace('_', '-')}",
        dest="taken_out",
        action="append_const",
        const=name,
        default=[],
        help="without it",
    )


def given(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options of a product item that were given."""
    return {name: getattr(options, name) for name in _NAMES if getattr(options, name) is not None}


def _certify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--request", type=values.path, required=True, metavar="FILE", help="the customer's request")
    _update(parser, required=True)
    _key(parser)
    _ledger(parser)


def _list(parser: argparse.ArgumentParser) -> None:
    source = _source(parser, request=True)
    source.add_argument("--update", type=values.path, metavar="FILE", help="an update")
    source.add_argument("--ledger", type=values.path, metavar="FILE", help="a ledger")


def _request(parser: argparse.ArgumentParser) -> None:
    _source(parser, request=False)
    parser.add_argument("--out", type=values.path, required=True, metavar="FILE", help="where the request is to be")
    parser.add_argument("--time", action="store_true", help="ask for a certified time too")


def _apply(parser: argparse.ArgumentParser) -> None:
    _source(parser, request=False)
    parser.add_argument("--update", type=values.path, required=True, metavar="FILE", help="the licensor's update")


def _programming(parser: argparse.ArgumentParser) -> None:
    """Add what every command needs that programs a firm item."""
    _source(parser, request=True)
    _update(parser, required=False)
    parser.add_argument("--firm-code", type=values.number, required=True, metavar="N", help="the firm item")
    _key(parser)
    parser.add_argument(
        "--new-key", action="store_true", help="the ledger need not know yet that this key is the firm code's"
    )
    _ledger(parser)


def _source(parser: argparse.ArgumentParser, *, request: bool) -> argparse._MutuallyExclusiveGroup:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--file", type=values.path, metavar="FILE", help="a virtual container, NAME.cmc")
    source.add_argument("--usb", action="store_true", help="the one dongle that is plugged in")
    if request:
        source.add_argument("--request", type=values.path, metavar="FILE", help="a customer's request")
    return source


def _update(parser: argparse.ArgumentParser, *, required: bool) -> None:
    parser.add_argument(
        "--update", type=values.path, required=required, metavar="FILE", help="where the answer to a request is to be"
    )


def _key(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--key", type=values.path, required=True, metavar="FILE", help="the licensor's private key")


def _ledger(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ledger", type=values.path, required=True, metavar="FILE", help="the licensor's ledger")


def _check(options: argparse.Namespace) -> None:
    """Raise Misused for options that do not go together."""
    if options.command in {"item", "remove-item", "firm-item", "remove-firm-item"} and (
        (options.request is None) != (options.update is None)
    ):
        msg = "--request and --update go together: the answer to a request is an update; see cmboxpgm --help"
        raise Misused(msg)
