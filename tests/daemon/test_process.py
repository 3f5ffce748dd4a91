"""The command `cmserverd` as a process: starting, stopping, and every way in which it cannot start."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

import cmserverd
from cmserverd import main
from drivers import cmc, image, keys
from protocol import messages as m
from protocol import rpc
from protocol.errors import ErrorNumber, LicenseError
from protocol.terms import HandleKind
from tests.daemon.harness import FIRM, LIMIT, TWO_CHARTS, Caller, Daemon, access, charts, ending, hello, number_of


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """Give a daemon that serves two licenses of a virtual container, and end it after the test."""
    daemon = Daemon(tmp_path)
    with ending(daemon):
        daemon.serve()
        daemon.said("container plugged in")
        yield daemon


def seconds_to_stop(daemon: Daemon) -> float:
    """Return how long the stop took, by the log: it may be two seconds, whatever clients do."""
    begin, end = (datetime.fromisoformat(daemon.said(event)["time"]) for event in ("stopping", "stopped"))
    return (end - begin).total_seconds()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "cmserverd.main", *arguments], capture_output=True, text=True, timeout=LIMIT, check=False
    )


# --- the main job, and stopping -----------------------------------------------------------------------------------


def test_it_grants_and_refuses(daemon: Daemon) -> None:
    """Two licenses for three PCs: two are granted, one is refused, and a goodbye makes room."""
    with Caller(daemon.address) as one, Caller(daemon.address) as two, Caller(daemon.address) as three:
        for number, caller in enumerate((one, two, three)):
            caller.ask(hello(number))
        one.ask(access())
        two.ask(access())
        with pytest.raises(LicenseError) as refusal:
            three.ask(access())
        assert number_of(refusal.value) == ErrorNumber.NO_MORE_LICENSES
        one.ask(m.Goodbye())
        three.ask(access())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_in_good_order(number: signal.Signals, daemon: Daemon) -> None:
    """Clients are told goodbye, greeted or not; the sockets are removed; the exit code is 0; and soon."""
    callers = [Caller(daemon.address), Caller(daemon.address), Caller(daemon.monitor), Caller(daemon.control)]
    for caller in callers[:1] + callers[2:]:
        caller.ask(hello())
    daemon.process.send_signal(number)
    for caller in callers:
        with caller:
            farewell = caller.until_closed()
        assert farewell is not None
        assert "the server stops" in farewell.text
    assert daemon.exited() == 0
    assert seconds_to_stop(daemon) < 2.0
    assert list(daemon.run_directory.iterdir()) == [daemon.run_directory / "lock"]
    assert daemon.unstructured == []


def test_clients_that_do_not_close_cannot_keep_it(daemon: Daemon) -> None:
    """Nor those that do not read: two seconds at most."""
    with Caller(daemon.address) as idle, Caller(daemon.address) as deaf:
        idle.ask(hello())
        deaf.ask(hello())
        deaf.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        for _ in range(100):
            deaf.ask(access(kind=HandleKind.SUBSYSTEM))
        deaf.sock.sendall(b"".join(rpc.encode_request(number, m.NetUsers()) for number in range(1000, 2000)))
        for _ in range(300):  # in each turn that this client gets, the other one's pages have one: soon no more fit
            idle.ask(m.KeepAlive())
        assert daemon.stop() == 0
    assert seconds_to_stop(daemon) < 2.0


def test_a_second_signal_does_not_break_the_stop(daemon: Daemon) -> None:
    """An impatient operator changes neither the order nor the exit code."""
    with Caller(daemon.address) as caller:
        caller.ask(hello())
        daemon.process.send_signal(signal.SIGINT)
        daemon.said("stopping")
        for _ in range(3):
            daemon.process.send_signal(signal.SIGINT)
            daemon.process.send_signal(signal.SIGTERM)
        assert caller.until_closed() is not None
    assert daemon.exited() == 0
    assert list(daemon.run_directory.iterdir()) == [daemon.run_directory / "lock"]
    assert daemon.unstructured == []


@pytest.mark.parametrize("call", ["signal.signal", "trio.open_signal_receiver"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_it_begins_to_listen_for_signals_is_not_lost(
    number: signal.Signals, call: str, tmp_path: Path
) -> None:
    """One that comes just before either step stops it as soon as it serves."""
    owner, name = call.split(".")
    daemon = Daemon(tmp_path)
    program = f"""
import os, signal, sys, trio
from cmserverd import daemon, main

def first_the_signal(*given):
    {call} = real
    os.kill(os.getpid(), {int(number)})
    return real(*given)

async def run(*given, run=daemon.run):
    global real
    real, {owner}.{name} = {call}, first_the_signal
    await run(*given)

