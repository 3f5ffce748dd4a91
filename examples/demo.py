"""The demo: the main job of a license server, on the embedded virtual USB dongle, with real processes over TCP.

It starts a daemon of its own on free ports and in a private directory, and WebAdmin beside it, runs instances of
`examples.charts` on several "stations", and says line by line what it shows. Every number is read from `cmu --json`,
and some from WebAdmin's page, too. Exit codes: 0 each number was right, the exit code of the daemon included, 1 one was
not, 130 Ctrl-C came before all had been shown. SIGTERM and SIGHUP end it as Ctrl-C does, daemon and directory with it;
before all had been shown, with 143 and 129.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from drivers import keys
from drivers.usb import demo_licensor

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = Path(sys.executable).parent
FIRM_CODE = 600010
PRODUCT_CODE = 14
CONTAINER = "3-3448482"
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PATIENCE = 30.0
"""Seconds after which something that should happen is given up."""


class _Stop:
    """Hears the signals that end the demo, but lets them break in only where everything is put in order afterwards.

    Elsewhere, between the start of the daemon and knowing of it for instance, a signal is remembered until then.
    """

    def __init__(self) -> None:
        self._heard: int | None = None
        self._may_break_in = False

    def hear(self, number: int, _frame: FrameType | None) -> None:
        """Take a signal. Only the first one counts: a second one must not break the stop."""
        if self._heard is None:
            self._heard = number
            self._break_in()

    @contextmanager
    def breaking_in(self) -> Iterator[None]:
        """Let a signal, also one that came before, do what Ctrl-C does within the block."""
        try:
            self._may_break_in = True
            self._break_in()
            yield
        finally:
            self._may_break_in = False

    def _break_in(self) -> None:
        if self._heard is not None and self._may_break_in:
            self._may_break_in = False
            raise KeyboardInterrupt(self._heard)


STOP = _Stop()


class Failed(Exception):
    """A number was not as it should be."""


class Daemon:
    """A daemon of our own. Everything that is asked of it goes through `cmu`."""

    def __init__(self, directory: Path) -> None:
        self.monitor = directory / "run" / "monitor.sock"
        self.config = directory / "cmserverd.toml"
        self._log = directory / "daemon.log"
        self.config.write_text(
            "[server]\n"
            'name = "demo"\n'
            'listen = ["127.0.0.1:0", "[::1]:0"]\n'
            f"run_directory = {json.dumps(str(self.monitor.parent))}\n"
            f"state_directory = {json.dumps(str(directory / 'state'))}\n"
            "[licensors]\n"
            f'{FIRM_CODE} = "{keys.to_text(demo_licensor.PUBLIC)}"\n'
            "[drivers.usb]\n"
            "embedded = true\n"
            "[webadmin]\n"
            'listen = ["127.0.0.1:0"]\n'
            'anonymous = "viewer"\n',
            encoding="utf-8",
        )
        with self._log.open("w") as log:
            self._process = subprocess.Popen(  # a group of its own: the terminal's signals are for the demo
                [COMMANDS / "cmserverd", "--config", self.config], stderr=log, cwd=ROOT, process_group=0
            )

    def cmu(self, *options: str) -> tuple[int, str]:
        """Run `cmu` on the monitor socket; return its exit code and what it printed."""
        command = [str(COMMANDS / "cmu"), "--server", f"unix:{self.monitor}", *options]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT, check=False
        )
        return done.returncode, done.stdout

    def wait_for_container(self) -> dict[str, Any]:
        """Wait until the daemon serves a container; return its description."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and self._process.poll() is None:
            code, text = self.cmu("-l", "--json")
            if code == 0:
                container: dict[str, Any] = json.loads(text)["containers"][0]
                return container
            time.sleep(0.1)
        raise Failed(f"the daemon did not come up; its log:\n{self._log.read_text()}")

    def address(self) -> str:
        """Return where clients connect: over IPv6 where this machine has it, as in the picture that the demo shows."""
        _, text = self.cmu("-k", "--json")
        listening: list[str] = json.loads(text)["servers"][0]["info"]["listening"]
        return next((one for one in listening if one.startswith("[")), listening[0])

    def usage(self) -> dict[str, Any]:
        """Return the counts of the demo's license and its accesses."""
        _, text = self.cmu("-n", "--json", "--firmcode", str(FIRM_CODE), "--productcode", str(PRODUCT_CODE))
        usage: dict[str, Any] = json.loads(text)["licenses"][0]
        return usage

    def stop(self) -> int:
        """Ask the daemon to stop; return its exit code."""
        self._process.terminate()
        return self._process.wait(PATIENCE)


