"""Addresses: each spelling, each mistake, and where a server is looked for."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from protocol.address import LOOPBACK, Address, Tcp, Unix, candidates, configuration_files, named, parse
from protocol.errors import SettingError


@pytest.mark.parametrize(
    ("text", "address", "shown"),
    [
        ("licenses", Tcp("licenses", 22350), "licenses:22350"),
        ("licenses.example.org", Tcp("licenses.example.org", 22350), "licenses.example.org:22350"),
        ("licenses:1234", Tcp("licenses", 1234), "licenses:1234"),
        ("my_pc:65535", Tcp("my_pc", 65535), "my_pc:65535"),
        ("10.0.0.7", Tcp("10.0.0.7", 22350), "10.0.0.7:22350"),
        ("10.0.0.7:1", Tcp("10.0.0.7", 1), "10.0.0.7:1"),
        ("::1", Tcp("::1", 22350), "[::1]:22350"),
        ("2001:db8::7", Tcp("2001:db8::7", 22350), "[2001:db8::7]:22350"),
        ("[::1]", Tcp("::1", 22350), "[::1]:22350"),
        ("[::1]:1234", Tcp("::1", 1234), "[::1]:1234"),
        ("[fe80::1%eth0]:1234", Tcp("fe80::1%eth0", 1234), "[fe80::1%eth0]:1234"),
        ("unix:/run/cmserverd/monitor", Unix("/run/cmserverd/monitor"), "unix:/run/cmserverd/monitor"),
        ("unix:/a b:c", Unix("/a b:c"), "unix:/a b:c"),
    ],
)
def test_spellings(text: str, address: Address, shown: str) -> None:
    """Each form is understood, and what is shown is understood again."""
    assert parse(text) == address
    assert str(address) == shown
    assert parse(shown) == address


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "'' names no host; write host, host:port, [IPv6]:port or unix:/path"),
        (":1234", "':1234' names no host"),
        ("a b", "names no host"),
        ("-\n", "names no host"),
        ("a..b", "names no host"),
        ("h" * 64, "names no host"),
        ("a:", "'a:' has no valid port; a port is a number from 1 to 65535"),
        ("a:0", "no valid port"),
        ("a:65536", "no valid port"),
        ("a:+1", "no valid port"),
        ("a:\u0661", "no valid port"),
        ("http://a", "no valid port"),
        ("[::1]:x", "no valid port"),
        ("[::1]:", "no valid port"),
        ("::1:99999", "several colons, and is no IPv6 address"),
        ("[::1", "several colons, and is no IPv6 address"),
        ("[::g]:1", "no valid IPv6 address"),
        ("[]:1", "no valid IPv6 address"),
        ("a:1:2", "several colons, and is no IPv6 address"),
        ("unix:", "no socket's address; write unix: and an absolute path"),
        ("unix:run/x", "no socket's address"),
        ("unix:/a\0b", "no socket's address"),
        ("unix:/" + "x" * 107, "too long for a socket; use one of at most 107 bytes"),
    ],
)
def test_mistakes(text: str, sentence: str) -> None:
    """Each mistake gives one sentence that names the source and says what to write."""
    with pytest.raises(SettingError, match=re.escape(sentence)) as error:
        parse(text, "the variable X")
    assert str(error.value).startswith("the variable X: ")
    assert str(error.value).isprintable()


def test_the_order_of_places(tmp_path: Path) -> None:
    """The argument goes before the variable, that before the user's file, that before the site's, and then loopback."""
    user, site = tmp_path / "user.toml", tmp_path / "site.toml"
    user.write_text('servers = ["user-a", "user-b:1234"]\n')
    site.write_text('servers = ["site"]\n')
    environ = {"CMSERVERD_SERVER": "variable"}
    assert candidates("argument", environ=environ, files=[user, site]) == (Tcp("argument"),)
    assert named("argument", environ=environ, files=[user, site]) == ("argument", (Tcp("argument"),))
    assert named(environ=environ, files=[user, site]) == ("CMSERVERD_SERVER", (Tcp("variable"),))
    assert named(environ={}, files=[user, site]) == (str(user), (Tcp("user-a"), Tcp("user-b", 1234)))
    assert named(environ={}, files=[]) == ("default", LOOPBACK)
    assert candidates(environ=environ, files=[user, site]) == (Tcp("variable"),)
    assert candidates(environ={"CMSERVERD_SERVER": ""}, files=[user, site]) == (Tcp("user-a"), Tcp("user-b", 1234))
    user.unlink()
    assert candidates(environ={}, files=[user, site]) == (Tcp("site"),)
    site.write_text("# nothing here\n")
    assert candidates(environ={}, files=[user, site]) == LOOPBACK
    site.write_text("servers = []\n")
    assert candidates(environ={}, files=[user, site]) == LOOPBACK
    assert candidates(environ={}, files=[site / "below a file"]) == LOOPBACK


def test_the_real_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without injected inputs the process's own variables and configuration directories are used."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("CMSERVERD_SERVER", raising=False)
    path = tmp_path / "cmserverd" / "client.toml"
    assert configuration_files()[0] == path
    path.parent.mkdir()
    path.write_text('servers = ["from-the-file"]')
    assert candidates() == (Tcp("from-the-file"),)
    monkeypatch.setenv("CMSERVERD_SERVER", "from-the-variable")
    assert candidates() == (Tcp("from-the-variable"),)


def test_a_bad_argument_or_variable_is_not_passed_over() -> None:
    """A mistake in one place does not lead to the next place."""
    with pytest.raises(SettingError, match=r"^the server's address: ''"):
        candidates("", environ={"CMSERVERD_SERVER": "good"}, files=[])
    with pytest.raises(SettingError, match=r"^the variable CMSERVERD_SERVER: 'a:b'"):
        candidates(environ={"CMSERVERD_SERVER": "a:b"}, files=[])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"servers = [", "is no valid TOML"),
        (b"servers = ['\xff']", "is no valid TOML"),
        (b"servers = " + b"1" * 5_000, "has a number that is too long, or nests too deep"),
        (b"servers = " + b"[" * 5_000, "has a number that is too long, or nests too deep"),
        (b"servers = 'a'", "servers must be a list of texts"),
        (b"servers = [1]", "servers must be a list of texts"),
        (b"servers = ['a', 'b:x']", "servers: 'b:x' has no valid port"),
        (b"#" * 65_537, "is longer than 65536 bytes"),
    ],
)
def test_a_bad_file(tmp_path: Path, content: bytes, sentence: str) -> None:
    """A faulty configuration file is named in one sentence."""
    path = tmp_path / "client.toml"
    path.write_bytes(content)
    with pytest.raises(SettingError) as error:
        candidates(environ={}, files=[path])
    assert str(error.value).startswith(str(path))
    assert sentence in str(error.value)


def test_an_unreadable_file(tmp_path: Path) -> None:
    """A file that cannot be read is said, and not passed over."""
    (tmp_path / "client.toml").mkdir()
    with pytest.raises(SettingError, match="cannot be read"):
        candidates(environ={}, files=[tmp_path / "client.toml"])


def test_a_path_is_measured_in_bytes() -> None:
    """The system's limit counts bytes, not characters."""
    longest = "/" + "x" * 106
    assert parse("unix:" + longest) == Unix(longest)
    with pytest.raises(SettingError, match="too long"):
        parse("unix:/" + "\u00e4" * 54)
    assert len(os.fsencode("/" + "\u00e4" * 54)) == 109


def test_the_page_has_the_clients_file(tmp_path: Path) -> None:
    """The example in `docs/configuration.md` is read as it says."""
    page = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
    example = page.partition("## The client's file")[2].partition("```toml\n")[2].partition("```")[0]
    (tmp_path / "client.toml").write_text(example)
    found = candidates(environ={}, files=[tmp_path / "client.toml"])
    assert found == (Tcp("licenses.example.com"), Tcp("10.0.0.7", 22351), Tcp("2001:db8::1"))
