"""The systemd files: what systemd itself says of them, and that they agree with the daemon and with each other."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from cmserverd import main
from cmserverd.config import Config
from protocol.station import Surroundings

SYSTEMD = Path(__file__).parents[2] / "systemd"
UNIT = SYSTEMD / "cmserverd.service"


def read(path: Path) -> dict[str, list[str]]:
    """Return a unit's settings, each with all its values."""
    settings = defaultdict(list)
    for line in path.read_text().splitlines():
        if line and not line.startswith(("#", "[")):
            name, _, value = line.partition("=")
            settings[name].append(value)
    return settings


@pytest.fixture
def unit() -> dict[str, list[str]]:
    return read(UNIT)


def complaints(unit: str, directory: Path) -> str:
    """Return what systemd has to say of a unit; the program it starts need not be installed."""
    path = directory / "cmserverd.service"
    path.write_text(unit.replace("ExecStart=/usr/bin/cmserverd", "ExecStart=/bin/true"))
    program = shutil.which("systemd-analyze")
    assert program is not None
    done = subprocess.run(
        [program, "verify", "--man=no", path], capture_output=True, text=True, timeout=60, check=False
    )
    return done.stdout + done.stderr + ("" if done.returncode == 0 else f"exit code {done.returncode}")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize(
    ("right", "wrong"),
    [("", ""), ("WatchdogSec=", "WatchdogSecs="), ("Type=notify", "Type=nofity"), ("=closed", "=shut")],
)
def test_systemd_has_nothing_to_say_of_the_unit_but_of_a_faulty_one(tmp_path: Path, right: str, wrong: str) -> None:
    """`verify` exits 0 on unknown keys and bad values, so silence is demanded; it breaks for each planted fault."""
    assert right in UNIT.read_text()
    assert (complaints(UNIT.read_text().replace(right, wrong) if right else UNIT.read_text(), tmp_path) == "") is (
        right == ""
    )


@pytest.mark.skipif(shutil.which("systemd-sysusers") is None, reason="systemd is not installed")
def test_systemd_can_make_the_users(tmp_path: Path) -> None:
    """A dry run of systemd-sysusers understands every line."""
    program = shutil.which("systemd-sysusers")
    assert program is not None
    (tmp_path / "etc").mkdir()
    command = [program, "--dry-run", f"--root={tmp_path}", str(SYSTEMD / "cmserverd.sysusers")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0
    said = done.stdout + done.stderr
    assert "Creating user 'cmserverd'" in said
    assert "Creating group 'cmserverd'" in said
    assert "ignoring" not in said


def test_the_unit_starts_the_daemon_as_it_can_be_started(unit: dict[str, list[str]]) -> None:
    """The command line has an option that the daemon knows and the file that it reads by default."""
    (command,) = unit["ExecStart"]
    assert command.split() == ["/usr/bin/cmserverd", "--config", str(main.DEFAULT_CONFIG)]
    assert unit["Type"] == ["notify"]
    assert unit["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
    assert unit["NotifyAccess"] == ["main"]
    assert int(unit["WatchdogSec"][0]) >= 10  # three messages in it, each from a loop that may be busy for a second


def test_a_fault_in_the_configuration_is_not_tried_again(unit: dict[str, list[str]], tmp_path: Path) -> None:
    """The daemon's own exit code for it is among those that end the restarting; one for a missing address is not."""
    faulty = tmp_path / "faulty.toml"
    faulty.write_text("server = 1")
    (codes,) = unit["RestartPreventExitStatus"]
    assert str(main.main(["--config", str(faulty)])) in codes.split()
    with pytest.raises(SystemExit) as usage:
        main.main(["--nonsense"])
    assert str(usage.value.code) in codes.split()
    assert str(os.EX_UNAVAILABLE) not in codes.split()
    assert unit["Restart"] == ["on-failure"]
    assert unit["StartLimitIntervalSec"] == ["0"]


def test_the_run_directory_is_the_daemons(unit: dict[str, list[str]]) -> None:
    """Systemd makes the directory where the daemon puts its sockets, and lets only the group in."""
    assert f"/run/{unit['RuntimeDirectory'][0]}" == Config().server.run_directory
    assert unit["RuntimeDirectoryMode"] == ["0750"]
    assert unit["StateDirectoryMode"] == ["0700"]


def test_what_the_daemon_keeps_is_in_its_state_directory(
    unit: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All else is read-only, so the id that it makes on a machine that has none lies there."""
    (variable,) = unit["Environment"]
    name, _, value = variable.partition("=")
    assert value == "%S"  # of the system's services it is this:
    monkeypatch.setenv(name, "/var/lib")
    assert Surroundings().state == Path("/var/lib") / unit["StateDirectory"][0]


def test_the_users_and_groups_agree(unit: dict[str, list[str]]) -> None:
    """What the unit runs as is what sysusers makes, and what udev gives the dongles to."""
    lines = (SYSTEMD / "cmserverd.sysusers").read_text().splitlines()
    assert [line.split()[:2] for line in lines if not line.startswith("#")] == [["u", unit["User"][0]]]
    assert unit["Group"] == unit["User"]
    assert f'GROUP="{unit["Group"][0]}"' in (SYSTEMD / "60-cmserverd.rules").read_text()


def test_dongles_can_be_used_from_inside(unit: dict[str, list[str]]) -> None:
    """Each of these was found necessary by a plug: without it a dongle is not seen, or seen and not opened."""
    assert unit["PrivateDevices"] == ["no"]
    assert unit["DevicePolicy"] == ["closed"]
    assert unit["DeviceAllow"] == ["char-usb_device rw"]
    assert "AF_NETLINK" in unit["RestrictAddressFamilies"][0].split()
    assert "PrivateNetwork" not in unit
    assert "modprobe@usbcore.service" in unit["Wants"][0].split()
    assert "modprobe@usbcore.service" in unit["After"][0].split()


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, "yes") for name in (
        "NoNewPrivileges", "ProtectHome", "PrivateTmp", "ProtectKernelTunables", "ProtectKernelModules",
        "ProtectKernelLogs", "ProtectControlGroups", "ProtectClock", "ProtectHostname", "RestrictNamespaces",
        "RestrictRealtime", "RestrictSUIDSGID", "LockPersonality", "MemoryDenyWriteExecute",
    )]
    + [
        ("ProtectSystem", "strict"),
        ("ProtectProc", "invisible"),
        ("ProcSubset", "pid"),
        ("CapabilityBoundingSet", ""),
        ("AmbientCapabilities", ""),
        ("SystemCallArchitectures", "native"),
        ("UMask", "0077"),
    ],
)  # fmt: skip
def test_everything_else_is_closed(unit: dict[str, list[str]], name: str, value: str) -> None:
    """The sandbox has no hole that dongles and clients do not need."""
    assert unit[name] == [value]


def test_system_calls_are_those_of_a_service(unit: dict[str, list[str]]) -> None:
    """A list of what is allowed, less what needs privileges; the limit of open files needs no call, being one value."""
    assert unit["SystemCallFilter"] == ["@system-service", "~@privileged @resources"]
    assert unit["LimitNOFILE"][0].isdecimal()
