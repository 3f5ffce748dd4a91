"""What each command does: from its options to what is printed. All raise DriverError if it is not done."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Final

from msgspec import Struct
from rich.console import Console

from cmserverd.cmboxpgm import changes, containers, files, ledger, listing, parser, programming, tables
from cmserverd.cmboxpgm.listing import Document
from cmserverd.cmboxpgm.programming import Change, Target
from drivers import keys, presence, request, update
from drivers.container import FirmItem
from drivers.driver import Device, DriverError, Faulty
from drivers.trust import NOBODY

_STILL_EMPTY: Final = (
    "The container was still empty: if the customer programs it himself before he applies this, its clock is his, and "
    "he can set it back. Look at whose it is in his next request."
)


class Outcome(Struct, frozen=True):
    """What was done: for programs, and how it is shown to people."""

    document: Document
    show: Callable[[Console], None]


def run(options: argparse.Namespace) -> Outcome:
    """Do what the options say."""
    return _version() if options.version else _COMMANDS[options.command](options)


def now() -> int:
    """Return this machine's time in Unix seconds: what a certified time is made of."""
    return int(time.time())


def _version() -> Outcome:
    text = version("cmserverd")
    return _said({"version": text}, f"cmboxpgm {text}")


def _keygen(options: argparse.Namespace) -> Outcome:
    path: Path = options.key
    files.check_free(path)
    private = keys.generate()
    keys.write(path, private)
    public = keys.to_text(keys.public_of(private))
    return _said(
        {"firm_code": options.firm_code, "public_key": public, "key": str(path)},
        f"The private key is in {path}. Keep a copy where nobody else gets at it: whoever has it makes your licenses.",
        "Who runs a server believes your licenses with these lines in its configuration:",
        "",
        "[licensors]",
        f'{options.firm_code} = "{public}"',
    )


def _create(options: argparse.Namespace) -> Outcome:
    path: Path | None = options.file
    if path is None:
        public = keys.to_text(containers.create_on_dongle(options.id, options.text))
        done = f"The dongle is container {options.id} now; its key was made in it, and never leaves it."
    else:
        public = keys.to_text(containers.create(path, options.id, options.text))
        done = f"The virtual container {options.id} is in {path}, its key in {path.with_suffix('.key')}."
    document = {"id": options.id, "public_key": public, "file": None if path is None else str(path)}
    return _said(document, done, f"public key {public}")


def _enroll(options: argparse.Namespace) -> Outcome:
    if options.request is not None:
        found = _requested(options.request).image
    else:
        with _opened(options) as device:
            found = presence.read(device, NOBODY)
    with ledger.opened(options.ledger, new=True) as book:
        new = book.enroll(found, older=options.older)
    public = keys.to_text(found.owner.key)
    name, kind = found.container.id, found.container.kind.value
    clock = listing.clock(found)
    lines = [
        f"Container {name} ({kind}) {'is enrolled' if new else 'was enrolled already; its present state is accepted'}.",
        f"public key {public}",
        listing.whose(clock),
    ]
    if not found.sealed:
        lines.append("Whoever programs it first certifies its time for good: do that before it leaves your house.")
    if new and options.request is not None:
        lines.append(
            "Anybody can make up a container and its request: be sure that this key is your customer's container's. "
            "Nor does a request show when it was made: take none but a new one."
        )
    return _said({"id": name, "kind": kind, "public_key": public, "new": new, "clock": clock}, *lines)


def _item(options: argparse.Namespace) -> Outcome:
    given = parser.given(options)
    changes.check_expiration(given.get("expiration"), now())

    def change(firm: FirmItem) -> FirmItem:
        return changes.item(firm, options.item, options.product_code, given, options.taken_out)

    after, outcome = _programmed(options, change)
    (item,) = [each for each in listing.firm(after, b"")["items"] if each["item"] == options.item]
    text = f" {item['text']}" if item["text"] else ""
    return _more(
        outcome,
        f"Item {item['item']}: product code {item['product_code']}{text}, license quantity {item['quantity']}",
        *listing.words(item),
    )


def _remove_item(options: argparse.Namespace) -> Outcome:
    return _programmed(options, lambda firm: changes.without_item(firm, options.item))[1]


def _firm_item(options: argparse.Namespace) -> Outcome:
    return _programmed(options, lambda firm: changes.named(firm, options.text))[1]


def _remove_firm_item(options: argparse.Namespace) -> Outcome:
    return _programmed(options, changes.emptied)[1]


