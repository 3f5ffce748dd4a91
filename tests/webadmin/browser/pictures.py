"""The pictures of the pages in `docs/pictures`, of a server that has worked for a fortnight, as an operator sees them.

python -m tests.webadmin.browser.pictures             makes them anew: look at each then
python -m tests.webadmin.browser.pictures DIRECTORY   puts every page there, wide and narrow, light and dark
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from argon2 import PasswordHasher
from playwright.sync_api import Browser, Page, sync_playwright

from cmserverd.clock import LicenseClock
from cmserverd.core.refusal import Refused
from cmserverd.engine import Engine, Record
from cmserverd.store import Entry, Store
from cmserverd.webadmin.people import People, Role
from drivers import description
from drivers.container import ContainerKind
from protocol import messages as m
from protocol.errors import LicenseError
from protocol.terms import AccessMode, Client, Station
from tests.daemon.harness import FIRM, Daemon, broken_listener, ending
from tests.webadmin.browser.clients import CHARTS, DESIGNER, access, program
from tests.webadmin.conftest import PASSWORD
from tests.webadmin.test_main import SECTION, running

PICTURES: Final = Path(__file__).parents[3] / "docs" / "pictures"
SIZES: Final = {"": (1280, 800), "-phone": (375, 800)}
DAYS: Final = 14

DETAILS: Final = "/licenses/3-3448482/600010/14"
PATHS: Final = {
    "dashboard": "/",
    "containers": "/containers",
    "container": "/containers/3-3448482",
    "licenses": "/licenses",
    "details": DETAILS,
    "sessions": "/sessions",
    "remove": "/accesses/{handle}/remove",
    "remove-client": "/accesses/{handle}/remove-client",
    "usage": "/usage",
    "tracking": "/tracking",
    "events": "/events",
    "configuration": "/configuration",
    "account": "/account",
    "people": "/people",
    "remove-user": "/people/users/otto/remove",
    "remove-token": "/people/tokens/prometheus/remove",
    "nowhere": "/nowhere",
}
DOCUMENTED: Final = {
    "dashboard": "dashboard",
    "container": "update",
    "licenses": "licenses",
    "details": "details",
    "remove": "remove",
    "sessions": "sessions",
    "usage": "usage",
    "tracking": "tracking",
}
"""The pages in the documentation, and what their pictures are called."""

PHONE: Final = "dashboard-phone.png"

DONGLE: Final = """
id = "3-3448482"
text = "License dongle"
[[firm_items]]
firm_code = 600010
text = "Northern Charts"
[[firm_items.products]]
item = 1
product_code = 14
text = "Chart Processing"
quantity = 2
[[firm_items.products]]
item = 2
product_code = 15
text = "Chart Designer"
quantity = 20
[[firm_items.products]]
item = 3
product_code = 16
text = "Renderings"
quantity = 5
units = {{ count = 1000, generation = 1 }}
[[firm_items.products]]
item = 4
product_code = 17
text = "Tide Tables"
quantity = 3
expiration = {soon}
"""


def past(path: Path, dongle: Path, now: int) -> None:
    """Make a journal in which people have worked for some days, until the evening before."""
    clock = [now - DAYS * 86_400]
    entries: list[Entry] = []
    engine = Engine(LicenseClock(lambda: clock[0], lambda: clock[0]), broken_listener)

    def note(record: Record) -> None:
        denied = record.request if record.refusal is not None and isinstance(record.request, m.Access) else None
        if record.changes or denied:
            entries.append(Entry(record.position, record.at, record.session, record.changes, denied))

    engine.listen(note)
    (container,) = description.parse(dongle.read_bytes(), str(dongle), ContainerKind.VIRTUAL)
    engine.plug(container)
    engine.started()
    number = 0
    for day in range(DAYS - 1):
        begin = clock[0] = now - (DAYS - day) * 86_400 - now % 86_400 + 8 * 3_600
        if time.gmtime(begin).tm_wday >= 5:
            continue
        present = []
        for hour in range(9):
            for product, wanted in ((CHARTS, (1, 1, 2, 2, 3, 1, 2, 2, 1)), (DESIGNER, (3, 6, 8, 7, 4, 6, 9, 8, 2))):
                for _ in range(wanted[hour] * (day + 3) // 8):
                    number += 1
                    clock[0] += 97
                    client = Client(f"PC-{number % 23:02}", "fs", 1_000 + number % 89, "Chart Processing")
                    session = engine.open(number.to_bytes(32, "big"), client, Station(f"pc{number % 23}"), "::1", False)
                    key = m.AccessKey(number.to_bytes(16, "big"))
                    try:
                        engine.access(session, m.Access(key, FIRM, product, AccessMode.USER_LIMIT))
                    except Refused:
                        engine.close(session)
                    else:
                        present.append(session)
            clock[0] = begin + (hour + 1) * 3_600
            for session in present:
                engine.close(session)
            present = []
    store = Store(path, power=False)
    store.append(entries, 1.0)
    store.close()


@contextmanager
def working(directory: Path) -> Iterator[tuple[str, int]]:
    """Run a server with WebAdmin, clients at work and one that is denied; give the address and an access's ID."""
    now = int(time.time())
    daemon = Daemon(
        directory,
        listen="[::1]:0",
        dongle=DONGLE.format(soon=time.strftime("%Y-%m-%dT12:00:00Z", time.gmtime(now + 12 * 86_400))),
        config=SECTION,
    )
    daemon.config.write_text(daemon.config.read_text().replace("[server]\n", '[server]\nname = "licenses"\n'))
    state = directory / "state"
    (state / "webadmin").mkdir(mode=0o700, parents=True)
    past(state / "journal.db", daemon.dongle, now)
    people = People(state / "webadmin")
    mark = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD)
    for name, role in (("anna", Role.OPERATOR), ("berta", Role.ADMIN), ("otto", Role.VIEWER)):
        people.add(name, role, mark)
    people.add_token("prometheus", Role.VIEWER, now)
    with ExitStack() as stack:
        stack.enter_context(ending(daemon))
        daemon.serve().said("container plugged in")
        webadmin = stack.enter_context(running(daemon.config))
        wibu, lab, third = (
            stack.enter_context(program(daemon, host, user))
            for host, user in (("WIBU", "fs"), ("LAB", "mk"), ("DOCK-7", "jr"))
        )
        handle, *_ = (access(wibu) for _ in range(4))
        access(lab)
        with suppress(LicenseError):
            access(third)
        for host, user in (("PC-04", "ab"), ("PC-11", "zz"), ("NORTH-SEA-WORKSTATION-2", "B. Featherstonehaugh")):
            access(stack.enter_context(program(daemon, host, user, "Chart Designer")), DESIGNER, AccessMode.USER_LIMIT)
        access(wibu, DESIGNER, AccessMode.USER_LIMIT)
        yield webadmin.said("serving")["addresses"][0], handle


