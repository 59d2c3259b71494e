"""The tasks extension, called by a client that declares it through the official SDK's interface for extensions."""

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import httpx2
import pytest
from mcp.client.extension import ClaimContext, ClientExtension, ResultClaim, advertise
from mcp.client.session import ClientSession
from mcp.shared.exceptions import MCPError
from mcp.types import (
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    CallToolResult,
    Request,
    RequestParams,
    Result,
)

from client_scripts import ClientScript, ScriptProcess
from mcp_connections import connected, over_http
from support import UNLIMITED, ServerProcess, server
from umrgen.image_files import verify

TASKS = "io.modelcontextprotocol/tasks"
ARGUMENTS: dict[str, Any] = {"prompt": "slow", "width": 512, "height": 512, "steps": 20}
TRANSPORTS = pytest.mark.parametrize("transport", [pytest.param("stdio", marks=pytest.mark.slow), "http"])


class Named(RequestParams):
    task_id: str


class TaskRequest(Request[Named, str]):
    name_param = "taskId"


class Task(Result):
    """A task: `result_type` is "task" in the answer of a tool, and "complete" in that of `tasks/get`."""

    result_type: Literal["task"] = "task"
    task_id: str
    status: str
    created_at: str
    last_updated_at: str
    ttl_ms: int | None
    poll_interval_ms: int
    status_message: str | None = None


class TaskState(Task):
    result_type: Literal["complete"] = "complete"  # type: ignore[assignment]
    result: dict[str, Any] | None = None


class Tasks(ClientExtension):
    """Completes a task by `tasks/get`, as a host does; with `cancel`, it cancels each task first."""

    identifier = TASKS

    def __init__(self, *, cancel: bool = False) -> None:
        self.seen: list[Task] = []
        self._cancel = cancel

    def claims(self) -> Sequence[ResultClaim[Any]]:
        return [ResultClaim(result_type="task", model=Task, resolve=self.resolve)]

    async def resolve(self, task: Task, context: ClaimContext) -> CallToolResult:
        self.seen.append(task)
        if self._cancel:
            await ask(context.session, "tasks/cancel", task.task_id, Result)
        state = await ask(context.session, "tasks/get", task.task_id, TaskState)
        while state.status == "working":
            await asyncio.sleep(0.1)  # the client's polling interval
            state = await ask(context.session, "tasks/get", task.task_id, TaskState)
        self.seen.append(state)
        return CallToolResult.model_validate(state.result or {"content": []})


async def ask(session: ClientSession, method: str, task_id: str, kind: Any) -> Any:
    return await session.send_request(TaskRequest(method=method, params=Named(task_id=task_id)), kind)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    arguments = (*UNLIMITED, "--mcp", "on", "--engine", "fake_engines:FakeEngine")
    tests = str(Path(__file__).parents[1])
    with server(tmp_path_factory.mktemp("tasks") / "state", *arguments, PYTHONPATH=tests) as running:
        yield running


@TRANSPORTS
async def test_an_unfinished_drawing_is_a_task_with_the_result_of_the_tool(
    running: ServerProcess, transport: str, tmp_path: Path
) -> None:
    tasks = Tasks()
    async with connected(running, transport, "auto", tmp_path, extensions=[tasks]) as client:
        result = await client.call_tool("generate_image", ARGUMENTS)
        again = await client.call_tool("wait_for_job", {"job_id": tasks.seen[0].task_id})
    created, ended = tasks.seen
    assert (created.status, ended.status) == ("working", "completed")
    assert created.created_at.endswith("+00:00")
    assert created.created_at == ended.created_at
    assert result.structured_content == again.structured_content
    assert result.structured_content is not None
    assert result.structured_content["job_id"] == created.task_id
    if transport == "stdio":
        verify(Path(result.structured_content["images"][0]).read_bytes())


@TRANSPORTS
async def test_a_task_is_cancelled(running: ServerProcess, transport: str, tmp_path: Path) -> None:
    tasks = Tasks(cancel=True)
    async with connected(running, transport, "auto", tmp_path, extensions=[tasks]) as client:
        await client.call_tool("generate_image", ARGUMENTS | {"prompt": "wait"})
    assert [task.status for task in tasks.seen] == ["working", "cancelled"]
    assert tasks.seen[-1].status_message == "the job was cancelled"


async def test_a_failed_job_is_a_completed_task_with_an_error_of_the_tool(running: ServerProcess) -> None:
    tasks = Tasks()
    async with over_http(running, "auto", extensions=[tasks]) as client:
        result = await client.call_tool("generate_image", ARGUMENTS | {"prompt": "refuse"})
        refused = await client.call_tool("generate_image", ARGUMENTS | {"width": 1})
    assert tasks.seen[-1].status == "completed"
    assert result.is_error
    assert "this prompt is refused" in result.content[0].text  # type: ignore[union-attr]
    assert refused.is_error  # an invalid request is no task


@TRANSPORTS
async def test_errors_of_the_protocol(running: ServerProcess, transport: str, tmp_path: Path) -> None:
    async with connected(running, transport, "auto", tmp_path, extensions=[advertise(TASKS)]) as client:
        for method in ("tasks/get", "tasks/cancel", "tasks/update"):
            with pytest.raises(MCPError) as unknown:
                await ask(client.session, method, "ext_none", Result)
            assert unknown.value.code == INVALID_PARAMS
            assert "belongs to the key" in unknown.value.message
    async with connected(running, transport, "auto", tmp_path) as client:
        with pytest.raises(MCPError) as undeclared:
            await ask(client.session, "tasks/get", "ext_none", Result)
        assert undeclared.value.code == MISSING_REQUIRED_CLIENT_CAPABILITY
    async with connected(running, transport, "legacy", tmp_path, extensions=[advertise(TASKS)]) as client:
        with pytest.raises(MCPError) as older:
            await ask(client.session, "tasks/get", "ext_none", Result)
        assert older.value.code == METHOD_NOT_FOUND


@TRANSPORTS
@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_client_that_does_not_declare_it_gets_no_task(
    running: ServerProcess, transport: str, mode: str, tmp_path: Path
) -> None:
    async with connected(running, transport, mode, tmp_path) as client:
        result = await client.call_tool("generate_image", ARGUMENTS)
    assert result.structured_content is not None
    assert result.structured_content["state"] == "completed"


@pytest.mark.slow
def test_the_typescript_package_of_the_extension_accepts_each_answer(running: ServerProcess, tmp_path: Path) -> None:
    """`@modelcontextprotocol/ext-tasks` checks them by the extension's schema."""
    script = ClientScript("mcp_tasks.mjs")
    script.require()
    requests = [ARGUMENTS | {"prompt": prompt} for prompt in ("slow", "refuse")]
    settings = {"url": f"{running.url}/mcp", "key": running.key, "requests": requests}
    process = ScriptProcess(script, tmp_path, settings)
    try:
        outcome = process.line()
    finally:
        process.stop()
    assert set(outcome["methods"]) == {"tools/call", "tasks/get"}
    drawn, refused = outcome["outcomes"]
    verify(httpx2.get(drawn["structuredContent"]["images"][0]).content)
    assert refused["isError"]
    assert "this prompt is refused" in refused["content"][0]["text"]