daemon.run = run
sys.exit(main.main(["--config", {str(daemon.config)!r}]))
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=LIMIT, check=False)
    assert ended.returncode == 0, ended.stderr
    assert f'"stopping", "signal": "{number.name}"' in ended.stderr


def test_after_a_kill_it_starts_again_in_the_same_directory(daemon: Daemon) -> None:
    """The sockets that it left behind are stale, and replaced."""
    daemon.kill()
    assert daemon.monitor.exists()
    again = Daemon(daemon.directory)
    with ending(again):
        again.serve()
        with Caller(again.monitor) as caller, Caller(again.address) as client:
            caller.ask(hello())
            client.ask(hello())
            assert caller.ask(m.ServerInfoRequest()).sessions == 1
        assert again.stop() == 0


def test_the_local_sockets_are_for_the_group(daemon: Daemon) -> None:
    """Directory and sockets are closed to others; who comes to the control socket is logged."""
    for path, mode in ((daemon.run_directory, 0o750), (daemon.monitor, 0o660), (daemon.control, 0o660)):
        assert stat.S_IMODE(path.stat().st_mode) == mode
    with Caller(daemon.monitor) as monitor, Caller(daemon.control) as control:
        for caller in (monitor, control):
            assert caller.ask(hello()).session == 0
        assert [container.id for container in monitor.ask(m.Containers()).containers] == ["3-1"]
        with pytest.raises(LicenseError) as refusal:
            control.ask(m.Containers())
        assert number_of(refusal.value) == ErrorNumber.NOT_IMPLEMENTED
    line = daemon.said("control connection")
    assert (line["uid"], line["pid"]) == (os.getuid(), os.getpid())
    assert len(daemon.all_said("control connection")) == 1


def test_what_clients_call_themselves_cannot_forge_the_log(daemon: Daemon) -> None:
    """A host name with line ends and escape sequences is in its place in one line, and every line is JSON."""
    evil = 'pc\x1b[31m\r\n{"event": "forged", "level": "error"}\u2028'
    again = Daemon(daemon.directory, config="[sessions]\ngrace = 0\n", level="debug")
    daemon.stop()
    with ending(again):
        again.serve()
        with Caller(again.address) as caller:
            caller.ask(hello(host=evil))
        assert again.said("session ended")["host"] == evil
        again.stop()
    assert again.unstructured == []
    assert again.all_said("forged") == []


