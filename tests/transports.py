"""Two transports over the same services, HTTP and one without HTTP: a transport adds no rule."""

import hashlib
from typing import Any, Protocol

import httpx2

from umrgen.server.application import Application
from umrgen.server.domain.request import GenerationRequest
from umrgen.server.ledger import Idempotency
from umrgen.server.services.outputs import OutputLink
from umrgen.server.services.refusal import Refusal


class Refused(Exception):
    """The server refused a request; its argument is the contract's error code."""


class Transport(Protocol):
    """The operations of a caller over any transport. Every method raises Refused."""

    async def submit(self, prompt: str, *, key: str | None = None, **parameters: Any) -> str: ...
    async def wait(self, job_id: str) -> tuple[str, str | None]: ...
    async def cancel(self, job_id: str) -> str | None: ...
    async def upload(self, image: bytes) -> str: ...
    async def fetch(self, job_id: str) -> bytes: ...


class Direct:
    """Calls the services of an application in this process."""

    def __init__(self, application: Application, secret: str) -> None:
        self._services = application.services
        self._secret = secret

    async def _caller(self) -> Any:
        return await self._services.authentication.accept(self._secret, "192.0.2.1")

    async def submit(self, prompt: str, *, key: str | None = None, **parameters: Any) -> str:
        request = GenerationRequest(prompt, **parameters)
        idempotency = None if key is None else Idempotency(key, hashlib.sha256(repr(request).encode()).digest())
        try:
            return (await self._services.submissions.submit(await self._caller(), request, idempotency)).job.id
        except Refusal as refusal:
            raise Refused(refusal.code) from None

    async def wait(self, job_id: str) -> tuple[str, str | None]:
        try:
            caller = await self._caller()
            job = await self._services.job_waits.find(caller, job_id)
            job = await self._services.job_waits.wait(caller, job, known=None, seconds=60)
        except Refusal as refusal:
            raise Refused(refusal.code) from None
        return job.state.value, job.error_code

    async def cancel(self, job_id: str) -> str | None:
        try:
            return (await self._services.cancellations.cancel(await self._caller(), job_id)).error_code
        except Refusal as refusal:
            raise Refused(refusal.code) from None

    async def upload(self, image: bytes) -> str:
        try:
            with await self._services.uploads.admit(await self._caller()) as reserved:
                return (await reserved.add(image)).name
        except Refusal as refusal:
            raise Refused(refusal.code) from None

    async def fetch(self, job_id: str) -> bytes:
        try:
            output = (await self._services.job_waits.find(await self._caller(), job_id)).outputs[0]
            link = OutputLink(output.session_id, output.name, shown_session_id=output.session_id)
            return (await self._services.outputs.fetch(link, secret=None, address="192.0.2.1"))[1]
        except Refusal as refusal:
            raise Refused(refusal.code) from None


class Http:
    """Calls the application over its HTTP interface."""

    def __init__(self, application: Application, secret: str) -> None:
        self._http = httpx2.AsyncClient(
            transport=httpx2.ASGITransport(application.app()),
            base_url="http://127.0.0.1",
            headers={"Authorization": f"Bearer {secret}"},
        )

    async def _request(self, method: str, path: str, **options: Any) -> httpx2.Response:
        response = await self._http.request(method, path, timeout=70, **options)
        if response.is_error:
            raise Refused(response.json()["code"])
        return response

    async def submit(self, prompt: str, *, key: str | None = None, **parameters: Any) -> str:
        headers = {} if key is None else {"Idempotency-Key": key}
        response = await self._request(
            "POST", "/api/v1/generate", json={"prompt": prompt} | parameters, headers=headers
        )
        return str(response.json()["job_id"])

    async def wait(self, job_id: str) -> tuple[str, str | None]:
        job = (await self._request("GET", f"/api/v1/status/{job_id}", headers={"Prefer": "wait=60"})).json()
        return job["state"], job["error_code"]

    async def cancel(self, job_id: str) -> str | None:
        code: str | None = (await self._request("POST", f"/api/v1/cancel/{job_id}")).json()["error_code"]
        return code

    async def upload(self, image: bytes) -> str:
        response = await self._request("POST", "/api/v1/upload-reference", files={"file": ("a.png", image)})
        return str(response.json()["filename"])

    async def fetch(self, job_id: str) -> bytes:
        job = (await self._request("GET", f"/api/v1/status/{job_id}")).json()
        return (await self._request("GET", job["image_url"])).content
