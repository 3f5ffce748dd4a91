"""`docs/protocol.md` says what the code does: its bytes, its tables, its client."""

from __future__ import annotations

import re
import socket
import threading
from pathlib import Path

import msgpack
import msgspec
import pytest
from msgspec import Struct, structs

from cmserverd import config
from cmserverd.connection import Pace
from cmserverd.conversation import EVENTS, REQUESTS
from cmserverd.core import rules
from cmserverd.core.refusal import REASONS
from cmserverd.core.table import REMEMBERED_ENDINGS
from cmserverd.reaper import Patience
from cmserverd.views import PAGE_BYTES
from examples import minimal
from protocol import backoff, rpc, station
from protocol import messages as m
from protocol.address import PORT
from protocol.connection import OUTSTANDING
from protocol.errors import ErrorNumber
from protocol.terms import AccessMode, Client, HandleKind, Station
from tests.protocol.cases import CASES
from tests.protocol.conversation import as_markdown, conversation, shown
from tests.protocol.fake_server import PATIENCE, FakeConnection, FakeServer, ThreadHost
from tests.protocol.test_station import HASHED, MACHINE_ID

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")


def section(heading: str) -> str:
    """Return a section of the page, from its heading to the next one of the same or a higher level."""
    level = heading.split(" ", 1)[0]
    _, _, rest = PAGE.partition(f"\n{heading}\n")
    assert rest, heading
    return re.split(rf"^#{{2,{len(level)}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def test_the_bytes_of_the_conversation() -> None:
    """The digits on the page are what client and server say, and what stands above them is their sense."""
    blocks = re.findall(r"```text\n(.+)\n```\n\n```hex\n([0-9a-f \n]+)\n```", PAGE)
    said = conversation()
    assert [bytes.fromhex(digits) for _, digits in blocks] == [line.data for line in said]
    assert [readable for readable, _ in blocks] == [shown(msgpack.unpackb(line.data)) for line in said]


def test_the_conversation_stands_as_it_is_made() -> None:
    """The remarks too; `python -m tests.protocol.conversation` prints what belongs there."""
    assert as_markdown(conversation()) in PAGE


def test_the_whole_client() -> None:
    """The client on the page is the file, to the letter."""
    assert f"```python\n{(ROOT / 'examples' / 'minimal.py').read_text(encoding='utf-8')}```" in PAGE


def test_the_table_of_errors() -> None:
    """Every number stands in the table with its name, and no other does."""
    rows = re.findall(r"^\| (\d+) \| ([A-Z_]+) \|", section("## Errors"), re.MULTILINE)
    assert {int(number): name for number, name in rows} == {number.value: number.name for number in ErrorNumber}
    assert [int(number) for number, _ in rows] == sorted(ErrorNumber)


@pytest.mark.parametrize("kind", [*m.RESULTS, *m.RESULTS.values(), m.Event, m.ErrorBody, m.Reason, m.EndedHandle])
def test_every_field_is_described(kind: type[Struct]) -> None:
    """Each field of each message is named on the page."""
    for field in structs.fields(kind):
        assert re.search(rf"`(?:[a-z_]+(?:\[\])?\.)*{field.encode_name}`", PAGE), field.encode_name


@pytest.mark.parametrize(
    "kind",
    [Client, Station, m.Server, m.Limits, m.ContainerInfo, m.EntryInfo, m.FirmItemInfo, m.LicenseCount, m.AccessInfo],
)
def test_every_field_of_a_part_is_described(kind: type[Struct]) -> None:
    """So is each field of the maps inside."""
    for field in structs.fields(kind):
        assert re.search(rf"`(?:[a-z_]+(?:\[\])?\.)*{field.encode_name}`", PAGE), field.encode_name


@pytest.mark.parametrize("method", m.METHODS)
def test_every_method_has_its_section(method: str) -> None:
    """Each method has a heading."""
    assert re.search(rf"^### .*`{method}`", PAGE, re.MULTILINE)


@pytest.mark.parametrize("word", [*AccessMode, *HandleKind, *m.EndCause, *sorted(m.EVENT_NAMES)])
def test_every_word_is_explained(word: str) -> None:
    """Each mode, kind, cause and event begins a row of a table."""
    assert f"\n| `{word}` |" in PAGE


def test_the_figures() -> None:
    """Port, limits and versions on the page are those of the code."""
    assert f"port {PORT} unless" in PAGE
    assert f"at most {OUTSTANDING} may be unanswered" in PAGE
    table = section("## Transport and framing")
    for row, name in [("bytes in all", "total"), ("elements of an array", "array"), ("entries of a map", "map"),
                      ("bytes of a `str`", "text"), ("bytes of a `bin`", "binary")]:  # fmt: skip
        found = re.search(rf"^\| {re.escape(row)} \| ([0-9,]+) \| ([0-9,]+)(?: \(`limits.message`\))? \| (.+) \|$",
                          table, re.MULTILINE)  # fmt: skip
        assert found is not None, row
        limits = [getattr(each, name) for each in (rpc.BEFORE_GREETING, rpc.FROM_CLIENT, rpc.FROM_SERVER)]
        written = [int(figure.replace(",", "").replace(" MiB", "")) for figure in found.groups()]
        assert written == [*limits[:2], 4 if name == "total" else limits[2]]
    assert rpc.FROM_SERVER.total == 4 * 1024 * 1024
    assert m.PROTOCOL_VERSION == 1


def nested(levels: int) -> bytes:
    """Return a request whose arrays and maps are so many inside each other."""
    return b"\x94\x00\x01\xa1m\x91\x81\xa1x" + b"\x91" * (levels - 3) + b"\x01"


def test_the_levels() -> None:
    """The depth that the page promises is read, and one more ends the connection; ours are as few as it says."""
    row = re.search(r"^\| levels of .* \| ([0-9,]+) \| ([0-9,]+) \| never above (\d+) \|$", PAGE, re.MULTILINE)
    assert row is not None
    most = int(row[1].replace(",", ""))
    assert row[1] == row[2]
    for limits in (rpc.BEFORE_GREETING, rpc.FROM_CLIENT):
        reader = rpc.Reader(limits)
        reader.feed(nested(most))
        assert isinstance(reader.next(), rpc.Request)
        reader.feed(nested(most + 1))
        with pytest.raises(rpc.CodecError):
            reader.next()
    assert max(levels_of(msgpack.unpackb(case.wire)) for case in CASES.values()) <= int(row[3])


def levels_of(value: object) -> int:
    """Return how many arrays and maps are inside each other."""
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(levels_of, value), default=0) if isinstance(value, list) else 0


