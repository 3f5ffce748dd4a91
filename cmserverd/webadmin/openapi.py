"""Says what the JSON API is: its operations as values, and the OpenAPI document that is made of their message types.

The types are the protocol's, which validate what is sent: a description that was written beside them would age.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

import cmserverd
from cmserverd.webadmin.offers import Visit
from cmserverd.webadmin.people import Role

VERSION: Final = "3.1.0"
"""Of OpenAPI."""

BASE64: Final = "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
"""What octets look like: that they are in Base64 is only a remark to JSON Schema."""

_PROBLEMS: Final = {
    400: "A parameter is wrong; the text says which, and what would be right",
    401: "There is no token, or not such a one",
    403: "The token has not the role that this needs",
    404: "There is no such thing",
    409: "The license server refuses",
    413: "The body is too long",
    415: "The body is not JSON",
    503: "The license server does not answer, or too much is asked for at once",
}


class Problem(Struct, frozen=True):
    """What was wrong. `number` and `name` are of the license server's table of errors; null if it was not asked."""

    number: int | None
    name: str | None
    title: str
    text: str


class Refusal(Struct, frozen=True):
    """The body of every answer that is not a success."""

    error: Problem


@dataclass(frozen=True)
class Operation:
    """Something that can be asked. `params` are what is in path and query, or in the body of a POST.

    `ask` gets the visit and the parameters, and returns a `result`. Raises LicenseError. Of those that `reads_history`,
    few are worked on at once.
    """

    path: str
    summary: str
    params: type[Struct]
    result: type[Struct]
    ask: Callable[[Visit, Any], Awaitable[Struct]]
    role: Role = Role.VIEWER
    method: Literal["GET", "POST"] = "GET"
    reads_history: bool = False


def document(operations: Iterable[Operation]) -> dict[str, Any]:
    """Return the OpenAPI document of some operations."""
    every = tuple(operations)
    types = [one.params for one in every] + [one.result for one in every] + [Refusal]
    _, schemas = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    schemas = _portable(schemas)
    paths: dict[str, dict[str, Any]] = {}
    for one in every:
        paths.setdefault(one.path, {})[one.method.lower()] = _operation(one, schemas)
    sent = {one.params.__name__ for one in every if one.method == "POST"}
    spread = {one.params.__name__ for one in every} - sent
    return {
        "openapi": VERSION,
        "info": {
            "title": "License server",
            "version": cmserverd.__version__,
            "description": "Times are whole Unix seconds, UTC. A field that is missing has its default.",
        },
        "paths": paths,
        "components": {
            "schemas": {name: schema for name, schema in schemas.items() if name not in spread},
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "A token, which an administrator makes."}
            },
        },
        "security": [{"token": []}],
    }


def _operation(one: Operation, schemas: dict[str, Any]) -> dict[str, Any]:
    problem = {"application/json": {"schema": {"$ref": f"#/components/schemas/{Refusal.__name__}"}}}
    result = {"application/json": {"schema": {"$ref": f"#/components/schemas/{one.result.__name__}"}}}
    said: dict[str, Any] = {
        "operationId": one.path.removeprefix("/api/v1/").replace("/{", "_").replace("}", ""),
        "summary": one.summary,
        "description": f"Needs the role {one.role}.",
        "responses": {
            "200": {"description": "The answer", "content": result},
            **{str(status): {"description": text, "content": problem} for status, text in _PROBLEMS.items()},
        },
    }
    if one.method == "POST":
        body = {"application/json": {"schema": {"$ref": f"#/components/schemas/{one.params.__name__}"}}}
        said["requestBody"] = {"required": True, "content": body}
    else:
        fields = schemas[one.params.__name__]["properties"]
        said["parameters"] = [_parameter(one, name, schema) for name, schema in fields.items()]
    return said


def _parameter(one: Operation, name: str, schema: dict[str, Any]) -> dict[str, Any]:
    in_path = f"{{{name}}}" in one.path
    return {"name": name, "in": "path" if in_path else "query", "required": in_path, "schema": _present(schema)}


def _present(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a parameter that is there: who means none leaves it out."""
    choices = [choice for choice in schema.get("anyOf", ()) if choice != {"type": "null"}]
    return choices[0] if len(choices) == 1 else schema


def _portable(schema: Any) -> Any:
    r"""Return a schema as other languages read it: `$` is the end in their patterns, `\Z` a letter; octets have one."""
    if isinstance(schema, list):
        return [_portable(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: _portable(part) for name, part in schema.items()}
    if isinstance(made.get("pattern"), str):
        made["pattern"] = made["pattern"].replace(r"\Z", "$")
    if made.get("contentEncoding") == "base64":
        made["pattern"] = BASE64
    if isinstance(made.get("description"), str):
        made["description"] = inspect.cleandoc(made["description"])
    return made
