"""Templates: requests that a session keeps under names, to draw from them again."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from umrgen.clock import Clock
from umrgen.server.ledger import Template, TemplatesFull, TemplateStore
from umrgen.server.services.caller import Caller
from umrgen.server.services.refusal import Refusal

__all__ = ["MAX_NAME", "MAX_TEMPLATES", "Template", "Templates"]

MAX_TEMPLATES = 100
"""Templates of a session."""
MAX_NAME = 100
"""Characters of a template's name."""
MAX_BYTES = 32 << 10
"""Bytes of a template's request, as JSON; the longest texts have 16,000."""


@dataclass(frozen=True, slots=True)
class Templates:
    """Stores, lists and deletes the caller's templates. A caller sees those of its session only."""

    templates: TemplateStore
    clock: Clock

    async def put(self, caller: Caller, name: str, request: Mapping[str, Any]) -> Template:
        """Store fields of a request under a name, in place of the template of this name, if any; return it.

        Raises Refusal `invalid_request`, `too_large` or `too_many_templates`; then nothing was changed.
        """
        encoded = msgspec.json.encode(request)
        if len(encoded) > MAX_BYTES:
            raise Refusal(
                "too_large", f"a template must have {MAX_BYTES:,} bytes of JSON or fewer; got {len(encoded):,}"
            )
        template = Template(_checked(name), caller.session_id, encoded.decode(), self.clock.now())
        try:
            await self.templates.put(template, cap=MAX_TEMPLATES)
        except TemplatesFull:
            raise Refusal("too_many_templates", f"a session has {MAX_TEMPLATES} templates at most") from None
        return template

    async def get(self, caller: Caller, name: str) -> Template:
        """Return a template of the caller. Raises Refusal `template_not_found`."""
        found = await self.templates.get(caller.session_id, _checked(name))
        if found is None:
            raise Refusal("template_not_found")
        return found

    async def all(self, caller: Caller) -> list[Template]:
        """Return the caller's templates, by name."""
        return await self.templates.of_session(caller.session_id)

    async def remove(self, caller: Caller, name: str) -> None:
        """Delete a template of the caller; again is the same as once."""
        await self.templates.remove(caller.session_id, _checked(name))


def _checked(name: str) -> str:
    """Return the name without spaces around it. Raises Refusal `invalid_request`."""
    name = name.strip()
    if not 1 <= len(name) <= MAX_NAME:
        error = f"the name of a template must have 1 to {MAX_NAME} characters; got {len(name)}"
        raise Refusal("invalid_request", error, field="name")
    if "/" in name or not name.isprintable():
        error = "the name of a template must have no / and no control characters"
        raise Refusal("invalid_request", error, field="name")
    return name
