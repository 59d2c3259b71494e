"""The server as an ASGI application, for another ASGI server: `create_app`.

    uvicorn --http h11 --ws none --factory umrgen.server.asgi:create_app

The ASGI server must support the lifespan protocol. Do not use uvicorn with httptools: it executes the body of a request
with an `Upgrade` header as the next request (its issue #2722). With `--ws none` it ignores such a header.
"""

import os
from contextlib import AsyncExitStack
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from umrgen.server.application import Application
from umrgen.server.services.api_keys import check_usable
from umrgen.server.settings import BadSettings, Settings
from umrgen.server.state import own_state

__all__ = ["create_app"]


def create_app(settings: Settings | None = None) -> ASGIApp:
    """Return the application; without `settings`, its settings come from the environment (`UMRGEN_…`, `UMRGEN_CONFIG`).

    Its startup opens the state folder, which must have an API key already: create one with `umrgen keys create`, or set
    UMRGEN_SERVER_KEY. Raises BadSettings and UnusableKey.
    """
    if settings is None:
        config = os.environ.get("UMRGEN_CONFIG")
        settings = Settings.load({}, os.environ, Path(config) if config else None)
    if settings.api_key:
        check_usable(settings.api_key)
    return _Application(settings)


class _Application:
    """The ASGI application between its lifespan's startup and shutdown."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif self._app is None:
            raise RuntimeError("the ASGI server has not run the application's lifespan startup")
        else:
            await self._app(scope, receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "lifespan.startup"
        async with AsyncExitStack() as opened:
            try:
                opened.enter_context(own_state(self._settings.state))
                application = Application(self._settings)
                await application.open()
                opened.push_async_callback(application.close)
                await application.keys.adopt(self._settings.api_key)
                if not await application.keys.usable():
                    remedy = f"Create a key first: umrgen keys create --state {self._settings.state}"
                    raise BadSettings("there is no API key yet", next=remedy)
            except Exception as error:
                await send({"type": "lifespan.startup.failed", "message": str(error)})
                raise
            application.start()
            self._app = application.app()
            await send({"type": "lifespan.startup.complete"})
            assert (await receive())["type"] == "lifespan.shutdown"
            await application.drain(self._settings.drain)
        await send({"type": "lifespan.shutdown.complete"})
