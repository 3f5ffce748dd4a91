"""The command: a process of its own, from the set-up link in its log to its end."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from cmserverd.webadmin import main as module
from cmserverd.webadmin.certificates import CertificateFault, InUse, fingerprint, self_made
from cmserverd.webadmin.main import main
from cmserverd.webadmin.people import FILE
from tests.daemon.harness import LIMIT, Daemon, ending
from tests.webadmin.conftest import PASSWORD

SECTION = '[webadmin]\nlisten = ["127.0.0.1:0"]\n'


class WebAdmin:
    """The process; its log, read line by line."""

    def __init__(self, config: Path) -> None:
        command = [sys.executable, "-m", "cmserverd.webadmin.main", "--config", os.fspath(config)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.lines: list[dict[str, Any]] = []
        self._changed = threading.Condition()
        self._ended = False
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as log:
            for line in log:
                with self._changed:
                    self.lines.append(json.loads(line))
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def said(self, event: str) -> dict[str, Any]:
        """Wait for a log line whose event has this text in it."""

        def found() -> list[dict[str, Any]]:
            return [line for line in self.lines if event in line["event"]]

        with self._changed:
            assert self._changed.wait_for(lambda: found() or self._ended, LIMIT)
            assert found(), self.lines
            return found()[0]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal; return the exit code."""
        self.process.send_signal(number)
        code = self.process.wait(LIMIT)
        with self._changed:
            assert self._changed.wait_for(lambda: self._ended, LIMIT)
        return code


@contextmanager
def running(config: Path) -> Iterator[WebAdmin]:
    """Run it until the end of the block at the latest."""
    process = WebAdmin(config)
    try:
        yield process
    finally:
        process.process.kill()
        process.process.wait()


def set_up(client: httpx2.Client, link: str) -> httpx2.Response:
    """Make the first administrator."""
    csrf = client.get(link).text.partition('name="csrf" value="')[2].partition('"')[0]
    home = link.partition("/setup/")[0]
    fields = {"csrf": csrf, "user": "anna", "password": PASSWORD, "again": PASSWORD}
    return client.post(link, data=fields, headers={"Origin": home})


def test_from_the_link_in_the_log_to_the_licenses(tmp_path: Path) -> None:
    """Set up, see the daemon's containers, see that it stopped and that it is back; after a restart, no link."""
    daemon, later = Daemon(tmp_path, config=SECTION), Daemon(tmp_path, config=SECTION)
    with ending(daemon, later), running(daemon.serve().config) as process, httpx2.Client(timeout=LIMIT) as client:
        link = process.said("nobody can log in yet")["link"]
        (home,) = process.said("serving")["addresses"]
        answer = set_up(client, link)
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        daemon.said("container plugged in")
        assert "3-1" in client.get(f"{home}/containers").text
        daemon.stop()
        silent = client.get(f"{home}/containers")
        assert (silent.status_code, "The license server does not answer" in silent.text) == (503, True)
        later.serve()
        assert client.get(f"{home}/containers").status_code == 200
        assert process.stop() == os.EX_OK
        assert process.said("stopped")
        logged = json.dumps([line for line in process.lines if "link" not in line])
        assert PASSWORD not in logged
        assert link.rpartition("/")[2] not in logged
        with running(daemon.config) as again:
            (home,) = again.said("serving")["addresses"]
            assert httpx2.get(f"{home}/login", timeout=LIMIT).text.count('name="password"') == 1
            assert again.stop(signal.SIGINT) == os.EX_OK
            assert not [line for line in again.lines if "link" in line]


def test_it_stops_though_a_page_stands_open(tmp_path: Path) -> None:
    """A page that is kept up to date has a stream without end: that is ended first.

    Nor does it wait for what the license server would answer only when something happens.
    """
    daemon = Daemon(tmp_path, config=SECTION + 'anonymous = "viewer"\n')
    with ending(daemon), running(daemon.serve().config) as process:
        (home,) = process.said("serving")["addresses"]
        stream = f"{home}/live?since=0"
        with httpx2.Client(timeout=LIMIT) as client, client.stream("GET", stream) as answer:
            assert answer.status_code == 200
            told = answer.iter_bytes()
            assert b"change" in next(told)
            assert process.stop() == os.EX_OK
            for _ in told:
                pass


def test_on_the_network_it_is_https_with_a_certificate_that_is_kept(tmp_path: Path) -> None:
    """The log has the fingerprint, for comparing; the files are this user's alone."""
    config = tmp_path / "c.toml"
    config.write_text(
        f'[server]\nstate_directory = "{tmp_path}/state"\nrun_directory = "{tmp_path}/run"\n'
        '[log]\nformat = "json"\n[webadmin]\nlisten = ["0.0.0.0:0"]\n'
    )
    with running(config) as process:
        (address,) = process.said("serving")["addresses"]
        made = process.said("certificate")
        assert address.startswith("https://0.0.0.0:")
        assert process.said("nobody can log in yet")["link"].startswith("https://")
        port = address.rpartition(":")[2]
        with httpx2.Client(verify=ssl.create_default_context(cafile=made["file"]), timeout=LIMIT) as client:
            assert client.get(f"https://127.0.0.1:{port}/login").status_code == 200
            answer = set_up(client, f"https://127.0.0.1:{port}/setup/{process.lines[-1]['link'].rpartition('/')[2]}")
            assert "__Host-cmserverd=" in answer.headers["set-cookie"]
        assert process.stop() == os.EX_OK
    directory = tmp_path / "state" / "webadmin"
    assert directory.stat().st_mode & 0o777 == 0o700
    assert {entry.stat().st_mode & 0o777 for entry in directory.iterdir()} == {0o600}
    with running(config) as again:
        assert again.said("certificate")["sha256"] == made["sha256"]


