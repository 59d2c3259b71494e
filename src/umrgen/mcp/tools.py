"""The seven tools, over any ImageBackend."""

import asyncio
import json
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Annotated, Any

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError, UnexpectedToolError
from mcp.types import CallToolResult, InputRequiredResult, Tool, ToolAnnotations
from pydantic import Field, ValidationError

from umrgen import __version__
from umrgen.mcp.answers import data_answer, error_text, image_answer, job_answer, progress_text
from umrgen.mcp.backend import ImageBackend
from umrgen.mcp.previews import small_jpeg
from umrgen.mcp.tasks import JobTasks, RequestContext, accepts_tasks
from umrgen.mcp.waits import CallClock, PendingCalls, WaitLimits
from umrgen.model import LIMITS, State, Status

__all__ = ["ImageTools"]

INSTRUCTIONS = (
    "generate_image draws an image from a prompt. It answers when the image is there, or after wait_seconds with a "
    "job_id: then call wait_for_job until state is completed or failed. No job is lost by a timeout: after one, repeat "
    "the same call and get the same job."
)
REPEATED = "This call was sent again, and the later one has its job. For another image, call with another seed."

CallContext = Context[Any, Any]
Side = Annotated[int, Field(ge=LIMITS.side_min, le=LIMITS.side_max)]
WaitSeconds = Annotated[float, Field(ge=0, le=45, description="then answers with the job_id")]
READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)
DRAWS = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=False)
CANCELS = ToolAnnotations(read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False)


class ImageTools(MCPServer[Any]):
    """An MCP server with the tools. Its texts are for models: they name the next call."""

    def __init__(
        self,
        backend: Callable[[RequestContext], ImageBackend],
        client: Callable[[RequestContext], str],
        explain: Callable[[Exception], str | None] = error_text,
    ) -> None:
        """`backend` returns the server for a call's caller, `client` a name of the client, for its time limit.

        `explain` returns the text of an error for the model, or None for a defect.
        """
        super().__init__(
            "umrgen",
            title="UMRGEN images",
            instructions=INSTRUCTIONS,
            version=__version__,
            extensions=[JobTasks(backend, explain)],
            log_level="WARNING",
        )
        self._backend = backend
        self._client = client
        self._explain = explain
        self._limits = WaitLimits()
        self._pending = PendingCalls()
        for tool, annotations in (
            (self.generate_image, DRAWS),
            (self.wait_for_job, READS),
            (self.get_job, READS),
            (self.cancel_job, CANCELS),
            (self.list_jobs, READS),
            (self.view_image, READS),
            (self.describe_server, READS),
        ):
            self.add_tool(tool, annotations=annotations, structured_output=False)

    # --- the tools ---

    async def generate_image(
        self,
        ctx: CallContext,
        prompt: Annotated[str, Field(max_length=LIMITS.prompt_chars)],
        width: Side = LIMITS.side_default,
        height: Side = LIMITS.side_default,
        steps: Annotated[int, Field(ge=0, le=LIMITS.steps_max, description="0: the engine's default")] = 0,
        seed: Annotated[int, Field(ge=-1, description="-1: random")] = -1,
        negative: Annotated[str, Field(description="content to avoid")] = "",
        model: Annotated[str, Field(description="one that describe_server lists")] = "",
        reference_images: Annotated[tuple[str, ...], Field(description="names of uploaded images")] = (),
        wait_seconds: WaitSeconds = 25,
    ) -> CallToolResult:
        """Draw an image from a prompt. Answers with the image, or with a job_id for wait_for_job."""
        given = {"steps": steps, "negative": negative, "model": model, "reference_images": list(reference_images)}
        request = {"prompt": prompt, "width": width, "height": height, "seed": seed}
        request |= {name: value for name, value in given.items() if value}
        backend = self._backend(ctx.request_context)
        seconds = 0 if accepts_tasks(ctx.request_context) else wait_seconds
        async with self._call(ctx, seconds) as clock, backend.attend(request) as job_id:
            return await _until_over(backend, job_id, clock)

    async def wait_for_job(self, ctx: CallContext, job_id: str, wait_seconds: WaitSeconds = 25) -> CallToolResult:
        """Wait until a job is over, at most wait_seconds. Call it again while the answer is "not done yet"."""
        async with self._call(ctx, wait_seconds) as clock:
            return await _until_over(self._backend(ctx.request_context), job_id, clock)

    async def get_job(self, ctx: CallContext, job_id: str) -> CallToolResult:
        """Return the state of a job now."""
        backend = self._backend(ctx.request_context)
        return await _described(backend, await backend.get(job_id))

    async def cancel_job(self, ctx: CallContext, job_id: str) -> CallToolResult:
        """Cancel a job; one that is over does not change."""
        backend = self._backend(ctx.request_context)
        return await _described(backend, await backend.cancel(job_id))

    async def list_jobs(self, ctx: CallContext, limit: Annotated[int, Field(ge=1, le=50)] = 10) -> CallToolResult:
        """List the last jobs, newest first: finds a job whose id was lost."""
        return data_answer(
            {
                "jobs": list(await self._backend(ctx.request_context).page(limit)),
                "next": "get_job has the details of one.",
            }
        )

    async def view_image(
        self,
        ctx: CallContext,
        job_id: str,
        number: Annotated[int, Field(ge=1, le=8, description="of a job with several images")] = 1,
    ) -> CallToolResult:
        """Show a small copy of a completed job's image."""
        image = await self._backend(ctx.request_context).image(job_id, number)
        return image_answer(b64encode(await small_jpeg(image)).decode())

    async def describe_server(self, ctx: CallContext) -> CallToolResult:
        """Return the engine, its sizes, steps and features, and the limits of this key."""
        return data_answer(await self._backend(ctx.request_context).describe())

    # --- calls ---

    @asynccontextmanager
    async def _call(self, ctx: CallContext, seconds: float) -> AsyncIterator[CallClock]:
        request = ctx.request_context
        client = self._client(request)
        call = (client, *_session_call(request))
        await self._pending.end_repeated(call)
        with (
            self._limits.call(client, seconds, ctx.report_progress) as clock,
            self._pending.add(call, clock),
        ):
            reporting = asyncio.create_task(clock.keep_reporting())
            try:
                yield clock
            finally:
                reporting.cancel()

    async def list_tools(self) -> list[Tool]:
        """Return the tools, without the titles that pydantic adds to each parameter, and that no model needs."""
        tools = await super().list_tools()
        return [tool.model_copy(update={"input_schema": _without_titles(tool.input_schema)}) for tool in tools]

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: CallContext | None = None
    ) -> CallToolResult | InputRequiredResult:
        """Run a tool. Every error is a ToolError with its remedy; others would reach the model without a reason.

        An unknown argument is refused, which the SDK would drop; a null means that the argument was not given.
        """
        given = {name: value for name, value in arguments.items() if value is not None}
        await self._check_names(name, given)
        try:
            return await super().call_tool(name, given, context)
        except UnexpectedToolError as error:
            if isinstance(error.__cause__, Exception) and (text := self._explain(error.__cause__)):
                raise ToolError(text) from None
            raise
        except ToolError as error:
            if isinstance(error.__cause__, ValidationError):
                raise ToolError(_invalid(error.__cause__)) from None
            raise

    async def _check_names(self, name: str, arguments: Mapping[str, Any]) -> None:
        for tool in await super().list_tools():
            known = tool.input_schema.get("properties", {})
            unknown = [argument for argument in arguments if argument not in known]
            if tool.name == name and unknown:
                raise ToolError(f"{name} has no argument {unknown[0]!r}. Its arguments are: {', '.join(known)}.")


