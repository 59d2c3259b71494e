"""The calls and types of the HTTP API as Markdown, from the server's OpenAPI document."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from umrgen.server.http.openapi import document

__all__ = ["page"]

Schema = Mapping[str, Any]
BOUNDS = {
    "minimum": "from {}",
    "maximum": "to {}",
    "minLength": "from {} characters",
    "maxLength": "to {} characters",
    "maxItems": "at most {}",
}


def page() -> str:
    """Return the sections with all calls, then all types."""
    api = document()
    return "\n".join(["", *_calls(api), *_types(api), ""])


def _calls(api: Schema) -> Iterator[str]:
    yield "## Calls\n"
    for path, methods in api["paths"].items():
        for method, call in methods.items():
            yield from _call(method.upper(), path, call)


def _call(method: str, path: str, call: Schema) -> Iterator[str]:
    yield f"### {method} {path}\n"
    key = "Needs an API key." if call.get("security") is None else "Needs no API key."
    yield f"{call['summary']}. {key}\n"
    if call["parameters"]:
        yield "| parameter | in | type | meaning |\n| --- | --- | --- | --- |"
        for parameter in call["parameters"]:
            cells = (f"`{parameter['name']}`", parameter["in"], _type(parameter["schema"]), parameter["description"])
            yield _row(*cells)
        yield ""
    for media, body in call.get("requestBody", {}).get("content", {}).items():
        yield f"Request body, `{media}`: {_type(body['schema'])}.\n"
    yield "| status | response |\n| --- | --- |"
    for status, response in call["responses"].items():
        yield _row(status, _response(response))
    yield ""


def _response(response: Schema) -> str:
    """Return the meaning of a response and its type; that of errors is always `ProblemAnswer`."""
    meaning = response["description"]
    for media, content in response.get("content", {}).items():
        if media != "application/problem+json":
            meaning += ": " + (_type(content["schema"]) if content else f"`{media}`")
    if headers := response.get("headers"):
        meaning += "; headers " + ", ".join(f"`{name}`" for name in headers)
    return meaning


def _types(api: Schema) -> Iterator[str]:
    yield "## Types\n"
    for name, schema in sorted(api["components"]["schemas"].items()):
        yield f"### {name}\n"
        yield schema.get("description", "") + "\n"
        if properties := schema.get("properties"):
            yield "| field | type | meaning |\n| --- | --- | --- |"
            for field, kind in properties.items():
                yield _row(f"`{field}`", _type(kind), _meaning(kind, field not in schema.get("required", ())))
            yield ""
        for example in schema.get("examples", ()):
            yield "```json\n" + json.dumps(example, indent=2, ensure_ascii=False) + "\n```\n"


def _meaning(kind: Schema, optional: bool) -> str:
    described = [option["description"] for option in (kind, *kind.get("anyOf", ())) if "description" in option]
    default = kind.get("default")
    if optional:
        described.append("optional" if default is None else f"optional, default `{json.dumps(default)}`")
    return "; ".join(described)


def _type(schema: Schema) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(map(_type, schema["anyOf"]))
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    kind = schema.get("type", "any")
    if kind == "array":
        kind = f"array of {_type(schema['items'])}"
    if kind == "object" and schema.get("properties"):
        return "a form with " + "; ".join(
            f"`{name}` ({field.get('description', '')})" for name, field in schema["properties"].items()
        )
    bounds = [text.format(f"{schema[bound]:,}") for bound, text in BOUNDS.items() if bound in schema]
    return " ".join([kind, *([f"({', '.join(bounds)})"] if bounds else [])])


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
