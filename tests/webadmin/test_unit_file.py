"""The unit of WebAdmin: what systemd itself says of it, and that it agrees with the daemon's and with the command."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from cmserverd.config import Config
from cmserverd.webadmin import main
from tests.daemon.test_unit_file import SYSTEMD, read

UNIT = SYSTEMD / "cmserverd-webadmin.service"
DAEMONS = SYSTEMD / "cmserverd.service"

OTHERS = {"Description", "Type", "ExecStart", "Wants", "After", "StateDirectory", "LimitNOFILE", "TasksMax"}
"""What is another matter for WebAdmin than for the daemon."""


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize(("right", "wrong"), [("", ""), ("MemoryMax=", "MemoryMaxi="), ("=closed", "=shut")])
def test_systemd_has_nothing_to_say_of_the_unit_but_of_a_faulty_one(tmp_path: Path, right: str, wrong: str) -> None:
    """`verify` exits 0 on unknown keys and bad values, so silence is demanded; it breaks for each planted fault."""
    program = shutil.which("systemd-analyze")
    assert program is not None
    text = UNIT.read_text()
    assert right in text
    path = tmp_path / UNIT.name
    for unit, command in ((UNIT, "/usr/bin/cmserverd-webadmin"), (DAEMONS, "/usr/bin/cmserverd")):
        (tmp_path / unit.name).write_text(unit.read_text().replace(f"ExecStart={command} ", "ExecStart=/bin/true "))
    if right:
        path.write_text(path.read_text().replace(right, wrong))
    done = subprocess.run(
        [program, "verify", "--man=no", path], capture_output=True, text=True, timeout=60, check=False
    )
    said = done.stdout + done.stderr
    assert (said == "" and done.returncode == 0) is (right == ""), said


def test_it_is_closed_as_the_daemons_is() -> None:
    """The same sandbox, less what is for dongles; the same user, who may open the daemon's sockets."""
    unit, daemons = read(UNIT), read(DAEMONS)
    assert unit["PrivateDevices"] == ["yes"]
    assert unit["RestrictAddressFamilies"] == ["AF_UNIX AF_INET AF_INET6"]
    for dongles in ("PrivateDevices", "DeviceAllow", "RestrictAddressFamilies"):
        unit.pop(dongles, None)
        daemons.pop(dongles)
    of_the_daemon = {"NotifyAccess", "WatchdogSec", "ExecReload", "RuntimeDirectory", "RuntimeDirectoryMode"}
    shared = daemons.keys() - OTHERS - of_the_daemon
    assert len(shared) > 30
    assert {name: unit[name] for name in shared} == {name: daemons[name] for name in shared}


def test_it_starts_the_command_and_keeps_its_files_where_they_are() -> None:
    """By the configuration that is read by default; only its own part of the daemon's state can be written."""
    unit = read(UNIT)
    assert unit["ExecStart"][0].split() == ["/usr/bin/cmserverd-webadmin", "--config", str(main.DEFAULT_CONFIG)]
    assert f"/var/lib/{unit['StateDirectory'][0]}" == f"{Config().server.state_directory}/{main.DIRECTORY}"
    assert "ReadWritePaths" not in unit