def test_the_figures_of_the_server() -> None:
    """How long and how many, as far as the page says it: what the daemon does unless it is told otherwise."""
    pace, patience, limits = Pace(), Patience(), rules.Limits()
    flat = " ".join(PAGE.split())
    for figure in (
        f"must come within {pace.hello:g} seconds",
        f"you read nothing for {pace.stalled:g} seconds, it takes",
        f"*Grace* is {patience.grace:g} seconds by default, `timeout` {patience.timeout:g}",
        f"`timeout` | `seconds` | after so long a silence you count as gone ({patience.timeout:g} by default)",
        f"`requests` (unanswered ones, {REQUESTS}), `message` (bytes of one, {rpc.FROM_CLIENT.total:,})",
        f"`handles` (of one session, {limits.handles:,} by default, never above 10,000)",
        f"sessions from your address, {limits.sessions_per_address:,} by default",
        f"*server* ended (the last {REMEMBERED_ENDINGS:,} are kept)",
        f"`resume` tells of the last {REMEMBERED_ENDINGS:,} again",
        f"`reasons` lists them, at most the first {REASONS}",
        f"or because it has some {PAGE_BYTES // 1024} KiB already",
        f"The last {EVENTS:,} events are kept",
        f"too many pushed events unread ({EVENTS:,}, or",
        f"a random time from 0 to {backoff.FIRST:g} seconds, and",
        f"from 0 to twice as long as before, up to {backoff.LONGEST:g} seconds; begin",
        f"unplugged for good ({config.Containers().pull_grace:g} seconds by default)",
    ):
        assert figure in flat, figure
    assert msgspec.convert({"handles": 10_000}, config.Sessions).handles == 10_000
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"handles": 10_001}, config.Sessions)


@pytest.mark.parametrize("method", m.METHODS)
def test_what_is_required(method: str) -> None:
    """A method can be asked with `[]` exactly if its section calls no parameter required."""
    heading = next(line for line in PAGE.splitlines() if re.match(rf"### .*`{method}`", line))
    try:
        rpc.parameters(rpc.Request(1, method, []), m.METHODS[method])
    except rpc.BadMessage:
        assert "required" in section(heading)
    else:
        assert "required" not in section(heading)


def test_every_link_on_the_page_leads_somewhere() -> None:
    """Each link inside the page is the anchor that GitHub makes of one of its headings."""
    headings = re.findall(r"^##+ (.+)$", PAGE, re.MULTILINE)
    anchors = {re.sub(r"[^a-z0-9_ -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    links = set(re.findall(r"\]\(#([^)]*)\)", PAGE))
    assert links
    assert links <= anchors


def test_the_station_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's example, our own module and the small client agree on what a machine is called."""
    text = section("## The station: what to send")
    assert station.APPLICATION.hex in text
    assert f"machine id `{MACHINE_ID}` gives `{HASHED}`" in text
    path = tmp_path / "machine-id"
    path.write_text(MACHINE_ID + "\n")
    monkeypatch.setattr(minimal, "Path", lambda _: path)
    assert minimal.machine() == station.machine(None, station.Surroundings({}, path)) == HASHED


def test_the_whole_client_works(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The small client gets its license over TCP, gives it back and leaves."""
    monkeypatch.setattr(minimal, "machine", lambda: HASHED)
    host = ThreadHost(FakeServer())

    def accept() -> None:
        connected, _ = listener.accept()
        host._serve(connected, FakeConnection(host.server, connected.sendall, connected.close))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept)
        thread.start()
        minimal.main("127.0.0.1", str(listener.getsockname()[1]), "600010", "14")
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert [params.method for params in host.server.seen] == [
        "hello", "access", "keep_alive", "events", "release", "goodbye"
    ]  # fmt: skip
    assert capsys.readouterr().out == (
        "licenses wants a sign of life every 40 seconds\nhandle 1 from container 3-3448482\n"
    )
