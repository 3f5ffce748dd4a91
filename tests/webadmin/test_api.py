"""The JSON API: what it tells, whom it lets in, what it refuses, and that it is as its own document says."""

from __future__ import annotations

import base64
import secrets
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import msgspec
import pytest
import schemathesis
from schemathesis.config import GenerationConfig, ProjectConfig, ProjectsConfig, SchemathesisConfig
from starlette.datastructures import QueryParams

from cmserverd.webadmin.api import OPERATIONS, from_query
from cmserverd.webadmin.openapi import BASE64, Operation, document
from cmserverd.webadmin.people import Role
from protocol import messages as m
from protocol.errors import ErrorNumber, LicenseError
from protocol.terms import AccessMode
from tests.daemon.harness import CHARTS, FIRM, Caller, Daemon, ending, hello
from tests.webadmin.machines import Machine, machine, serving


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Run a daemon with two licenses."""
    daemon = Daemon(tmp_path_factory.mktemp("daemon"))
    with ending(daemon):
        daemon.serve().said("container plugged in")
        yield daemon


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Caller]:
    """Give a client of the daemon."""
    with Caller(daemon.address) as caller:
        caller.ask(hello())
        yield caller
        caller.ask(m.Goodbye())


@pytest.fixture
async def api(daemon: Daemon, tmp_path: Path) -> AsyncGenerator[Machine]:
    """Give a machine that asks."""
    async with machine(daemon.run_directory, tmp_path) as made:
        yield made


def access(caller: Caller, mode: AccessMode = AccessMode.USER_LIMIT) -> int:
    """Take an access; return the handle."""
    return caller.ask(m.Access(m.AccessKey(secrets.token_bytes(16)), FIRM, CHARTS, mode)).handle


# --- what it tells ------------------------------------------------------------------------------------------------


async def test_it_tells_what_the_license_server_tells(api: Machine, client: Caller) -> None:
    """Each answer is a message of the protocol."""
    handle = access(client)
    containers = (await api.get("/api/v1/containers")).json()["containers"]
    assert [(one["id"], one["present"]) for one in containers] == [("3-1", True)]
    contents = (await api.get("/api/v1/containers/3-1")).json()
    assert contents["firm_items"][0]["entries"][0]["text"] == "Charts"
    licenses = (await api.get("/api/v1/licenses")).json()["licenses"]
    assert [(one["product_code"], one["total"], one["used"], one["free"]) for one in licenses] == [(CHARTS, 2, 1, 1)]
    accesses = (await api.get("/api/v1/accesses", firm_code=FIRM, relevant="true")).json()["accesses"]
    assert [(one["handle"], one["host"], one["mode"]) for one in accesses] == [(handle, "pc1", "user_limit")]
    assert (await api.get("/api/v1/server")).json()["starting"] is False
    assert (await api.get("/api/v1/statistics")).json()["user_limit"] == 1
    tracked = (await api.get("/api/v1/tracking", since=0)).json()["lines"]
    assert handle in [line.get("handle") for line in tracked]
    used = (await api.get("/api/v1/usage", by="hour")).json()["rows"]
    assert [(row["product_code"], row["peak"]) for row in used] == [(CHARTS, 1)]


async def test_what_happens_is_told_from_a_position_on(api: Machine, client: Caller) -> None:
    """The first answer says where to go on; the next has what happened since."""
    position = (await api.get("/api/v1/events")).json()["position"]
    handle = access(client)
    events = (await api.get("/api/v1/events", since=position)).json()["events"]
    assert [(one["kind"], one["handle"]) for one in events] == [("granted", handle)]


async def test_lists_go_on_at_a_cursor(api: Machine, client: Caller) -> None:
    """Each page says where the next one begins."""
    handles = [access(client, AccessMode.NO_USER_LIMIT) for _ in range(3)]
    found, cursor = [], 0
    while True:
        page = (await api.get("/api/v1/accesses", cursor=cursor, limit=1)).json()
        found += [one["handle"] for one in page["accesses"]]
        if (cursor := page.get("next")) is None:
            break
    assert found == handles


async def test_filters_leave_the_others_out(api: Machine, client: Caller) -> None:
    """A product that nobody holds."""
    access(client)
    assert (await api.get("/api/v1/accesses", product_code=CHARTS + 1)).json()["accesses"] == []
    assert (await api.get("/api/v1/licenses", container="3-2")).json()["licenses"] == []


# --- removal ------------------------------------------------------------------------------------------------------


async def test_an_allocation_is_removed_for_whom_the_token_names(api: Machine, client: Caller, daemon: Daemon) -> None:
    """Its license is free; the daemon's log says who did it, and that is not the caller's to say."""
    handle = access(client)
    answer = await api.post("/api/v1/deallocate", {"handle": handle, "seen": [handle]})
    assert answer.status_code == 200
    assert ([one["handle"] for one in answer.json()["accesses"]], answer.json()["licenses"]) == ([handle], 1)
    assert (await api.get("/api/v1/licenses")).json()["licenses"][0]["used"] == 0
    assert "token:a-operator" in str(daemon.said("an operator took a license from who held it"))
    answer = await api.post("/api/v1/deallocate", {"handle": handle, "by": "somebody else"})
    assert (answer.status_code, answer.json()["error"]["name"]) == (400, "INVALID_PARAMETER")


async def test_who_may_only_look_removes_nothing(api: Machine, client: Caller) -> None:
    """It needs an operator."""
    handle = access(client)
    answer = await api.post("/api/v1/deallocate", {"handle": handle}, Role.VIEWER)
    assert answer.status_code == 403
    assert (await api.post("/api/v1/deallocate", {"handle": handle}, None)).status_code in (401, 403)
    assert (await api.get("/api/v1/licenses")).json()["licenses"][0]["used"] == 1


async def test_what_nobody_has_seen_is_not_removed(api: Machine, client: Caller) -> None:
    """An instance that came since: the answer says so, and nothing is removed."""
    one = access(client, AccessMode.STATION_SHARE)
    access(client, AccessMode.STATION_SHARE)
    answer = await api.post("/api/v1/deallocate", {"handle": one, "seen": [one]})
    assert (answer.status_code, answer.json()["error"]["number"]) == (400, ErrorNumber.INVALID_PARAMETER)
    assert len((await api.get("/api/v1/accesses")).json()["accesses"]) == 2


# --- updates and settings -----------------------------------------------------------------------------------------


async def test_a_request_file_is_made_for_whom_the_token_names(api: Machine, daemon: Daemon) -> None:
    """Of a container that can make one; a description has no key for that, and the answer says so."""
    answer = await api.post("/api/v1/context", {"container": "3-1"})
    assert (answer.status_code, answer.json()["error"]["number"]) == (409, ErrorNumber.NOT_SUPPORTED)
    answer = await api.post("/api/v1/context", {"container": "3-1", "by": "somebody else"})
    assert answer.status_code == 400


@pytest.mark.parametrize(
    ("update", "status", "number"),
    [
        (b"stranger's", 409, ErrorNumber.UPDATE_FAILED),
        (bytes(65_536), 409, ErrorNumber.UPDATE_FAILED),
        (bytes(65_537), 400, ErrorNumber.INVALID_PARAMETER),
    ],
    ids=["no update", "the longest", "too long"],
)
async def test_what_is_no_update_is_refused(api: Machine, update: bytes, status: int, number: int) -> None:
    """By the license server, or here if it is longer than one can be."""
    answer = await api.post("/api/v1/import", {"update": base64.b64encode(update).decode()})
    assert (answer.status_code, answer.json()["error"]["number"]) == (status, number)


async def test_the_settings_are_read_anew_for_whom_the_token_names(api: Machine, daemon: Daemon) -> None:
    """The answer says what is in force now, and what needs a restart."""
    before = daemon.config.read_text()
    daemon.config.write_text(before.replace('level = "info"', 'level = "debug"') + "\n[borrowing]\nkeep = 3\n")
    try:
        answer = await api.post("/api/v1/reload", {})
        assert answer.json() == {"taken": ["borrowing.keep", "log.level"], "restart": []}
        assert "token:a-operator" in str(daemon.said("the settings were read anew"))
    finally:
        daemon.config.write_text(before)
        await api.post("/api/v1/reload", {})


@pytest.mark.parametrize(
    ("path", "body"),
    [("context", {"container": "3-1"}), ("import", {"update": ""}), ("reload", {})],
)
async def test_who_may_only_look_does_none_of_it(api: Machine, path: str, body: dict[str, str]) -> None:
    """Each needs an operator."""
    assert (await api.post(f"/api/v1/{path}", body, Role.VIEWER)).status_code == 403


# --- errors -------------------------------------------------------------------------------------------------------


async def test_errors_have_number_name_and_text(api: Machine, tmp_path: Path) -> None:
    """Those of the license server its own; those of the way to it none."""
    answer = await api.get("/api/v1/containers/3-77")
    error = answer.json()["error"]
    assert (answer.status_code, error["number"], error["name"]) == (404, 201, "BOX_NOT_FOUND")
    assert error["text"].endswith("Error 201.")
    answer = await api.get("/api/v1/licenses", None)
    assert (answer.status_code, answer.json()["error"]["number"]) == (401, None)
    async with machine(tmp_path / "nowhere", tmp_path / "other") as nobody:
        answer = await nobody.get("/api/v1/licenses")
        assert answer.status_code == 503
        assert answer.json()["error"]["number"] in (ErrorNumber.NETWORK_FAULT, ErrorNumber.SERVER_NOT_FOUND)


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("firmcode=5", "'firmcode' is no parameter"),
        ("firm_code=5&firm_code=6", "firm_code is there twice"),
        ("firm_code=4294967296", "<= 4294967295"),
        ("firm_code=-1", "firm_code"),
        ("firm_code=", "firm_code"),
        ("firm_code=null", "firm_code"),
        ("limit=1001", "<= 1000"),
        ("container=3-1%0a", "container"),
        ("relevant=yes", "relevant"),
    ],
)
def test_a_filter_that_is_wrong_is_refused(query: str, text: str) -> None:
    """Else who mistypes one would be shown everything."""
    with pytest.raises(LicenseError) as refused:
        from_query(m.NetUsers, QueryParams(query), {})
    assert refused.value.number == ErrorNumber.INVALID_PARAMETER
    assert text in refused.value.text


async def test_a_body_that_is_no_json_is_refused(api: Machine) -> None:
    """A form of another site cannot say that it is JSON."""
    headers = {"Authorization": f"Bearer {api.tokens[Role.OPERATOR]}"}
    form = await api.client.post("/api/v1/deallocate", data={"handle": "1"}, headers=headers)
    assert form.status_code == 415
    headers["Content-Type"] = "application/json"
    for body in (b"", b"[]", b'{"handle": 0}', b'{"handle": "1"}', b"\xff", b"[" * 100_000):
        assert (await api.client.post("/api/v1/deallocate", content=body, headers=headers)).status_code == 400


# --- its document -------------------------------------------------------------------------------------------------


async def test_the_document_is_served_to_viewers(api: Machine) -> None:
    """It names each operation and its parameters, as the messages have them."""
    assert (await api.get("/api/v1/openapi.json", None)).status_code == 401
    described = (await api.get("/api/v1/openapi.json")).json()
    assert described == msgspec.json.decode(msgspec.json.encode(document(OPERATIONS)))
    assert described["openapi"].startswith("3.1")
    assert set(described["paths"]) == {one.path for one in OPERATIONS}
    names = [one["name"] for one in described["paths"]["/api/v1/accesses"]["get"]["parameters"]]
    assert names == ["container", "firm_code", "product_code", "relevant", "cursor", "limit", "session", "allocation"]
    assert r"\Z" not in str(described)
    assert described["components"]["schemas"]["Update"]["properties"]["update"]["pattern"] == BASE64


def _described() -> Any:
    """Return the document for trying it out: always with a token, since the next test is about those without one."""
    generation = GenerationConfig(with_security_parameters=False)
    config = SchemathesisConfig(projects=ProjectsConfig(default=ProjectConfig(generation=generation)))
    return schemathesis.openapi.from_dict(document(OPERATIONS), config=config)


_schema: Any = _described()


@pytest.fixture(scope="module")
def served(daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[Role, str]]]:
    """Serve the API."""
    with serving(daemon.run_directory, tmp_path_factory.mktemp("served")) as made:
        yield made


def _whole(value: Any) -> Any:
    """Spell whole numbers as such: to JSON Schema 960.0 is one too, and we do not take it."""
    if isinstance(value, dict):
        return {name: _whole(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_whole(part) for part in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


@_schema.parametrize()  # type: ignore[untyped-decorator]
@hypothesis.settings(max_examples=25, derandomize=True, deadline=None, database=None)
def test_it_is_as_its_document_says(case: Any, served: tuple[str, dict[Role, str]]) -> None:
    """What the document allows is taken, what it forbids is refused, and every answer has the form that it promises."""
    url, tokens = served
    case.body = _whole(case.body)
    case.call_and_validate(base_url=url, headers={"Authorization": f"Bearer {tokens[Role.OPERATOR]}"})


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda one: str(one.path))
async def test_nothing_is_told_without_a_token(api: Machine, operation: Operation) -> None:
    """Each operation demands one; what is done without a log-in's form is refused."""
    path = operation.path.format(container="3-1")
    answer = await api.get(path, None) if operation.method == "GET" else await api.post(path, {"handle": 1}, None)
    assert answer.status_code == (401 if operation.method == "GET" else 403)