def test_another_certificate_is_taken_up_at_a_sighup(tmp_path: Path) -> None:
    """It goes on serving, and says which one it is; what cannot be used is told, and changes nothing."""
    config, own = tmp_path / "c.toml", tmp_path / "own.pem"
    made = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        made.append(self_made(tmp_path / name, ["localhost", "127.0.0.1"], datetime.now(UTC)))
    own.write_bytes(made[0].read_bytes())
    config.write_text(
        f'[server]\nstate_directory = "{tmp_path}/state"\nrun_directory = "{tmp_path}/run"\n[log]\nformat = "json"\n'
        f'{SECTION}certificate = "{own}"\nkey = "{own}"\n'
    )

    def answers(home: str, certificate: Path) -> bool:
        context = ssl.create_default_context(cafile=certificate)
        return httpx2.get(f"{home}/health/alive", verify=context, timeout=LIMIT).status_code == 200

    with running(config) as process:
        (home,) = process.said("serving")["addresses"]
        assert answers(home, made[0])
        own.write_text("half written")
        process.process.send_signal(signal.SIGHUP)
        assert "no certificate and its key" in process.said("the certificate stays as it was")["reason"]
        assert answers(home, made[0])
        own.write_bytes(made[1].read_bytes())
        process.process.send_signal(signal.SIGHUP)
        assert process.said("another certificate")["sha256"] == fingerprint(made[1])
        assert answers(home, made[1])
        assert process.stop() == os.EX_OK


class Renewed(InUse):
    """A certificate of which it is counted how often it was looked at."""

    def __init__(self) -> None:
        self.looked = 0

    def renew(self) -> bool:
        """Find the same one, or none."""
        self.looked += 1
        if self.looked == 2:
            raise CertificateFault("none")
        return False


async def test_it_looks_for_another_certificate_each_hour(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """So that one that is made here never comes to its end; what goes wrong once is tried again."""
    certificate = Renewed()
    nursery.start_soon(module._renew_hourly, certificate)
    with capture_logs() as said:
        await trio.sleep(3.5 * 3_600)
    assert certificate.looked == 3
    assert [line["event"] for line in said] == ["the certificate stays as it was"]
    nursery.cancel_scope.cancel()


# --- what ends it -------------------------------------------------------------------------------------------------


def refused(config: Path, text: str, capfd: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Return exit code and words for a configuration."""
    config.write_text(text)
    code = main(["--config", str(config)])
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    return code, said


def test_what_ends_it_at_the_start(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """One line each, and the exit code of sysexits.h: the configuration's fault, or the system's."""
    config, state = tmp_path / "c.toml", tmp_path / "state"
    server = f'[server]\nstate_directory = "{state}"\n'
    code, said = refused(config, "[webadmin]\nlisten = 1", capfd)
    assert (code, said.startswith(f"cmserverd-webadmin: {config}:2: webadmin.listen: expected")) == (os.EX_CONFIG, True)
    code, said = refused(config, server + '[webadmin]\ncertificate = "/x"', capfd)
    assert (code, "certificate and key belong together" in said) == (os.EX_CONFIG, True)
    own = '[webadmin]\nlisten = ["127.0.0.1:0"]\ncertificate = "/none"\nkey = "/none"'
    code, said = refused(config, server + own, capfd)
    assert (code, "/none or /none cannot be read" in said) == (os.EX_CONFIG, True)
    (state / "webadmin").mkdir(parents=True, exist_ok=True)
    (state / "webadmin" / FILE).write_text("damaged")
    code, said = refused(config, server + SECTION, capfd)
    assert (code, "put a copy in its place" in said) == (os.EX_CONFIG, True)
    (state / "webadmin" / FILE).unlink()
    code, said = refused(config, server + '[webadmin]\nlisten = ["nowhere.invalid:1"]', capfd)
    assert (code, "cannot listen on nowhere.invalid:1" in said) == (os.EX_UNAVAILABLE, True)
    (tmp_path / "file").touch()
    code, said = refused(config, f'[server]\nstate_directory = "{tmp_path}/file"\n' + SECTION, capfd)
    assert (code, f"{tmp_path}/file/webadmin: Not a directory" in said) == (os.EX_UNAVAILABLE, True)


def test_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Its version and its exit codes are told; what it does not know is refused."""
    for arguments, code in ((["--version"], 0), (["--help"], 0), (["--nonsense"], 2)):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == code
    assert module.HELP in capsys.readouterr().out