# --- what it tells its manager ------------------------------------------------------------------------------------


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """Give a service manager's socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(LIMIT)
        yield listening


def test_ready_means_that_clients_can_connect(manager: socket.socket, tmp_path: Path) -> None:
    """At READY=1 a connection is served, and not before; STOPPING=1 comes with the stop; in between it is alive.

    `systemctl status` shows where it serves.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    daemon = Daemon(tmp_path, listen=f"127.0.0.1:{port}")
    with ending(daemon):
        daemon.start(environment={"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "300000"})
        assert manager.recv(4096) == b"READY=1"
        assert manager.recv(4096) == f"STATUS=serving on 127.0.0.1:{port}".encode()
        with Caller(("127.0.0.1", port)) as caller:
            caller.ask(hello())
        assert [manager.recv(4096) for _ in range(3)] == [b"WATCHDOG=1"] * 3
        daemon.process.send_signal(signal.SIGTERM)
        while (told := manager.recv(4096)) == b"WATCHDOG=1":
            pass
        assert told == b"STOPPING=1"
        assert daemon.exited() == 0


def test_a_daemon_that_cannot_listen_is_never_ready(manager: socket.socket, tmp_path: Path) -> None:
    """It says nothing and ends."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        daemon = Daemon(tmp_path, listen=f"127.0.0.1:{taken.getsockname()[1]}")
        with ending(daemon):
            daemon.start(environment={"NOTIFY_SOCKET": str(tmp_path / "notify")})
            assert daemon.exited() == os.EX_UNAVAILABLE
    manager.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.recv(4096)


# --- who reads the log, if anybody --------------------------------------------------------------------------------


def serving(manager: socket.socket) -> tuple[str, int]:
    """Return the address that the service manager is told."""
    assert manager.recv(4096) == b"READY=1"
    host, _, port = manager.recv(4096).decode().removeprefix("STATUS=serving on ").rpartition(":")
    return host, int(port)


def test_a_log_that_nobody_reads_stops_nothing(manager: socket.socket, tmp_path: Path) -> None:
    """Standard error is a pipe that is full: clients are served, and a signal ends it in good order."""
    daemon = Daemon(tmp_path, level="debug")
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    command = [sys.executable, "-m", "cmserverd.main", "--config", str(daemon.config)]
    environment = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")}
    with subprocess.Popen(command, stderr=writing, env=environment) as process:
        os.close(writing)
        try:
            with Caller(serving(manager)) as caller:
                caller.ask(hello())
                for _ in range(100):
                    caller.ask(m.Release(caller.ask(access(kind=HandleKind.SUBSYSTEM)).handle))
            process.terminate()
            assert process.wait(LIMIT) == 0
        finally:
            process.kill()
    with os.fdopen(reading, encoding="utf-8") as log:
        events = [json.loads(line)["event"] for line in log]
    assert "serving" in events
    assert "stopped" not in events


def test_without_a_standard_error_it_serves(manager: socket.socket, tmp_path: Path) -> None:
    """Nothing that it opens gets its number, and so the log's lines."""
    daemon = Daemon(tmp_path)
    command = [sys.executable, "-m", "cmserverd.main", "--config", str(daemon.config)]
    environment = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")}
    with subprocess.Popen(["/bin/sh", "-c", 'exec "$@" 2>&-', "sh", *command], env=environment) as process:
        try:
            with Caller(serving(manager)) as caller:
                caller.ask(hello())
            assert Path(f"/proc/{process.pid}/fd/2").readlink() == Path(os.devnull)
            process.terminate()
            assert process.wait(LIMIT) == 0
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("fault", "last", "code"),
    [("CannotListen('no')", "cmserverd: no", os.EX_UNAVAILABLE), ("RuntimeError('bug')", "RuntimeError: bug", 1)],
)
def test_what_it_said_before_its_end_comes_out_in_order(fault: str, last: str, code: int, tmp_path: Path) -> None:
    """All lines of the log that still wait, and the reason behind them."""
    program = f"""
import os, sys, threading, structlog
from cmserverd import daemon, logs, main
from cmserverd.server import CannotListen

ending = threading.Event()
write, close = os.write, logs.Outlet.close

def held_up(*given):
    ending.wait()
    return write(*given)

def closing(outlet):
    ending.set()
    close(outlet, patience={LIMIT})

os.write, logs.Outlet.close = held_up, closing

async def run(*_):
    for number in range(1000):
        structlog.get_logger().info("told", number=number)
    raise {fault}

daemon.run = run
sys.exit(main.main(["--config", {str(Daemon(tmp_path).config)!r}]))
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=LIMIT, check=False)
    assert ended.returncode == code
    lines = ended.stderr.splitlines()
    assert [json.loads(line)["number"] for line in lines[:1000]] == list(range(1000))
    assert last in lines[-1]


# --- what keeps it from starting ----------------------------------------------------------------------------------


def test_a_port_in_use_is_one_clear_sentence(tmp_path: Path) -> None:
    """Who may have it, the setting, exit code 69; and no socket of its own is left."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        daemon = Daemon(tmp_path, listen=address)
        with ending(daemon):
            assert daemon.start().exited() == os.EX_UNAVAILABLE
    (sentence,) = daemon.unstructured
    assert sentence.startswith(f"cmserverd: cannot listen on {address}: another program has the port, ")
    assert sentence.endswith("stop the program, or choose another port with [server] listen")
    assert list(daemon.run_directory.iterdir()) == [daemon.run_directory / "lock"]


def test_a_second_daemon_in_the_same_directory_gives_way(daemon: Daemon) -> None:
    """It ends with 69 and a sentence; the first one and its sockets are unharmed."""
    second = Daemon(daemon.directory)
    with ending(second):
        assert second.start().exited() == os.EX_UNAVAILABLE
    (sentence,) = second.unstructured
    assert "another cmserverd is running in" in sentence
    assert "[server] run_directory" in sentence
    with Caller(daemon.address) as client, Caller(daemon.monitor) as caller:
        client.ask(hello())
        caller.ask(hello())
        assert caller.ask(m.ServerInfoRequest()).sessions == 1


def test_who_can_only_read_the_run_directory_cannot_keep_the_daemon_from_starting(tmp_path: Path) -> None:
    """A lock on the directory is no lock on the daemon's own file, which nobody else may open."""
    daemon = Daemon(tmp_path)
    daemon.run_directory.mkdir()
    directory = os.open(daemon.run_directory, os.O_RDONLY)
    fcntl.flock(directory, fcntl.LOCK_SH)
    with ending(daemon):
        daemon.start().said("serving")
        assert stat.S_IMODE((daemon.run_directory / "lock").stat().st_mode) == 0o600
    os.close(directory)


def test_a_run_directory_that_anybody_may_write_to_is_refused(tmp_path: Path) -> None:
    """Others could put there what the daemon would then take for its own: 69, and what to do."""
    daemon = Daemon(tmp_path)
    daemon.run_directory.mkdir()
    daemon.run_directory.chmod(0o1777)
    with ending(daemon):
        assert daemon.start().exited() == os.EX_UNAVAILABLE
    (sentence,) = daemon.unstructured
    assert "anybody may put files into" in sentence
    assert "[server] run_directory" in sentence


def test_a_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    """A file is in the way: which directory, and the setting."""
    (tmp_path / "run").write_text("in the way")
    daemon = Daemon(tmp_path)
    with ending(daemon):
        assert daemon.start().exited() == os.EX_UNAVAILABLE
    (sentence,) = daemon.unstructured
    assert sentence.startswith(f"cmserverd: cannot make {tmp_path}/run: ")
    assert "[server] run_directory" in sentence


@pytest.mark.parametrize("way", [[], ["--check-config"]])
@pytest.mark.parametrize(
    ("config", "line", "says"),
    [
        ("[sessions]\ngrace = -1\n", 11, "sessions.grace"),
        ("[sessoins]\ngrace = 1\n", 10, "did you mean sessions"),
        ("[drivers.usb]\nembeded = true\n", 11, "did you mean embedded"),
        ("[drivers.nosuch]\n", 10, "There is no driver 'nosuch'"),
        ("x = = 1\n", 10, "is not TOML"),
    ],
)
def test_a_fault_in_the_configuration_is_78_with_its_line(
    config: str, line: int, says: str, way: list[str], tmp_path: Path
) -> None:
    """File, line and what would be right, whether it is checked or used."""
    daemon = Daemon(tmp_path, config=config)
    ended = run("--config", str(daemon.config), *way)
    assert ended.returncode == os.EX_CONFIG
    (sentence,) = ended.stderr.splitlines()
    assert sentence.startswith(f"cmserverd: {daemon.config}:{line}: ")
    assert says in sentence
    assert not daemon.run_directory.exists()


def test_a_configuration_that_is_not_there_is_78(tmp_path: Path) -> None:
    """It was asked for by name, so the defaults will not do."""
    ended = run("--config", str(tmp_path / "none.toml"))
    assert ended.returncode == os.EX_CONFIG
    assert ended.stderr.startswith(f"cmserverd: {tmp_path}/none.toml: cannot be read")


def test_an_embedded_container_that_is_wrong_is_78(tmp_path: Path) -> None:
    """A driver whose options cannot work says so before anything listens."""
    daemon = Daemon(tmp_path, config='[drivers.usb]\nembedded = true\nembedded_container = "/no/such.toml"\n')
    ended = run("--config", str(daemon.config))
    assert ended.returncode == os.EX_CONFIG
    assert "/no/such.toml" in ended.stderr


def test_a_sound_configuration_is_said_to_be_sound(tmp_path: Path) -> None:
    """Nothing is started, made or touched."""
    daemon = Daemon(tmp_path)
    ended = run("--check-config", "--config", str(daemon.config))
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"{daemon.config}: the configuration is sound\n", "")
    assert not daemon.run_directory.exists()


