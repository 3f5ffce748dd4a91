"""The settings in force as an operator is told them, and read anew while the daemon runs: by a request, by a signal."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import pytest
from msgspec import Meta, Struct
from msgspec.structs import fields
from structlog.testing import capture_logs

from cmserverd.config import Config
from cmserverd.core.refusal import Refused
from cmserverd.settings import Settings
from drivers import registry
from protocol import messages as m
from protocol.errors import LicenseError
from protocol.watching import Setting
from tests.daemon.harness import (
    CONTROL,
    FIRM,
    TWO_CHARTS,
    Caller,
    Daemon,
    Talk,
    access,
    charts,
    ending,
    hello,
    make_service,
)

TEXT = """\
# A comment in front.
[server]
name = "alpha"
listen = [
  "127.0.0.1:1",
]
[log]
level = "warning"

[licensors]
600010 = "unsigned"
[drivers.virtual]
files = ["/srv/a.toml"]
"""


def read(path: Path, text: str = TEXT) -> Settings:
    """Return the settings that a file has."""
    path.write_text(text)
    return Settings(lambda: path, lambda name: registry.load(name).Options)


def rows(settings: Settings) -> dict[str, Setting]:
    """Return what is told of each."""
    return {f"{row.section}.{row.key}": row for row in settings.told().settings}


def test_every_setting_is_told_with_where_it_is_set(tmp_path: Path) -> None:
    """Value and default as they would stand in the file, the line on which it begins, and what it means."""
    settings = read(tmp_path / "c.toml")
    told = rows(settings)
    assert settings.told().file == str(tmp_path / "c.toml")
    for part in fields(Config):
        if isinstance(getattr(Config(), part.name), Struct):
            for known in fields(getattr(Config(), part.name)):
                row = told[f"{part.encode_name}.{known.encode_name}"]
                assert row.meaning
                assert row.allowed
    assert (told["server.name"].value, told["server.name"].line) == ('"alpha"', 3)
    assert (told["server.listen"].value, told["server.listen"].line) == ('["127.0.0.1:1"]', 4)
    assert told["server.listen"].default == '["127.0.0.1:22350", "[::1]:22350"]'
    assert (told["sessions.grace"].value, told["sessions.grace"].default, told["sessions.grace"].line) == (
        "5.0",
        "5.0",
        0,
    )
    assert (told["log.level"].value, told["log.level"].line, told["log.level"].reloads) == ('"warning"', 8, True)
    assert told["log.format"].reloads is False
    assert (told["licensors.600010"].value, told["licensors.600010"].line) == ('"unsigned"', 10)
    assert (told["drivers.virtual.files"].value, told["drivers.virtual.files"].line) == ('["/srv/a.toml"]', 13)


def test_a_secret_is_not_told(tmp_path: Path) -> None:
    """A driver marks it in its options; that it is set is told."""

    class Options(Struct):
        user: str = ""
        password: Annotated[str, Meta(extra={"secret": True})] = ""

    path = tmp_path / "c.toml"
    path.write_text('[drivers.far]\nuser = "fs"\npassword = "open sesame"\n')
    told = rows(Settings(lambda: path, lambda _: Options))
    assert told["drivers.far.user"].value == '"fs"'
    assert told["drivers.far.password"].value == "(not shown)"


def test_without_a_file_the_defaults_are_told() -> None:
    """And no file is named."""
    settings = Settings(lambda: None, lambda name: registry.load(name).Options)
    assert settings.told().file == ""
    assert all(row.value == row.default and not row.line for row in settings.told().settings)


def test_what_can_be_changed_is_taken_over_and_the_rest_is_told(tmp_path: Path) -> None:
    """What needs a restart is told each time until there is one; what is in force stays as it was."""
    settings = read(tmp_path / "c.toml")
    taken: list[Config] = []
    settings.apply = taken.append
    (tmp_path / "c.toml").write_text(
        TEXT.replace('level = "warning"', 'level = "info"').replace("alpha", "beta").replace("600010", "600011")
        + "[sessions]\nhandles = 7\ngrace = 9\n"
    )
    with capture_logs() as said:
        told = settings.reload("unix:0 for anna")
    assert set(told.taken) == {"log.level", "sessions.handles", "licensors.600010", "licensors.600011"}
    assert told.restart == ("server.name", "sessions.grace")
    (config,) = taken
    assert config is settings.config
    assert (config.log.level, config.sessions.handles, config.licensors) == ("info", 7, {"600011": "unsigned"})
    assert (config.server.name, config.sessions.grace) == ("alpha", 5.0)
    assert [(line["event"], line["by"]) for line in said] == [("the settings were read anew", "unix:0 for anna")]
    assert rows(settings)["sessions.handles"].line == 15
    assert settings.reload("x") == m.Reloaded((), ("server.name", "sessions.grace"))
    assert len(taken) == 1


def test_what_webadmin_has_to_be_restarted_for_is_told_apart(tmp_path: Path) -> None:
    """A restart of the server would be in vain for it."""
    settings = read(tmp_path / "c.toml")
    (tmp_path / "c.toml").write_text(TEXT.replace("alpha", "beta") + '[webadmin]\nhosts = ["licenses.example"]\n')
    with capture_logs() as said:
        assert settings.reload("x").restart == ("server.name", "webadmin.hosts")
    assert said[0]["need_a_restart"] == ("server.name",)
    assert said[0]["need_a_restart_of_webadmin"] == ("webadmin.hosts",)


@pytest.mark.parametrize("text", ["[server", "sessions.handles = 0", "[drivers.nowhere]"])
def test_a_fault_changes_nothing(tmp_path: Path, text: str) -> None:
    """It is refused with file and line, and the log has it."""
    settings = read(tmp_path / "c.toml")
    before = settings.config
    settings.apply = _must_not
    (tmp_path / "c.toml").write_text(text)
    with capture_logs() as said, pytest.raises(Refused, match=r"c\.toml:1: "):
        settings.reload("x")
    assert settings.config is before
    assert said[0]["log_level"] == "error"


def _must_not(_: Config) -> None:
    pytest.fail("taken over")


def by_request(daemon: Daemon) -> None:
    """Have it read its file anew as cmu or WebAdmin do."""
    with Caller(daemon.control) as control:
        control.ask(hello())
        control.ask(m.Reload(by="anna"))


def by_signal(daemon: Daemon) -> None:
    """Have it read its file anew as systemd does."""
    daemon.process.send_signal(signal.SIGHUP)


@pytest.mark.parametrize("reload", [by_request, by_signal])
def test_a_running_server_takes_it_over(tmp_path: Path, reload: Callable[[Daemon], None]) -> None:
    """Limits, the log's level, and whom it believes: who is believed no longer has no licenses here."""
    daemon = Daemon(tmp_path, dongle=TWO_CHARTS, config="[containers]\npoll = 0.1\n")
    with ending(daemon):
        daemon.serve()
        daemon.said("container plugged in")
        with Caller(daemon.address) as client, Caller(daemon.monitor) as monitor:
            client.ask(hello(1))
            client.ask(access())
            monitor.ask(hello(2))
            text = daemon.config.read_text()
            daemon.config.write_text(
                text.replace(f'{FIRM} = "unsigned"', "").replace('level = "info"', 'level = "debug"')
                + "[sessions]\nhandles = 1\n"
            )
            reload(daemon)
            line = daemon.said("the settings were read anew")
            assert set(line["taken"]) == {f"licensors.{FIRM}", "log.level", "sessions.handles"}
            assert line["by"].endswith("for anna") or line["by"] == "SIGHUP"
            with pytest.raises(LicenseError, match=r"may hold 1"):
                client.ask(access())
            daemon.said("container was read anew")
            daemon.said("passage")
            contents = monitor.ask(m.Contents("3-1"))
            assert contents.firm_items[0].unusable
            assert daemon.process.poll() is None
        assert daemon.stop() == 0


def test_who_acts_is_in_the_log_with_whom_he_names() -> None:
    """What the system says of him comes first, and nothing that he names can take its place or break the line."""
    service = make_service(charts())
    Talk(service, greeting=hello(1)).ask(access())
    with capture_logs() as said:
        Talk(service, CONTROL, hello(2)).ask(m.Deallocate(1, by="anna\nunix:0"))
    assert [line["by"] for line in said if "by" in line] == ["unix:1000 for anna?unix:0"]
