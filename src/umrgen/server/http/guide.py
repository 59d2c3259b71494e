"""The guide to this server, for programs and agents that know only its URL: Markdown, without a key.

`guide.md` is the only source: `/guide.md` and `/` serve it, `SKILL.md` is the same text as an agent skill
(agentskills.io), and `/llms.txt` and the index of skills refer to it.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from string import Template

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from umrgen.model import LIMITS
from umrgen.server.http import Services, studio
from umrgen.server.http.problems import PROBLEMS
from umrgen.server.services.job_waits import MAX_JOBS
from umrgen.server.services.server_state import GuideFacts

__all__ = ["base_url", "guide_text", "prefers_html", "request_base_url", "routes", "skill_text"]

SKILL_NAME = "umrgen-images"
SKILL_DESCRIPTION = (
    "Draw an image from a text prompt with the UMRGEN server at {base_url}: submit a job, poll its status, download "
    "the file. Use it when the user wants a picture, an illustration or an image file and an API key of this "
    "server is available."
)
SKILLS = "/.well-known/agent-skills"
SCHEMA = "https://schemas.agentskills.io/discovery/0.2.0/schema.json"
SHOWN_PROBLEMS = (
    *("invalid_request", "content_policy", "unauthorized", "forbidden_output", "job_not_found", "output_expired"),
    *("rate_limited", "concurrent_limit", "queue_full", "draining", "engine_unavailable"),
)
SHOWN_MODELS = 8
_STUDIO = "\n\nPeople can use the studio page: open {base_url}/ in a browser."
_MCP = "MCP tools (streamable HTTP) are at `{base_url}/mcp`, with the API key as the bearer token. "
_HEADERS = {"Cache-Control": "no-cache", "Vary": "Accept, Host, X-Forwarded-Proto"}
_HOST = re.compile(r"[A-Za-z0-9._-]+(?::\d+)?|\[[0-9A-Fa-f:.]+\](?::\d+)?")
_OPTIONAL_FIELDS = {
    "negative": "`negative` | text: what the image must not show | none",
    "references": f"`reference_images` | names of uploaded images, at most {LIMITS.references} | none",
    "cfg": "`cfg` | the guidance scale, 0 to 30 | the model's own",
    "loras": '`loras` | `[{"name": …, "strength": …}]` | none',
}


class _Text(Template):
    """A template with `@{name}`: the guide has `$` in its shell commands."""

    delimiter = "@"
    idpattern = None  # type: ignore[assignment]
    braceidpattern = "[a-z_]+"


def routes(services: Services) -> list[Route]:
    async def start(request: Request) -> Response:
        if services.settings.studio and prefers_html(request.headers.get("accept", "")):
            return studio.page(services, request)
        return await guide(request)

    async def guide(request: Request) -> Response:
        return _response(_guide(services, request), "text/markdown")

    async def skill(request: Request) -> Response:
        return _response(_skill(services, request), "text/markdown")

    async def index(request: Request) -> Response:
        entries = _skill_index(request_base_url(services, request), _skill(services, request))
        return _response(json.dumps(entries, indent=2), "application/json")

    async def llms(request: Request) -> Response:
        return _response(_llms_text(request_base_url(services, request)), "text/plain")

    return [
        Route("/", start, methods=["GET"]),
        Route("/guide.md", guide, methods=["GET"]),
        Route("/llms.txt", llms, methods=["GET"]),
        Route(f"{SKILLS}/index.json", index, methods=["GET"]),
        Route(f"{SKILLS}/{SKILL_NAME}/SKILL.md", skill, methods=["GET"]),
    ]


def _response(text: str, media_type: str) -> Response:
    return Response(text, headers=_HEADERS, media_type=media_type)


def _guide(services: Services, request: Request) -> str:
    settings = services.settings
    base, facts = request_base_url(services, request), services.state.guide_facts()
    return guide_text(base, facts, has_studio=settings.studio, has_mcp=settings.mcp)


def _skill(services: Services, request: Request) -> str:
    return skill_text(request_base_url(services, request), _guide(services, request))


def request_base_url(services: Services, request: Request) -> str:
    """Return this server's URL as the client of this request addressed it."""
    settings, headers = services.settings, request.headers
    # Any client may send this field, trusted proxy or not: it changes only the text of its own response.
    forwarded = headers.get("x-forwarded-proto", "").lower()
    scheme = forwarded if forwarded in ("http", "https") else request.url.scheme
    return base_url(scheme, headers.get("host", ""), settings.host, settings.port, settings.prefix)