def test_the_files_of_containers_are_checked_too(tmp_path: Path) -> None:
    """Each that is wrong is told by file and line, with exit code 78; one that is not there yet is a warning only."""
    daemon = Daemon(tmp_path, dongle=None)
    wrong, missing = tmp_path / "wrong.toml", daemon.dongle
    warning = f"There is no such file yet: {missing}; once it is there, its containers are served."
    ended = run("--check-config", "--config", str(daemon.config))
    assert (ended.returncode, ended.stderr) == (0, f"cmserverd: warning: {warning}\n")
    wrong.write_text('id = "3-1"\ntext = 5\n')
    daemon.config.write_text(f'[drivers.virtual]\nfiles = ["{missing}", "{wrong}"]\n')
    ended = run("--check-config", "--config", str(daemon.config))
    assert (ended.returncode, ended.stdout) == (os.EX_CONFIG, "")
    assert ended.stderr.splitlines() == [
        f"cmserverd: warning: {warning}",
        f"cmserverd: {wrong}:2: text: expected a text, got 5",
    ]


def test_what_would_not_be_believed_is_told_by_the_check(tmp_path: Path) -> None:
    """Each firm item in a container's file that would not count, with the reason; it is a warning: the rest goes on."""
    daemon = Daemon(tmp_path)
    box = tmp_path / "box.cmc"
    signing = image.SigningKeys(bytes(32), {FIRM: bytes(range(32))})
    cmc.create(box, charts(), signing)
    public = keys.to_text(keys.public_of(bytes(range(32))))
    files = f'[drivers.virtual]\nfiles = ["{daemon.dongle}", "{box}"]\n'
    unknown = f"Firm item {FIRM} is of a licensor whom this server does not know; if it is to be believed, write {FIRM}"
    warning, told = "cmserverd: warning: virtual container", "once the licensor told you this key."
    daemon.config.write_text(files)
    ended = run("--check-config", "--config", str(daemon.config))
    assert (ended.returncode, ended.stdout) == (0, f"{daemon.config}: the configuration is sound\n")
    assert ended.stderr.splitlines() == [
        f'{warning} {box}: {unknown} = "{public}" under [licensors], {told}',
        f'{warning} 3-1 in {daemon.dongle}: {unknown} = "unsigned" under [licensors].',
    ]
    daemon.config.write_text(f'{files}[licensors]\n{FIRM} = "{public}"\n')
    ended = run("--check-config", "--config", str(daemon.config))
    unsigned = f"Firm item {FIRM} is not signed; have its licensor program it again."
    assert ended.stderr.splitlines() == [f"{warning} 3-1 in {daemon.dongle}: {unsigned}"]
    with box.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        ended = run("--check-config", "--config", str(daemon.config))
    said = f"whether the virtual container {box} would be believed is not known: another process has it"
    assert (ended.returncode, ended.stderr.splitlines()[0]) == (0, f"cmserverd: warning: {said}")


