"""OpenAI's images API over the services, for its unmodified clients."""

from starlette.routing import Route

from umrgen.server.http import Services
from umrgen.server.http.openai import images, models

__all__ = ["routes"]


def routes(services: Services) -> list[Route]:
    return [*images.routes(services), *models.routes(services)]
