"""The figures as Prometheus reads them. Labels are what licensors and the server name: never a user, host or address.

So the number of series is that of the licenses there are, of at most 5,000 of them, whatever clients do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Final

import trio
from msgspec import Struct
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from cmserverd.webadmin.daemon import Daemon, is_silent
from cmserverd.webadmin.offers import Api, Offer, Visit
from cmserverd.webadmin.pages import asking
from protocol.errors import LicenseError
from protocol.messages import ContainerInfo, LicenseCount, ServerInfo
from protocol.watching import Latency, Statistics, StatisticsRequest

_LICENSE: Final = ("container", "firm_code", "product_code", "item")
_PRODUCT: Final = ("firm_code", "product_code", "number", "name")

Row = tuple[tuple[str | int, ...], float]
"""The values of the labels, and the figure."""


class Snapshot(Struct, frozen=True):
    """What the license server said. `complete`: these are all licenses there are."""

    server: ServerInfo
    figures: Statistics
    containers: tuple[ContainerInfo, ...]
    licenses: tuple[LicenseCount, ...]
    complete: bool


class Figures(Collector):
    """Collects a snapshot; None: the license server does not answer."""

    def __init__(self, snapshot: Snapshot | None) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        now = self._snapshot
        yield _gauge("up", "Whether the license server answers", now is not None)
        if now is not None:
            yield from _of_server(now)
            yield from _of_accesses(now.figures)
            yield from _of_licenses(now)


async def snapshot(daemon: Daemon) -> Snapshot | None:
    """Ask for all that is shown; None if the license server does not answer. Raises LicenseError if it refuses."""
    try:
        server = await daemon.server()
        figures = await daemon.ask(StatisticsRequest())
        containers = (await daemon.containers()).containers
        licenses, complete = await asking.all_licenses(daemon.ask)
    except LicenseError as error:
        if is_silent(error):
            return None
        raise
    return Snapshot(server, figures, containers, licenses, complete)


async def metrics(request: Request, visit: Visit) -> Response:
    """Show them in the format that the scraper asks for."""
    figures = Figures(await snapshot(visit.daemon))
    registry = CollectorRegistry()
    registry.register(figures)
    encoder, content_type = choose_encoder(request.headers.get("accept", ""))
    # Some 40,000 lines at most, in a thread: nobody else waits for them.
    return Response(await trio.to_thread.run_sync(encoder, registry), headers={"Content-Type": content_type})


def _of_server(now: Snapshot) -> Iterator[Metric]:
    figures, kept = now.figures, now.figures.durability
    yield _gauges("info", "The license server's version", ("version",), [((now.server.server.version,), 1)])
    yield _gauge("start_time_seconds", "When it started, in license time", figures.started)
    yield _gauge("starting", "Whether not every driver has looked once yet", now.server.starting)
    yield _gauge("protected", "Whether what is granted survives a restart", kept.protected)
    yield _gauge("commit_seconds", "How long the last commit took", kept.commit)
    yield _gauge("history_bytes", "Bytes of the journal's files", kept.history)
    yield _gauge("containers", "Containers that the server knows", len(now.containers))
    yield _gauges(
        "container_present",
        "Whether a container is plugged in",
        ("container",),
        [((one.id,), one.present) for one in now.containers],
    )
    yield _gauge("sessions", "Sessions, of clients attached or away", figures.sessions)
    yield _gauge("sessions_peak", "The most sessions at once since the start", figures.sessions_peak)
    yield _latency(figures.latency)


def _of_accesses(figures: Statistics) -> Iterator[Metric]:
    modes = ("user_limit", "no_user_limit", "exclusive", "station_share")
    yield _gauges(
        "accesses",
        "What is held now, by mode: accesses, or stations for station_share",
        ("mode",),
        [((mode,), getattr(figures, mode)) for mode in modes],
    )
    yield _gauge("borrowed", "Units that are borrowed", figures.borrowed)
    yield _counters("granted", "Accesses that were granted", (), [((), figures.granted)])
    yield _counters("released", "Accesses that their clients let go of", (), [((), figures.released)])
    yield _counters(
        "ended",
        "Accesses that the server ended",
        ("cause",),
        [((one.cause,), one.count) for one in figures.ended],
    )
    yield _counters(
        "refused",
        "Requests of clients that were refused, by error number",
        ("number", "name"),
        [((one.number, one.name), one.count) for one in figures.refused],
    )
    yield _counters(
        "denied",
        "Requests for a license of a product that were refused, by error number",
        _PRODUCT,
        [
            ((product.firm_code, product.product_code, one.number, one.name), one.count)
            for product in figures.products
            for one in product.refused
        ],
    )


def _of_licenses(now: Snapshot) -> Iterator[Metric]:
    rows = now.licenses
    yield _gauge("licenses_complete", "Whether all licenses are shown below, not the first 5,000", now.complete)
    yield _of_each("licenses_offered", "Units that are offered now", ((one, one.total) for one in rows))
    yield _of_each("licenses_used", "Units in use", ((one, one.used) for one in rows))
    yield _of_each("licenses_free", "Units that are free", ((one, one.free) for one in rows))
    yield _of_each("licenses_borrowed", "Units in use that are borrowed", ((one, one.borrowed) for one in rows))
    yield _gauges(
        "licenses_peak",
        "The most units in use at once since the start",
        _LICENSE,
        [((one.container, one.firm_code, one.product_code, one.item), one.peak) for one in now.figures.peaks],
    )
    yield _of_each(
        "license_expires_in_seconds",
        "License time until a license ends, below 0 once it is over; of those that end",
        # By the server's time, which is right where a machine's clock is not.
        ((one, one.valid_until - now.figures.time) for one in rows if one.valid_until is not None),
    )


def _latency(latency: Latency) -> Metric:
    bounds = [*(str(bound) for bound in latency.bounds), "+Inf"]
    counts = accumulate(latency.counts)  # a class of ours is between two bounds, one of theirs all up to one
    family = HistogramMetricFamily(
        "cmserverd_request_duration_seconds", "For how long requests were worked on; some of them", labels=()
    )
    family.add_metric((), buckets=list(zip(bounds, counts, strict=True)), sum_value=latency.sum)
    return family


def _of_each(name: str, text: str, rows: Iterable[tuple[LicenseCount, float]]) -> Metric:
    labelled = [((one.container, one.firm_code, one.product_code, one.item), value) for one, value in rows]
    return _gauges(name, text, _LICENSE, labelled)


def _gauge(name: str, text: str, value: float) -> Metric:
    return _gauges(name, text, (), [((), value)])


def _gauges(name: str, text: str, labels: tuple[str, ...], rows: Iterable[Row]) -> Metric:
    family = GaugeMetricFamily(f"cmserverd_{name}", text, labels=labels)
    for said, value in rows:
        family.add_metric([str(one) for one in said], float(value))
    return family


def _counters(name: str, text: str, labels: tuple[str, ...], rows: Iterable[Row]) -> Metric:
    family = CounterMetricFamily(f"cmserverd_{name}", text, labels=labels)
    for said, value in rows:
        family.add_metric([str(one) for one in said], float(value))
    return family


ROUTES: Final[tuple[Offer, ...]] = (Api("/metrics", metrics),)