class WebAdmin:
    """The daemon's pages for a browser; on this machine everybody may look at them here."""

    def __init__(self, directory: Path, config: Path) -> None:
        self._log = directory / "webadmin.log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [COMMANDS / "cmserverd-webadmin", "--config", config], stderr=log, cwd=ROOT, process_group=0
            )

    def link(self) -> str:
        """Wait until it serves; return the link by which its first administrator is made."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and self._process.poll() is None:
            for line in self._log.read_text().splitlines():
                if line.startswith("{") and line.endswith("}") and "link" in (entry := json.loads(line)):
                    link: str = entry["link"]
                    return link
            time.sleep(0.1)
        raise Failed(f"WebAdmin did not come up; its log:\n{self._log.read_text()}")

    def page(self) -> str:
        """Return the address of the page about the demo's license."""
        address, _, _ = self.link().partition("/setup/")
        return f"{address}/licenses/{CONTAINER}/{FIRM_CODE}/{PRODUCT_CODE}"

    def says(self) -> str:
        """Return the sentence on that page that tells how it stands."""
        with urllib.request.urlopen(self.page(), timeout=PATIENCE) as answer:  # noqa: S310 - its own address
            found = re.search(r"Total \d+, available \d+", answer.read().decode())
        return found[0] if found else "nothing"

    def stop(self) -> None:
        """Ask it to stop, and wait for that."""
        self._process.terminate()
        self._process.wait(PATIENCE)


class Instance:
    """A running instance of the licensed application."""

    def __init__(self, server: str, station: str) -> None:
        command = [sys.executable, "-m", "examples.charts", "--server", server, "--station", station]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, process_group=0
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout
        self.said = self._output.readline().strip()

    def quit(self) -> None:
        """End the application the way a user does."""
        self._input.write("\n")
        self._input.flush()
        self.rest()

    def rest(self) -> str:
        """Wait until the application has ended; return what else it said."""
        rest = self._output.read()
        self._process.wait(PATIENCE)
        self._input.close()
        self._output.close()
        return rest

    def stop(self) -> None:
        """End the application whatever it does; once it has ended, do nothing."""
        if self._process.poll() is None:
            self.quit()


def main() -> int:
    """Run the demo; return its exit code."""
    parser = argparse.ArgumentParser(description="Shows the main job of the license server.")
    parser.add_argument("--once", action="store_true", help="end after the demo instead of serving on")
    once = parser.parse_args().once
    try:
        with running() as (daemon, webadmin):
            show(daemon, webadmin)
            if not once:
                with suppress(KeyboardInterrupt):
                    serve_on(daemon, webadmin)
        say("\nThe daemon has stopped in good order.")
    except (Failed, subprocess.TimeoutExpired) as failure:
        say(f"\nFAILED: {failure}")
        return 1
    except KeyboardInterrupt as stop:
        say("\nStopped before the end.")
        return 128 + (stop.args[0] if stop.args else signal.SIGINT)
    return 0


@contextmanager
def running() -> Iterator[tuple[Daemon, WebAdmin]]:
    """Have a daemon in a private directory and WebAdmin, and stop both in the end.

    Raises Failed if the daemon does not stop in good order.
    """
    with tempfile.TemporaryDirectory(prefix="cmserverd-demo-") as directory, ExitStack() as stack:
        daemon = Daemon(Path(directory))
        try:
            webadmin = WebAdmin(Path(directory), daemon.config)
            stack.callback(webadmin.stop)
            with STOP.breaking_in():
                yield daemon, webadmin
        finally:
            code = daemon.stop()
        check("the daemon's exit code", code, 0)