def base_url(scheme: str, host: str, own_host: str, own_port: int, prefix: str) -> str:
    """Return this server's URL as the client addressed it, or from its settings without a usable Host header."""
    if not _HOST.fullmatch(host):
        host = f"{f'[{own_host}]' if ':' in own_host else own_host}:{own_port}"
    return f"{scheme}://{host}{prefix}"


def prefers_html(accept: str) -> bool:
    """Return whether an Accept field prefers `text/html` to Markdown.

    HTML must be named, with a higher weight than Markdown, if that is named too. Browsers name only HTML; curl sends
    `*/*`; Claude Code sends `text/markdown, text/html, */*`.
    """
    weights = dict(_weights(accept))
    return weights.get("text/html", 0.0) > weights.get("text/markdown", 0.0)


def _weights(accept: str) -> list[tuple[str, float]]:
    """Return the media types of an Accept field and their weights (RFC 9110); an invalid weight counts as 1."""
    found = []
    for part in accept.lower().split(","):
        name, *parameters = (item.strip() for item in part.split(";"))
        weight = next((item[2:] for item in parameters if item.startswith("q=")), "1")
        found.append((name, float(weight) if re.fullmatch(r"[01](\.\d{0,3})?", weight) else 1.0))
    return found


@cache
def _template() -> _Text:
    return _Text(files("umrgen.server.http").joinpath("guide.md").read_text("utf-8"))


def guide_text(base: str, facts: GuideFacts, *, has_studio: bool, has_mcp: bool) -> str:
    """Return the guide in Markdown, with the server's URL and facts, and the interfaces that it serves."""
    studio = _STUDIO.format(base_url=base) if has_studio else ""
    mcp = _MCP.format(base_url=base) if has_mcp else ""
    return _template().substitute(_values(base, facts), studio=studio, mcp=mcp)


def _names(names: Sequence[str]) -> str:
    return " or ".join(f"`{name}`" for name in names[:SHOWN_MODELS]) + (", …" if len(names) > SHOWN_MODELS else "")


def _values(base: str, facts: GuideFacts) -> Mapping[str, object]:
    fields = [row for name, row in _OPTIONAL_FIELDS.items() if name in facts.features]
    fields += [f"`model` | {_names(facts.models)} | `{facts.models[0]}`"] if facts.models else []
    return {
        "base_url": base,
        "engine": f"`{facts.engine}`. {facts.description}",
        "longest_wait": facts.longest_wait,
        "prompt_chars": facts.prompt_chars,
        "side_min": facts.side_min,
        "side_max": facts.side_max,
        "side_default": facts.side_default,
        "multiple": f", multiples of {facts.size_multiple}" if facts.size_multiple > 1 else "",
        "max_steps": facts.max_steps,
        "default_steps": facts.default_steps,
        "features": "".join(f"| {row} |\n" for row in fields),
        "batch_max": MAX_JOBS,
        "errors": "\n".join(_error_row(code) for code in SHOWN_PROBLEMS),
    }


def _error_row(code: str) -> str:
    status, _, remedy = PROBLEMS[code]
    return f"| {status} | `{code}` | {remedy} |"


def skill_text(base: str, guide: str) -> str:
    """Return the guide as an agent skill: with a name and a description in front of it."""
    description = SKILL_DESCRIPTION.format(base_url=base)
    return f"---\nname: {SKILL_NAME}\ndescription: {json.dumps(description)}\n---\n\n{guide}"


def _skill_index(base: str, skill: str) -> Mapping[str, object]:
    """Return the index of agent skills, version 0.2.0: one skill, and the digest of its bytes."""
    entry = {
        "name": SKILL_NAME,
        "type": "skill-md",
        "description": SKILL_DESCRIPTION.format(base_url=base),
        "url": f"{SKILL_NAME}/SKILL.md",
        "digest": f"sha256:{hashlib.sha256(skill.encode()).hexdigest()}",
    }
    return {"$schema": SCHEMA, "skills": [entry]}


def _llms_text(base: str) -> str:
    return (
        "# UMRGEN image server\n\n"
        "> Turns a text prompt into an image file: submit a job, poll its status, download the image.\n\n"
        f"- [Guide]({base}/guide.md): how to get an image, complete on one page\n"
        f"- [OpenAPI]({base}/openapi.json): all calls and fields; needs an API key\n"
    )