def test_a_file_of_containers_that_is_not_there_is_in_the_log(tmp_path: Path) -> None:
    """Once, with its name: a name that was mistyped would else be looked for in silence for ever."""
    daemon = Daemon(tmp_path, dongle=None)
    with ending(daemon):
        daemon.serve()
        assert str(daemon.dongle) in daemon.said("no such file yet")["reason"]


def test_without_a_file_the_check_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """That nothing was found is not taken for that all was right."""
    monkeypatch.setattr(main, "DEFAULT_CONFIG", tmp_path / "none.toml")
    assert main.main(["--check-config"]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/none.toml: there is no such file; the defaults are used, and sound\n"


def test_the_help_has_the_exit_codes() -> None:
    """Whoever writes a unit or a script finds them where he looks first."""
    said = run("--help").stdout
    for code in (os.EX_OK, 2, os.EX_UNAVAILABLE, os.EX_CONFIG):
        assert f"\n  {code:<2}  " in said


def test_it_tells_its_version() -> None:
    """With exit code 0; wrong usage has 2."""
    ended = run("--version")
    assert (ended.returncode, ended.stdout) == (0, f"cmserverd {cmserverd.__version__}\n")
    assert run("--no-such").returncode == 2


# --- without a dongle ---------------------------------------------------------------------------------------------


def test_without_a_dongle_it_serves_and_warns(tmp_path: Path) -> None:
    """Requests are answered with 200, and one that is plugged in later is used."""
    daemon = Daemon(tmp_path, dongle=None, config="[containers]\npoll = 0.1\n")
    with ending(daemon):
        daemon.serve()
        assert daemon.said("no container is plugged in")["level"] == "warning"
        with Caller(daemon.address) as caller:
            caller.ask(hello())
            with pytest.raises(LicenseError) as refusal:
                caller.ask(access())
            assert number_of(refusal.value) == ErrorNumber.ENTRY_NOT_FOUND
            daemon.dongle.write_text(TWO_CHARTS)
            daemon.said("container plugged in")
            caller.ask(access())
        assert daemon.stop() == 0


def test_without_a_driver_it_serves_and_warns(tmp_path: Path) -> None:
    """It does not count as starting for ever."""
    daemon = Daemon(tmp_path)
    text = daemon.config.read_text()
    daemon.config.write_text(text[: text.index("[drivers.virtual]")] + "[drivers]\n")
    with ending(daemon):
        daemon.serve()
        assert daemon.said("no driver is configured")["level"] == "warning"
        with Caller(daemon.monitor) as caller:
            caller.ask(hello())
            assert not caller.ask(m.ServerInfoRequest()).starting
        assert daemon.stop() == 0


def test_the_embedded_dongle_serves_the_demo(tmp_path: Path) -> None:
    """The device model behind the USB driver, in the process, with its own licenses."""
    daemon = Daemon(tmp_path, dongle=None, config="[drivers.usb]\nembedded = true\n")
    with ending(daemon):
        daemon.serve()
        assert daemon.said("container plugged in")["kind"] == "embedded"
        with Caller(daemon.address) as caller:
            caller.ask(hello())
            assert caller.ask(access()).container == "3-3448482"
        assert daemon.stop() == 0
