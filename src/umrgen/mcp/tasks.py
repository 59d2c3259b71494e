"""The extension `io.modelcontextprotocol/tasks`: for a client that declares it, an unfinished drawing is a task.

A task is a job and has its id. It has no separate record, and is as durable as the job.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.mcpserver import Extension, MethodBinding, require_client_extension
from mcp.shared.exceptions import MCPError
from mcp.types import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    EmptyResult,
    RequestParams,
    TextContent,
)
from mcp.types.version import MODERN_PROTOCOL_VERSIONS

from umrgen.clock import SystemClock
from umrgen.errors import UmrgenError
from umrgen.mcp.answers import job_answer, progress_text
from umrgen.mcp.backend import ImageBackend
from umrgen.model import FINAL_STATES, State, Status

__all__ = ["JobTasks", "RequestContext", "accepts_tasks"]

TASKS = "io.modelcontextprotocol/tasks"
POLL_MS = 1000
"""Milliseconds between two `tasks/get` of a client, as the server suggests."""

RequestContext = ServerRequestContext[Any, Any]


class TaskParams(RequestParams):
    """The parameters of `tasks/get`, `tasks/cancel` and `tasks/update`; answers to questions of a task are ignored."""

    task_id: str


def accepts_tasks(ctx: RequestContext) -> bool:
    """Return whether the client declared the extension with this request, in an era of the protocol that has it."""
    capabilities = ctx.session.client_capabilities
    declared = (capabilities and capabilities.extensions) or {}
    return ctx.protocol_version in MODERN_PROTOCOL_VERSIONS and TASKS in declared


class JobTasks(Extension):
    """The extension's methods, and its answer to `generate_image`."""

    identifier = TASKS

    def __init__(
        self, backend: Callable[[RequestContext], ImageBackend], explain: Callable[[Exception], str | None]
    ) -> None:
        self._backend = backend
        self._explain = explain

    def methods(self) -> Sequence[MethodBinding]:
        versions = frozenset(MODERN_PROTOCOL_VERSIONS)
        handlers = {"tasks/get": self._get, "tasks/cancel": self._cancel, "tasks/update": self._update}
        return [MethodBinding(name, TaskParams, handler, versions) for name, handler in handlers.items()]

    async def intercept_tool_call(
        self, params: CallToolRequestParams, ctx: RequestContext, call_next: CallNext
    ) -> HandlerResult:
        """Return a task instead of an answer about a job that is not over."""
        result = await call_next(ctx)
        if params.name != "generate_image" or not accepts_tasks(ctx) or not isinstance(result, CallToolResult):
            return result
        answer = result.structured_content or {}
        if "job_id" not in answer or answer["state"] in FINAL_STATES:
            return result
        async with self._job(ctx, answer["job_id"]) as (backend, status):
            return {**await self._task(backend, status), "resultType": "task"}

    # --- the methods ---

    async def _get(self, ctx: RequestContext, params: TaskParams) -> HandlerResult:
        async with self._job(ctx, params.task_id) as (backend, status):
            return await self._task(backend, status)

    async def _cancel(self, ctx: RequestContext, params: TaskParams) -> HandlerResult:
        async with self._job(ctx, params.task_id) as (backend, status):
            await backend.cancel(status.job_id)
        return EmptyResult(result_type="complete")

    async def _update(self, ctx: RequestContext, params: TaskParams) -> HandlerResult:
        """Accept answers to questions, and ignore them: no task has any."""
        async with self._job(ctx, params.task_id):
            return EmptyResult(result_type="complete")

    @asynccontextmanager
    async def _job(self, ctx: RequestContext, job_id: str) -> AsyncIterator[tuple[ImageBackend, Status]]:
        """Provide the caller's server and the job. Every error of the server becomes one of the protocol."""
        require_client_extension(ctx, TASKS)
        try:
            backend = self._backend(ctx)
            yield backend, await backend.get(job_id)
        except UmrgenError as error:
            code = INTERNAL_ERROR if error.retryable else INVALID_PARAMS
            raise MCPError(code, self._explain(error) or str(error)) from None

    # --- tasks ---

    async def _task(self, backend: ImageBackend, status: Status) -> dict[str, Any]:
        """Return a job as a task. A failed job is a completed task, whose result is an error of the tool."""
        created = _timestamp(status.raw.get("created_at"))
        task = {"taskId": status.job_id, "createdAt": created, "ttlMs": None, "pollIntervalMs": POLL_MS}
        task["lastUpdatedAt"] = _timestamp(status.raw.get("completed_at"))
        if status.state not in FINAL_STATES:
            return task | {"status": "working", "statusMessage": progress_text(status)}
        if status.error_code == "cancelled":
            return task | {"status": "cancelled", "statusMessage": status.error or "cancelled"}
        return task | {"status": "completed", "result": await self._result(backend, status)}

    async def _result(self, backend: ImageBackend, status: Status) -> Mapping[str, Any]:
        """Return what the call of the tool would have returned."""
        try:
            images = await backend.deliver(status) if status.state == State.COMPLETED else ()
            result = job_answer(status, images, backend.delivery, failed_is_error=True)
        except UmrgenError as error:
            text = TextContent(type="text", text=self._explain(error) or str(error))
            result = CallToolResult(content=[text], is_error=True)
        return result.model_dump(by_alias=True, mode="json", exclude_none=True)


def _timestamp(milliseconds: Any) -> str:
    """Return a time in ISO 8601; the present one for a job that is not over, or whose server does not send it."""
    known = milliseconds if isinstance(milliseconds, int) else SystemClock().now()
    return datetime.fromtimestamp(known / 1000, UTC).isoformat(timespec="milliseconds")