def show(daemon: Daemon, webadmin: WebAdmin) -> None:
    """Show the main job, step by step."""
    container = daemon.wait_for_container()
    say(f"1. The daemon runs and reads a dongle: container {container['id']} ({container['kind']}).")
    check("the container", container["id"], CONTAINER)
    server = daemon.address()
    say(f"   Clients reach it at {server}.")
    with ExitStack() as instances:

        def start(station: str) -> Instance:
            instance = Instance(server, station)
            instances.callback(instance.stop)
            return instance

        say('\n2. Four instances of "Chart Processing" start on one station, each with StationShare.')
        first = [start("station-1") for _ in range(4)]
        for instance in first:
            say(f"   {instance.said}")
        say("   They are four accesses, and one license:")
        show_table(daemon)
        expect(daemon, used=1, accesses=4, clients=1)

        say("\n3. A second station starts the application: another license.")
        say(f"   {start('station-2').said}")
        expect(daemon, used=2, accesses=5, clients=2)

        say("\n4. A third station is refused, and told why:")
        third = start("station-3")
        say(f"   {third.said}\n   {third.rest().rstrip()}")
        check("the refusal's number", "Error 212." in third.said, right=True)
        expect(daemon, used=2, accesses=5, clients=2)
        said = webadmin.says()
        say(f"   WebAdmin, the page for a browser, says the same: {said}.")
        check("WebAdmin's sentence", said, "Total 2, available 0")

        say("\n5. Three of the first four instances end. The fourth still runs, so nothing is free:")
        for instance in first[:3]:
            instance.quit()
        expect(daemon, used=2, accesses=2, clients=2)

        say("\n6. The fourth ends: its license is free.")
        first[3].quit()
        expect(daemon, used=1, accesses=1, clients=1)
    say("\n7. All have ended.")
    expect(daemon, used=0, accesses=0, clients=0)
    say("\nEvery number was right.")


def serve_on(daemon: Daemon, webadmin: WebAdmin) -> None:
    """Go on serving until Ctrl-C."""
    server = daemon.address()
    say(
        "\nThe daemon goes on serving; stop it with Ctrl-C. Meanwhile, in other terminals (in this directory):\n"
        f"   .venv/bin/python -m examples.charts --server '{server}'\n"
        f"   .venv/bin/cmu -n --server unix:{daemon.monitor}\n"
        "and in a browser, to see it happen:\n"
        f"   {webadmin.page()}\n"
        "Who takes a license away there has to log in; this link, open for an hour, makes the first administrator:\n"
        f"   {webadmin.link()}"
    )
    while True:
        time.sleep(1)  # a Ctrl-C that comes just before it begins is noticed when it ends


def expect(daemon: Daemon, *, used: int, accesses: int, clients: int) -> None:
    """Check the counts of the license as `cmu` tells them, and say them."""
    usage = daemon.usage()
    stations = {access["station"] for access in usage["accesses"]}
    say(
        f"   cmu: Total {usage['total']}, Available {usage['free']}; "
        f"{len(usage['accesses'])} access(es) of {len(stations)} client(s)"
    )
    check("Total", usage["total"], 2)
    check("used", usage["used"], used)
    check("Available", usage["free"], 2 - used)
    check("Station Share", usage["station_share"], used)
    check("accesses", len(usage["accesses"]), accesses)
    check("clients", len(stations), clients)


def show_table(daemon: Daemon) -> None:
    """Print what an administrator sees."""
    _, text = daemon.cmu("-n")
    say("   " + text.strip().replace("\n", "\n   "))


def check(what: str, found: object, right: object) -> None:
    """Raise Failed if a value is not as it should be."""
    if found != right:
        raise Failed(f"{what} is {found!r}, and should be {right!r}")


def say(text: str) -> None:
    """Print a line at once; a terminal that was closed does not keep the daemon from being stopped."""
    with suppress(OSError):
        print(text, flush=True)


if __name__ == "__main__":
    for each in STOPPING:
        signal.signal(each, STOP.hear)
    sys.exit(main())