def _certify_time(options: argparse.Namespace) -> Outcome:
    private = _licensor_key(options.key)
    asked = _requested(options.request)
    at = now()
    target = Target(asked.image, options.update)
    with ledger.opened(options.ledger) as book:
        programming.certify(book, target, private, at)
    name = asked.image.container.id
    return _said(
        {"container": name, "time": at, "update": str(options.update)},
        f"The update for container {name} is in {options.update}: it is {listing.instant(at)}.",
    )


def _list(options: argparse.Namespace) -> Outcome:
    if options.update is not None:
        found = listing.update(update.decode(files.read(options.update, update.LIMIT, "update")))
        return Outcome({"update": found}, lambda out: tables.show_update(out, found))
    if options.ledger is not None:
        entries = [listing.enrolled(each) for each in ledger.read(options.ledger)]
        return Outcome({"enrolled": entries}, lambda out: tables.show_enrolled(out, entries))
    if options.request is not None:
        octets = _requested(options.request).octets
    else:
        with _opened(options) as device:
            octets = device.read()
    held = listing.container(octets)
    return Outcome({"container": held}, lambda out: tables.show_container(out, held))


def _request(options: argparse.Namespace) -> Outcome:
    files.check_free(options.out)
    with _opened(options) as device:
        if options.time:
            device.nonce()
        octets = request.make(device)
    files.write_new(options.out, octets)
    name = request.decode(octets).image.container.id
    return _said(
        {"container": name, "request": str(options.out), "asks_for_time": options.time},
        f"The request of container {name} is in {options.out}; send it to the licensor.",
    )


def _apply(options: argparse.Namespace) -> Outcome:
    octets = files.read(options.update, update.LIMIT, "update")
    found = listing.update(update.decode(octets))
    with _opened(options) as device:
        device.apply(octets)
    brought = (
        f"the certified time {listing.instant(found['time'])}"
        if found["firm_item"] is None
        else f"firm code {found['firm_item']['firm_code']}, update counter {found['firm_item']['update_counter']}"
    )
    return _said({"applied": found}, f"Container {found['container']} has the update: {brought}.")


_COMMANDS: Final[dict[str, Callable[[argparse.Namespace], Outcome]]] = {
    "keygen": _keygen,
    "create": _create,
    "enroll": _enroll,
    "item": _item,
    "remove-item": _remove_item,
    "firm-item": _firm_item,
    "remove-firm-item": _remove_firm_item,
    "certify-time": _certify_time,
    "list": _list,
    "request": _request,
    "apply": _apply,
}


# --- the parts ----------------------------------------------------------------------------------------------------


def _programmed(options: argparse.Namespace, change: Change) -> tuple[FirmItem, Outcome]:
    """Have a change where the options say; return the new firm item too."""
    private = _licensor_key(options.key)
    with _target(options) as target, ledger.opened(options.ledger) as book:
        after = programming.program(book, target, options.firm_code, private, change, new_key=options.new_key)
        name, empty = target.image.container.id, not target.image.sealed
    done = f"firm code {after.firm_code}, update counter {after.update_counter}"
    return after, _said(
        {
            "container": name,
            "firm_item": listing.firm(after, keys.public_of(private)),
            "update": None if options.update is None else str(options.update),
        },
        f"Container {name} is programmed: {done}."
        if options.update is None
        else f"The update for container {name} is in {options.update}: {done}.",
        *([_STILL_EMPTY] if empty and options.update is not None else []),
    )


@contextmanager
def _target(options: argparse.Namespace) -> Iterator[Target]:
    if options.request is not None:
        asked = _requested(options.request)
        yield Target(asked.image, options.update)
        return
    with _opened(options) as device:
        yield Target(presence.read(device, NOBODY), device)


@contextmanager
def _opened(options: argparse.Namespace) -> Iterator[Device]:
    with containers.opened_dongle() if options.usb else containers.opened_file(options.file) as device:
        yield device


def _requested(path: Path) -> request.Request:
    return request.decode(files.read(path, request.LIMIT, "request"))


def _licensor_key(path: Path) -> bytes:
    if not os.path.lexists(path):
        msg = f"There is no key file {path}; correct its name, or make a key with cmboxpgm keygen."
        raise DriverError(msg)
    try:
        return keys.read(path)
    except Faulty:
        msg = f"There is no licensor's key in {path}; name the file that cmboxpgm keygen wrote."
        raise Faulty(msg) from None


def _said(document: Document, *lines: str) -> Outcome:
    def show(out: Console) -> None:
        for line in lines:
            out.print(line, soft_wrap=True)

    return Outcome(document, show)


def _more(outcome: Outcome, *lines: str) -> Outcome:
    def show(out: Console) -> None:
        outcome.show(out)
        for number, line in enumerate(lines):
            out.print(f"{'    ' if number else '  '}{line}", soft_wrap=True)

    return Outcome(outcome.document, show)
