"""The pages: one module for each, with its handler and what its template is given. `ROUTES` has what they offer."""

from __future__ import annotations

from typing import Final

from cmserverd.webadmin.offers import Action, Offer, Page
from cmserverd.webadmin.pages import (
    client_removal,
    configuration,
    containers,
    dashboard,
    details,
    events,
    licenses,
    removal,
    sessions,
    tracking,
    updating,
    usage,
)
from cmserverd.webadmin.people import Role

ROUTES: Final[tuple[Offer, ...]] = (
    Page("/", dashboard.dashboard, menu="Dashboard"),
    Page("/containers", containers.containers, menu="CmContainers"),
    Page("/containers/{container}", containers.contents),
    Action("/containers/{container}/request", updating.request_file, Role.OPERATOR),
    Action("/containers/{container}/update", updating.apply, Role.OPERATOR),
    Page("/licenses", licenses.licenses, menu="Licenses"),
    Page("/licenses/{container}/{firm_code}/{product_code}", details.details),
    Page("/sessions", sessions.sessions, menu="Sessions"),
    Page("/accesses/{handle}/remove", removal.ask, Role.OPERATOR),
    Action("/accesses/{handle}/remove", removal.remove, Role.OPERATOR),
    Page("/accesses/{handle}/remove-client", client_removal.ask, Role.OPERATOR),
    Action("/accesses/{handle}/remove-client", client_removal.remove, Role.OPERATOR),
    Page("/usage", usage.usage, menu="Usage", reads_history=True),
    Page("/tracking", tracking.tracking, menu="Tracking", reads_history=True),
    Action("/tracking/verify", tracking.verify, Role.OPERATOR, reads_history=True),
    Page("/events", events.events, menu="Events"),
    Page("/configuration", configuration.configuration, menu="Configuration"),
    Action("/configuration/reload", configuration.reload, Role.OPERATOR),
)
