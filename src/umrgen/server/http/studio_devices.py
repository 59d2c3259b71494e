"""Browsers that stay signed in to the studio: remembered, listed and signed out, by the studio's page only."""

from typing import Annotated

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from umrgen.server.http import Services
from umrgen.server.http.api.responses import json_response
from umrgen.server.http.api.schemas import read_object
from umrgen.server.http.auth import authenticate
from umrgen.server.http.problems import Problem
from umrgen.server.http.studio_cookie import clear_cookie, device_secret, from_own_page, set_cookie
from umrgen.server.services.caller import Caller

__all__ = ["routes"]


class DeviceAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A browser that stays signed in. Times in milliseconds since the epoch."""

    id: str
    device: str
    created_at: int
    last_used_at: int | None
    expires_at: int | None


class DevicesAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The browsers of the caller's key, newest first."""

    success: bool = True
    devices: Annotated[list[DeviceAnswer], Meta(description="newest first")]


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """The call succeeded."""

    success: bool = True


def routes(services: Services) -> list[Route]:
    async def remember(request: Request) -> Response:
        caller = await _caller(services, request)
        device = (await read_object(request, 4096)).get("device")
        secret = await services.devices.remember(caller.key, device if isinstance(device, str) else "")
        response = json_response(Done())
        set_cookie(response, request, secret, services.settings.prefix)
        return response

    async def forget(request: Request) -> Response:
        if secret := device_secret(dict(request.headers.raw)):
            await services.devices.forget(secret)
        response = json_response(Done())
        clear_cookie(response, services.settings.prefix)
        return response

    async def devices(request: Request) -> Response:
        caller = await _caller(services, request)
        found = sorted(await services.devices.of(caller.key), key=lambda key: key.created_at, reverse=True)
        return json_response(
            DevicesAnswer(
                devices=[
                    DeviceAnswer(
                        id=key.id,
                        device=services.devices.description(key),
                        created_at=key.created_at,
                        last_used_at=key.last_used_at,
                        expires_at=key.expires_at,
                    )
                    for key in found
                ]
            )
        )

    async def revoke(request: Request) -> Response:
        caller = await _caller(services, request)
        if not await services.devices.revoke(caller.key, request.path_params["device_id"]):
            raise Problem("not_found", "this key has no such browser")
        return json_response(Done())

    return [
        Route("/studio/devices", remember, methods=["POST"]),
        Route("/studio/devices", devices, methods=["GET"]),
        Route("/studio/devices/{device_id}", revoke, methods=["DELETE"]),
        Route("/studio/sign-out", forget, methods=["POST"]),
    ]


async def _caller(services: Services, request: Request) -> Caller:
    """Return the caller, of the studio's page only. Raises Problem."""
    headers = dict(request.headers.raw)
    if not from_own_page(headers):
        raise Problem("forbidden_origin", "only the studio may call this")
    return await authenticate(services, request.scope, headers)
