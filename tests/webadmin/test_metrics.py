"""Metrics and health: each figure is where its name says, labels stay bounded, and rules ask for what there is."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import AsyncGenerator, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import pytest
from msgspec.structs import replace
from prometheus_client import CollectorRegistry

from cmserverd.webadmin.daemon import Daemon as Asked
from cmserverd.webadmin.health import fault
from cmserverd.webadmin.metrics import Figures, Snapshot
from cmserverd.webadmin.people import Role
from cmserverd.webadmin.sharing import Shared
from protocol import messages as m
from protocol.errors import ErrorNumber, LicenseError
from protocol.listings import ContainerInfo, LicenseCount
from protocol.watching import Durability, EndedCount, Latency, LicensePeak, ProductRefusals, RefusedCount
from tests.daemon.harness import CHARTS, FIRM, Caller, Daemon, ending, hello
from tests.webadmin.machines import Machine, machine

MONITORING: Final = Path(__file__).resolve().parents[2] / "monitoring"

LICENSE: Final = {"container": "3-1", "firm_code": "600010", "product_code": "14", "item": "1"}

FIGURES: Final = m.Statistics(
    position=1,
    time=1_000,
    started=400,
    containers=1,
    sessions=3,
    sessions_peak=4,
    accesses=7,
    granted=20,
    released=11,
    ended=(EndedCount("silent", 2),),
    refused=(RefusedCount(212, "NO_MORE_LICENSES", 6),),
    products=(ProductRefusals(600010, 14, (RefusedCount(212, "NO_MORE_LICENSES", 5),)),),
    user_limit=1,
    no_user_limit=2,
    exclusive=3,
    station_share=4,
    latency=Latency((0.001, 0.01), (5, 3, 2), 0.5),
    durability=Durability("process", protected=True, commit=0.25, history=4_096),
    peaks=(LicensePeak("3-1", 600010, 14, 1, 9),),
    borrowed=1,
)

SERVER: Final = m.ServerInfo(m.Server("alpha", "cmserverd", "1.2"), (), 1, 1_000, 400, False, 1, 3, 7)

COUNTS: Final = LicenseCount(
    "3-1", 600010, 14, 1, "Charts", None, True, 10, 10, 8, 2, 1, 2, 3, 4, valid_until=1_600, borrowed=1
)


UNPROTECTED: Final = Durability("power", protected=False, why="the disk is full")


def collected(**changes: Any) -> CollectorRegistry:
    """Return what is collected of a snapshot."""
    plugged, gone = ContainerInfo("3-1", "virtual", "", True, 1), ContainerInfo("3-2", "virtual", "", False, 1)
    unlimited = replace(COUNTS, item=2, valid_until=None)
    now = Snapshot(SERVER, FIGURES, (plugged, gone), (COUNTS, unlimited), complete=True)
    registry = CollectorRegistry()
    registry.register(Figures(replace(now, **changes)))
    return registry


@pytest.mark.parametrize(
    ("name", "labels", "value"),
    [
        ("up", {}, 1),
        ("info", {"version": "1.2"}, 1),
        ("start_time_seconds", {}, 400),
        ("starting", {}, 0),
        ("protected", {}, 1),
        ("commit_seconds", {}, 0.25),
        ("history_bytes", {}, 4_096),
        ("containers", {}, 2),
        ("container_present", {"container": "3-1"}, 1),
        ("container_present", {"container": "3-2"}, 0),
        ("sessions", {}, 3),
        ("sessions_peak", {}, 4),
        ("accesses", {"mode": "user_limit"}, 1),
        ("accesses", {"mode": "station_share"}, 4),
        ("borrowed", {}, 1),
        ("granted_total", {}, 20),
        ("released_total", {}, 11),
        ("ended_total", {"cause": "silent"}, 2),
        ("refused_total", {"number": "212", "name": "NO_MORE_LICENSES"}, 6),
        (
            "denied_total",
            {"firm_code": "600010", "product_code": "14", "number": "212", "name": "NO_MORE_LICENSES"},
            5,
        ),
        ("licenses_complete", {}, 1),
        ("licenses_offered", LICENSE, 10),
        ("licenses_used", LICENSE, 8),
        ("licenses_free", LICENSE, 2),
        ("licenses_borrowed", LICENSE, 1),
        ("licenses_peak", LICENSE, 9),
        ("license_expires_in_seconds", LICENSE, 600),
        ("license_expires_in_seconds", {**LICENSE, "item": "2"}, None),
        ("request_duration_seconds_bucket", {"le": "0.001"}, 5),
        ("request_duration_seconds_bucket", {"le": "0.01"}, 8),
        ("request_duration_seconds_bucket", {"le": "+Inf"}, 10),
        ("request_duration_seconds_count", {}, 10),
        ("request_duration_seconds_sum", {}, 0.5),
    ],
)
def test_each_figure_is_where_its_name_says(name: str, labels: dict[str, str], value: float | None) -> None:
    """One by one."""
    assert collected().get_sample_value(f"cmserverd_{name}", labels) == value


def test_labels_are_no_clients_to_choose() -> None:
    """What clients say of themselves would make series without end."""
    bounded = {"version", "container", "firm_code", "product_code", "item", "mode", "cause", "number", "name", "le"}
    labels = {label for family in collected().collect() for sample in family.samples for label in sample.labels}
    assert labels == bounded


def test_a_silent_license_server_is_a_figure_too() -> None:
    """Who scrapes must be able to tell it from a WebAdmin that does not run."""
    registry = CollectorRegistry()
    registry.register(Figures(None))
    assert [(one.name, one.samples[0].value) for one in registry.collect()] == [("cmserverd_up", 0)]


# --- over HTTP ----------------------------------------------------------------------------------------------------


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """Run a daemon with two licenses."""
    daemon = Daemon(tmp_path)
    with ending(daemon):
        daemon.serve().said("container plugged in")
        yield daemon


@pytest.fixture
async def scraper(daemon: Daemon, tmp_path: Path) -> AsyncGenerator[Machine]:
    """Give a machine that asks."""
    async with machine(daemon.run_directory, tmp_path) as made:
        yield made


async def test_a_scraper_reads_what_is_in_use(daemon: Daemon, scraper: Machine) -> None:
    """With a token only, in the format it knows; and the names of the client are nowhere."""
    with Caller(daemon.address) as client:
        client.ask(hello(host="a-secret-host"))
        for _ in range(2):
            client.ask(m.Access(m.AccessKey(secrets.token_bytes(16)), FIRM, CHARTS))
        with pytest.raises(LicenseError):
            client.ask(m.Access(m.AccessKey(secrets.token_bytes(16)), FIRM, CHARTS))
        answer = await scraper.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    labels = 'container="3-1",firm_code="600010",item="1",product_code="14"'
    assert f"cmserverd_licenses_used{{{labels}}} 2.0" in answer.text
    assert f"cmserverd_licenses_peak{{{labels}}} 2.0" in answer.text
    assert "cmserverd_licenses_complete 1.0" in answer.text
    assert re.search(r'cmserverd_denied_total\{.*name="NO_MORE_LICENSES".*\} 1.0', answer.text)
    assert "a-secret-host" not in answer.text
    assert (await scraper.get("/metrics", None)).status_code == 401


async def test_anybody_may_scrape_where_anybody_may_look(daemon: Daemon, tmp_path: Path) -> None:
    """As with the pages."""
    async with machine(daemon.run_directory, tmp_path / "run", Role.VIEWER) as scraper:
        assert (await scraper.get("/metrics", None)).status_code == 200


async def test_health_is_open_to_everybody(scraper: Machine) -> None:
    """A load balancer has no token."""
    for path, word in (("/health/alive", "alive\n"), ("/health/ready", "ready\n")):
        answer = await scraper.get(path, None)
        assert (answer.status_code, answer.text) == (200, word)


async def test_without_a_license_server_it_is_alive_and_not_ready(tmp_path: Path) -> None:
    """It says so, for health and for metrics."""
    async with machine(tmp_path / "nowhere", tmp_path) as nobody:
        assert (await nobody.get("/health/alive", None)).status_code == 200
        answer = await nobody.get("/health/ready", None)
        assert (answer.status_code, answer.text) == (503, "silent\n")
        answer = await nobody.get("/metrics")
        assert (answer.status_code, "cmserverd_up 0.0\n" in answer.text) == (200, True)


class MadeUp(Asked):
    """A daemon that answers what a test says, or with an error."""

    def __init__(self, server: m.ServerInfo, figures: m.Statistics | LicenseError) -> None:
        self._server = server
        self._figures = figures
        self.health = Shared(self._answer)

    async def ask(self, _: m.Params[Any]) -> Any:
        """Be asked as for a page."""
        pytest.fail("health has a connection of its own")

    async def _answer(self, params: m.Params[Any]) -> Any:
        if isinstance(params, m.ServerInfoRequest):
            return self._server
        if isinstance(self._figures, LicenseError):
            raise self._figures
        return self._figures


@pytest.mark.parametrize(
    ("server", "figures", "word"),
    [
        (SERVER, FIGURES, ""),
        (replace(SERVER, starting=True), FIGURES, "starting"),
        (
            SERVER,
            replace(FIGURES, durability=UNPROTECTED),
            "unprotected",
        ),
        (SERVER, LicenseError.of(ErrorNumber.NETWORK_FAULT), "silent"),
        (SERVER, LicenseError.of(ErrorNumber.NOT_IMPLEMENTED), "faulty"),
    ],
)
async def test_one_word_says_why_it_is_not_ready(
    server: m.ServerInfo, figures: m.Statistics | LicenseError, word: str
) -> None:
    """Each reason has its own."""
    assert await fault(MadeUp(server, figures)) == word


# --- rules and dashboard ------------------------------------------------------------------------------------------


def names() -> set[str]:
    """Return the names of all series."""
    return {sample.name for family in collected().collect() for sample in family.samples}


@pytest.mark.parametrize("file", ["cmserverd.rules.yml", "cmserverd.dashboard.json"])
def test_rules_and_dashboard_ask_for_series_that_there_are(file: str) -> None:
    """A name that is mistyped is an alert that never comes."""
    text = (MONITORING / file).read_text(encoding="utf-8")
    asked = set(re.findall(r"\bcmserverd_[a-z_]+", text))
    assert asked
    assert asked <= names()


def test_rules_are_rules() -> None:
    """Each alert has an expression, a severity and a sentence."""
    text = (MONITORING / "cmserverd.rules.yml").read_text(encoding="utf-8")
    rules = [rule for group in import_module("yaml").safe_load(text)["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules) > 0
    for rule in rules:
        assert rule["expr"]
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"]


def test_the_dashboard_is_json_whose_panels_do_not_overlap() -> None:
    """Grafana moves what overlaps; each panel asks for something."""
    panels = json.loads((MONITORING / "cmserverd.dashboard.json").read_text(encoding="utf-8"))["panels"]
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
    assert all(target["expr"] for panel in panels for target in panel["targets"])
