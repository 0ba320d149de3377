"""`/docs`: the service's OpenAPI description as a page to read, and what each error code means. No script at all."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterable
from html import escape
from typing import Any

from fastapi import APIRouter
from starlette.responses import HTMLResponse

from gary.api.page import page_headers
from gary.api.v1.problems import GROUPS

Schema = dict[str, Any]

_STYLE = """
:root { color-scheme: light dark; --line: color-mix(in srgb, currentColor 18%, transparent) }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
code, pre { font: 0.9em/1.45 ui-monospace, monospace }
pre { padding: 0.7rem; border: 1px solid var(--line); border-radius: 6px; overflow-x: auto }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; vertical-align: top; padding: 0.25rem 0.9rem 0.25rem 0 }
th, td { border-bottom: 1px solid var(--line) }
th { font-weight: 600 }
section { border-top: 1px solid var(--line); margin-top: 2rem }
h3 { margin-bottom: 0.2rem } h4 { margin: 1rem 0 0.2rem }
.verb { font-weight: 700; text-transform: uppercase }
nav a { margin-right: 1rem }
"""
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_HEADERS = page_headers(script_src="'none'", style_src=f"'sha256-{_HASH}'")


def handbook_routes(description: Callable[[], Schema]) -> APIRouter:
    """Args:
    description: of the whole service, as OpenAPI.
    """
    routes = APIRouter()

    @routes.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        """Every route."""
        return HTMLResponse(_page("The API", _handbook(description())), headers=_HEADERS)

    @routes.get("/docs/errors", include_in_schema=False)
    async def errors() -> HTMLResponse:
        """Every error code."""
        return HTMLResponse(_page("Error codes", _codes()), headers=_HEADERS)

    return routes


def _page(title: str, body: str) -> str:
    nav = '<nav><a href="/">gary</a><a href="/docs">API</a><a href="/docs/errors">error codes</a>'
    nav += '<a href="/openapi.json">openapi.json</a></nav>'
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title} · gary</title>'
    head += f"<style>{_STYLE}</style>"
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{nav}<h1>{title}</h1>{body}</body></html>'


def _codes() -> str:
    parts = [
        "<p>An error of <code>/v1</code> is <code>application/problem+json</code> (RFC 9457). Its <code>code</code> is "
        "a stable word for programs, its <code>detail</code> a sentence about this very case. A task that failed has "
        "the same codes.</p>"
    ]
    for group, titles in GROUPS.items():
        rows = [(f'<code id="{escape(code)}">{escape(code)}</code>', escape(title)) for code, title in titles.items()]
        parts.append(f"<h2>{escape(group)}</h2>{_table(('code', 'meaning'), rows)}")
    return "".join(parts)


def _handbook(description: Schema) -> str:
    parts = [f"<p>{escape(description['info'].get('summary', ''))}.</p>"]
    tags: dict[str, list[str]] = {}
    for path, operations in description["paths"].items():
        for verb, operation in operations.items():
            for tag in operation.get("tags", ["more"]):
                tags.setdefault(tag, []).append(_operation(verb, path, operation))
    for tag, sections in tags.items():
        parts.append(f"<h2>{escape(tag.capitalize())}</h2>{''.join(sections)}")
    parts.append("<h2>Values</h2>")
    parts += [_value(name, schema) for name, schema in sorted(description["components"]["schemas"].items())]
    return "".join(parts)


def _operation(verb: str, path: str, operation: Schema) -> str:
    title = f'<span class="verb">{escape(verb)}</span> <code>{escape(path)}</code>'
    about = f"<p>{escape(operation.get('description', ''))}</p>"
    parts = [f'<h3 id="{escape(operation["operationId"])}">{title}</h3>{about}']
    if parameters := operation.get("parameters"):
        rows = [
            (
                f"<code>{escape(parameter['name'])}</code>{'' if parameter.get('required') else ' (optional)'}",
                escape(parameter["in"]),
                _type(parameter["schema"]),
                escape(parameter.get("description", "")),
            )
            for parameter in parameters
        ]
        parts.append("<h4>Parameters</h4>" + _table(("name", "in", "type", ""), rows))
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        parts.append(f"<h4>Body: <code>{escape(media_type)}</code></h4>{_body(content.get('schema', {}))}")
    parts.append("<h4>Answers</h4>" + _table(("status", "what", ""), _answers(operation["responses"])))
    return f"<section>{''.join(parts)}</section>"


def _body(schema: Schema) -> str:
    return _fields(schema) if "properties" in schema else f"<p>{_type(schema)}</p>"


def _answers(responses: Schema) -> Iterable[tuple[str, ...]]:
    for status, response in responses.items():
        contents = response.get("content", {}).items()
        types = {f"{escape(media)}: {_type(content.get('schema', {}))}" for media, content in contents}
        yield escape(status), escape(response.get("description", "")), "<br>".join(sorted(types))


def _value(name: str, schema: Schema) -> str:
    about = f"<p>{escape(schema.get('description', ''))}</p>"
    fields = _fields(schema) if "properties" in schema else f"<p>{_type(schema)}</p>"
    examples = (json.dumps(example, indent=2, ensure_ascii=False) for example in schema.get("examples", ()))
    shown = "".join(f"<pre>{escape(example)}</pre>" for example in examples)
    return f'<section><h3 id="{escape(name)}">{escape(name)}</h3>{about}{fields}{shown}</section>'


def _fields(schema: Schema) -> str:
    required = set(schema.get("required", ()))
    rows = [
        (
            f"<code>{escape(name)}</code>{'' if name in required else ' (optional)'}",
            _type(field),
            escape(field.get("description", "")),
            f"<code>{escape(json.dumps(field['default']))}</code>" if "default" in field else "",
        )
        for name, field in schema["properties"].items()
    ]
    return _table(("field", "type", "", "default"), rows)


def _type(schema: Schema) -> str:
    """A type in words, with its bounds; HTML."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        return f'<a href="#{escape(name)}">{escape(name)}</a>'
    for joint in ("anyOf", "oneOf", "allOf"):
        if joint in schema:
            return " or ".join(_type(option) for option in schema[joint])
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return " or ".join(f"<code>{escape(json.dumps(value))}</code>" for value in values)
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return escape(schema.get("format") or schema.get("type", "anything")) + _bounds(schema)


def _bounds(schema: Schema) -> str:
    words = {
        "minimum": "≥",
        "exclusiveMinimum": ">",
        "maximum": "≤",
        "exclusiveMaximum": "<",
        "minLength": "length ≥",
        "maxLength": "length ≤",
        "pattern": "like",
    }
    found = [f"{word} {schema[name]}" for name, word in words.items() if name in schema]
    return f" ({escape(', '.join(found))})" if found else ""


def _table(titles: Iterable[str], rows: Iterable[tuple[str, ...]]) -> str:
    head = "".join(f"<th>{title}</th>" for title in titles)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