def _session_call(ctx: RequestContext) -> tuple[str, str]:
    """Return the session of a call, and its tool and arguments; a call outside of a session equals no other."""
    session = "" if ctx.request is None else ctx.request.headers.get("mcp-session-id", f"none {id(ctx)}")
    params = ctx.params or {}
    return session, json.dumps([params.get("name"), params.get("arguments")], sort_keys=True)


def _without_titles(schema: Any) -> Any:
    """Return a JSON schema without `title`, except for properties of this name."""
    if isinstance(schema, list):
        return [_without_titles(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: {name: _without_titles(part) for name, part in value.items()}
        if key == "properties"
        else _without_titles(value)
        for key, value in schema.items()
        if key != "title"
    }


def _invalid(error: ValidationError) -> str:
    errors = error.errors(include_url=False, include_context=False)
    each = (f"{'.'.join(map(str, one['loc']))}: {one['msg'].lower()}; got {one['input']!r:.60}" for one in errors)
    return f"Invalid arguments. {'; '.join(each)}. Correct them and call the tool again."


async def _described(backend: ImageBackend, status: Status) -> CallToolResult:
    images = await backend.deliver(status) if status.state == State.COMPLETED else ()
    return job_answer(status, images, backend.delivery)


async def _until_over(backend: ImageBackend, job_id: str, clock: CallClock) -> CallToolResult:
    """Wait for a job until the call's deadline, and deliver its images; return the answer for either case."""
    status: Status | None = None
    images: tuple[str, ...] = ()
    try:
        async with clock.limit():
            async with aclosing(backend.watch(job_id)) as changes:  # type: ignore[type-var]
                async for status in changes:
                    await clock.progress(progress_text(status))
            if status is not None and status.state == State.COMPLETED:
                images = tuple(await backend.deliver(status))
    except TimeoutError:
        pass
    if clock.repeated:
        raise ToolError(REPEATED)  # which leaves the job to the later call
    return job_answer(status or await backend.get(job_id), images, backend.delivery, failed_is_error=True)
