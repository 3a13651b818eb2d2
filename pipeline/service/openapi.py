"""The OpenAPI description, made from the routes and the typed requests, and a page that shows it.

The page is plain HTML made here: it needs no script and no internet.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from typing import Any

from starlette.routing import BaseRoute, Route

from vsodpipe import __version__
from vsodpipe.service import requests
from vsodpipe.service.jobs import Job
from vsodpipe.service.kinds import KINDS

_REF = "#/components/schemas/{model}"
_QUERIES = {
    "/api/jobs": {"state": "string", "limit": "integer", "before": "integer"},
    "/api/events": {"job": "integer"},
}
"""Parameters in the query of GET requests."""


def describe(routes: Sequence[BaseRoute], token: bool) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of the `routes` below /api, /metrics and /healthz."""
    paths: dict[str, Any] = {}
    for route in routes:
        if isinstance(route, Route) and route.include_in_schema:
            path = re.sub(r":\w+}", "}", route.path)
            for method in sorted((route.methods or set()) - {"HEAD"}):
                paths.setdefault(path, {})[method.lower()] = _operation(route, path, method)
    schemas = {"Job": Job.model_json_schema(ref_template=_REF)}
    schemas |= {_name(k): requests.model(k).model_json_schema(ref_template=_REF) for k in KINDS}
    schemas |= {f"{_name(kind)}Job": _submission(kind) for kind in KINDS}
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "vsodpipe", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": {**schemas, "Error": _object({"error": {"type": "string"}}, ["error"])},
        },
    }
    if token:
        document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"token": []}]
    return document


def _name(kind: str) -> str:
    return f"{kind.capitalize()}Arguments"


def _object(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required}


def _submission(kind: str) -> dict[str, Any]:
    arguments = {"$ref": _REF.format(model=_name(kind))}
    return _object({"kind": {"const": kind}, "arguments": arguments}, ["kind"])


def _operation(route: Route, path: str, method: str) -> dict[str, Any]:
    said = (route.endpoint.__doc__ or "").strip().partition("\n")[0]
    number = re.sub(r"\W+", "_", path).strip("_")
    operation: dict[str, Any] = {"summary": said, "operationId": f"{method.lower()}_{number}"}
    inside = [_parameter(n, "path", "string") for n in re.findall(r"{(\w+)}", path)]
    if method == "GET":
        inside += [_parameter(n, "query", kind) for n, kind in _QUERIES.get(path, {}).items()]
    if inside:
        operation["parameters"] = inside
    fine: dict[str, Any] = {"description": "Done."}
    if path.startswith("/api/jobs") and path.rpartition("/")[2] in ("jobs", "{job}", "cancel"):
        one = {"$ref": _REF.format(model="Job")}
        many = _object({"jobs": {"type": "array", "items": one}, "next": {}}, ["jobs", "next"])
        schema = many if (method, path) == ("GET", "/api/jobs") else one
        fine["content"] = {"application/json": {"schema": schema}}
    if (method, path) == ("POST", "/api/jobs"):
        choices = [{"$ref": _REF.format(model=f"{_name(kind)}Job")} for kind in KINDS]
        body = {"application/json": {"schema": {"oneOf": choices}}}
        operation["requestBody"] = {"required": True, "content": body}
    wrong = {"application/json": {"schema": {"$ref": _REF.format(model="Error")}}}
    operation["responses"] = {
        "2XX": fine,
        "4XX": {"description": "What was wrong, in one line.", "content": wrong},
    }
    return operation


def _parameter(name: str, place: str, kind: str) -> dict[str, Any]:
    return {"name": name, "in": place, "required": place == "path", "schema": {"type": kind}}


def page(document: dict[str, Any]) -> str:
    """Return the description as HTML for people."""
    rows = [
        f"<tr><td><code>{method.upper()} {escape(path)}</code><td>{escape(one['summary'])}"
        for path, methods in document["paths"].items()
        for method, one in methods.items()
    ]
    parts = [f"<h2>Requests</h2><table>{''.join(rows)}</table>"]
    for kind in KINDS:
        schema = document["components"]["schemas"][_name(kind)]
        must = schema.get("required", ())
        fields = [
            f"<tr><td><code>{escape(name)}</code>{' *' if name in must else ''}"
            f"<td>{escape(_type(field))}<td>{escape(field.get('description', ''))}"
            for name, field in schema["properties"].items()
        ]
        parts.append(f"<h2>Job: {kind}</h2><table>{''.join(fields)}</table>")
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><meta name="color-scheme" '
        'content="light dark"><title>vsodpipe: requests</title>'
        f'<h1>vsodpipe {escape(__version__)}</h1><p>As a document: <a href="/openapi.json">'
        "openapi.json</a>. A job: <code>POST /api/jobs {&quot;kind&quot;: &quot;flow&quot;, "
        "&quot;arguments&quot;: {&quot;names&quot;: [&quot;DAVIS_train&quot;]}}</code>. "
        f"* must be given.</p>{''.join(parts)}</html>"
    )


def _type(field: dict[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(_type(one) for one in field["anyOf"])
    if field.get("type") == "array":
        return f"list of {_type(field['items'])}"
    return str(field.get("type", ""))