def visitor(browser: Browser, home: str, size: str, scheme: str, name: str = "anna") -> Page:
    """Open a browser's page on which somebody is logged in."""
    width, height = SIZES[size]
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(f"{home}/login")
    page.get_by_label("User").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url(f"{home}/")
    return page


def take(page: Page, home: str, handle: int, name: str, file: Path) -> None:
    """Take a picture of a page, whole."""
    page.goto(home + PATHS[name].format(handle=handle))
    for summary in page.locator("details.task summary").all():
        summary.click()
    page.screenshot(path=file, full_page=True)


def main(arguments: list[str]) -> None:
    """Take the pictures."""
    with (
        tempfile.TemporaryDirectory() as directory,
        working(Path(directory)) as (home, handle),
        sync_playwright() as play,
    ):
        browser = play.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"])
        if arguments:
            for size in SIZES:
                for scheme in ("light", "dark"):
                    for name in PATHS:
                        who = "berta" if "/people" in PATHS[name] else "anna"
                        page = visitor(browser, home, size, scheme, who)
                        take(page, home, handle, name, Path(arguments[0]) / f"{name}{size}-{scheme}.png")
                        page.context.close()
        else:
            page = visitor(browser, home, "", "light")
            for name, called in DOCUMENTED.items():
                take(page, home, handle, name, PICTURES / f"{called}.png")
            phone = visitor(browser, home, "-phone", "dark")
            take(phone, home, handle, "dashboard", PICTURES / PHONE)
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1:])
