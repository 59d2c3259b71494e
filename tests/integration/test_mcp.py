"""The tools for agents, called by the official Python client: both eras of the protocol, over stdio and HTTP."""

import base64
import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters
from mcp.shared.exceptions import MCPError

from mcp_connections import connected, over_http, over_stdio
from support import UNLIMITED, ServerProcess, clean_environment, cli, server
from umrgen.image_files import sniff, verify
from umrgen.testing import FaultServer

SMALL = {"width": 512, "height": 512, "steps": 1}
TOOLS = [
    *("generate_image", "wait_for_job", "get_job", "cancel_job", "list_jobs", "view_image", "describe_server"),
]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with server(tmp_path_factory.mktemp("mcp") / "state", *UNLIMITED, "--mcp", "on") as running:
        yield running


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with server(tmp_path_factory.mktemp("mcp") / "state", *UNLIMITED, "--mcp", "on", "--step-delay", "0.5") as running:
        yield running


def test_a_message_has_a_bounded_size_and_number_of_values(running: ServerProcess) -> None:
    """The SDK decodes it on the event loop."""
    headers = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
    with running.http(**headers) as http:
        for more, status in ([0] * 8000, 400), ([[]] * 4001, 400), ("x" * (256 << 10), 413):
            message = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"more": more}}
            answer = http.post("/mcp", json=message)
            assert answer.status_code == status, answer.text
            assert answer.json()["code"] in ("invalid_request", "too_large")


TRANSPORTS = pytest.mark.parametrize(
    ("transport", "mode"), [("stdio", "auto"), ("stdio", "legacy"), ("http", "auto"), ("http", "legacy")]
)


def jobs(server: ServerProcess, prompt: str) -> list[dict[str, Any]]:
    with server.http() as http:
        return [job for job in http.get("/api/v1/jobs?limit=200").json()["jobs"] if job["prompt"] == prompt]


def text_of(result: Any) -> str:
    (content,) = result.content
    assert content.type == "text"
    text: str = content.text
    return text


@TRANSPORTS
async def test_an_agent_draws_waits_views_and_cancels(
    running: ServerProcess, transport: str, mode: str, tmp_path: Path
) -> None:
    async with connected(running, transport, mode, tmp_path / "images") as client:
        listed = await client.list_tools()
        assert [tool.name for tool in listed.tools] == TOOLS
        assert len(listed.model_dump_json(by_alias=True, exclude_none=True)) <= 8000
        drawn = await client.call_tool("generate_image", {"prompt": "a boat", "seed": 7, **SMALL})
        assert not drawn.is_error
        answer = drawn.structured_content
        assert answer is not None
        assert (answer["state"], answer["seed"]) == ("completed", 7)
        for value in (answer["job_id"], "completed", answer["images"][0], "7", answer["next"]):
            assert value in text_of(drawn)  # a host shows only one of the halves
        place = answer["images"][0]
        if transport == "stdio":
            assert Path(place).is_absolute()
            assert Path(place).parent == tmp_path / "images"
        verify(Path(place).read_bytes() if transport == "stdio" else httpx2.get(place).content)
        viewed = await client.call_tool("view_image", {"job_id": answer["job_id"]})
        assert viewed.structured_content is None
        picture = base64.b64decode(viewed.content[0].data)  # type: ignore[union-attr]
        assert sniff(picture) == "image/jpeg"
        assert len(picture) <= 40_000
        again = await client.call_tool("wait_for_job", {"job_id": answer["job_id"]})
        assert again.structured_content == answer
        found = await client.call_tool("list_jobs", {"limit": 5})
        assert answer["job_id"] in text_of(found)
        described = await client.call_tool("describe_server", {})
        assert "procedural" in text_of(described)
        started = await client.call_tool(
            "generate_image", {"prompt": "a boat", "width": 2048, "height": 2048, "steps": 50, "wait_seconds": 0}
        )
        job_id = started.structured_content["job_id"]  # type: ignore[index]
        assert not started.is_error
        assert f"wait_for_job with job_id={job_id}" in text_of(started)
        cancelled = await client.call_tool("cancel_job", {"job_id": job_id})
        assert cancelled.structured_content["error_code"] == "cancelled"  # type: ignore[index]
        failed = await client.call_tool("wait_for_job", {"job_id": job_id})
        assert failed.is_error
        assert "cancelled" in text_of(failed)
        assert failed.structured_content["state"] == "failed"  # type: ignore[index]


@TRANSPORTS
async def test_errors_have_their_remedy(running: ServerProcess, transport: str, mode: str, tmp_path: Path) -> None:
    async with connected(running, transport, mode, tmp_path) as client:
        for tool, arguments, texts in (
            ("generate_image", {"prompt": "a boat", "bogus": 1}, ("no argument 'bogus'", "prompt, width")),
            ("generate_image", {"prompt": "a boat", "width": 100}, ("width", "512", "got 100")),
            ("generate_image", {}, ("prompt",)),
            ("generate_image", {"prompt": " "}, ("prompt", "visible", "again")),
            ("generate_image", {"prompt": "a boat", "reference_images": ["ref_none.png"]}, ("ref_none.png", "again")),
            ("wait_for_job", {"job_id": "ext_none"}, ("Check the", "belongs to the key")),
            ("view_image", {"job_id": "../etc"}, ("job",)),
        ):
            refused = await client.call_tool(tool, arguments)
            assert refused.is_error, arguments
            for text in texts:
                assert text in text_of(refused), text_of(refused)
            assert "pydantic" not in text_of(refused)
        nulls = await client.call_tool("generate_image", {"prompt": "a boat", "seed": None, "negative": None, **SMALL})
        assert not nulls.is_error


@pytest.mark.parametrize(
    ("transport", "mode"),
    [
        ("http", "auto"),
        pytest.param("http", "legacy", marks=pytest.mark.slow),
        pytest.param("stdio", "auto", marks=pytest.mark.slow),
        pytest.param("stdio", "legacy", marks=pytest.mark.slow),
    ],
)
async def test_a_call_that_is_cut_off_and_repeated_draws_once(
    slow: ServerProcess, transport: str, mode: str, tmp_path: Path
) -> None:
    prompt = f"a boat, {transport} {mode}"
    arguments = {"prompt": prompt, "width": 512, "height": 512, "steps": 8}
    async with connected(slow, transport, mode, tmp_path) as client:
        calls = 0
        answer: dict[str, Any] = {}
        while answer.get("state") != "completed":
            calls += 1
            with suppress(MCPError):  # the time limit of the client
                name, given = (
                    ("wait_for_job", {"job_id": answer["job_id"]}) if answer else ("generate_image", arguments)
                )
                result = await client.call_tool(name, given, read_timeout_seconds=1.5)
                answer = result.structured_content or {}
        assert 2 <= calls <= 12
        assert len(jobs(slow, prompt)) == 1
        verify(
            Path(answer["images"][0]).read_bytes() if transport == "stdio" else httpx2.get(answer["images"][0]).content
        )
        assert (await client.call_tool("generate_image", {**arguments, "wait_seconds": 0})).structured_content
        assert len(jobs(slow, prompt)) == 2  # the first answer arrived: an equal request is a new one


@pytest.mark.parametrize("mode", [pytest.param("auto", marks=pytest.mark.slow), "legacy"])
async def test_progress_rises_strictly_also_while_the_job_is_queued(slow: ServerProcess, mode: str) -> None:
    reports: list[tuple[float, float | None, str | None]] = []

    async def observe(progress: float, total: float | None, message: str | None) -> None:
        reports.append((progress, total, message))

    key = json.loads(cli("keys", "create", "--state", str(slow.state), "--json").stdout)[
        "key"
    ]  # no limit is learned yet
    async with over_http(slow, mode, key) as client:
        blocking = await client.call_tool("generate_image", {"prompt": "first", **SMALL, "steps": 6, "wait_seconds": 0})
        result = await client.call_tool(
            "generate_image", {"prompt": "second", **SMALL, "steps": 4}, progress_callback=observe
        )
        assert not blocking.is_error
        assert not result.is_error
    values = [progress for progress, _, _ in reports]
    assert values == sorted(set(values))
    messages = [message or "" for _, _, message in reports]
    assert any("queued" in message for message in messages)
    assert any("running, step" in message for message in messages)


async def test_http_needs_a_key_and_sessions_are_isolated(running: ServerProcess) -> None:
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    async with httpx2.AsyncClient() as http:
        for headers in ({}, {"Authorization": "Bearer umr_wrong"}):
            refused = await http.post(f"{running.url}/mcp", json=body, headers=headers)
            assert refused.status_code == 401
            assert refused.headers["www-authenticate"].startswith("Bearer")
        key = {"Authorization": f"Bearer {running.key}"}
        foreign = await http.post(f"{running.url}/mcp", json=body, headers={**key, "Host": "attacker.example"})
        assert foreign.status_code == 421
        assert (await http.post(f"{running.url}/mcp/", json=body, headers=key)).status_code == 404
    other = json.loads(cli("keys", "create", "--state", str(running.state), "--json").stdout)["key"]
    async with over_http(running, "legacy") as mine, over_http(running, "legacy", other) as theirs:
        drawn = await mine.call_tool("generate_image", {"prompt": "a secret boat", **SMALL})
        job_id = drawn.structured_content["job_id"]  # type: ignore[index]
        for tool in ("get_job", "wait_for_job", "cancel_job", "view_image"):
            assert (await theirs.call_tool(tool, {"job_id": job_id})).is_error
        assert "a secret boat" not in text_of(await theirs.call_tool("list_jobs", {"limit": 50}))


async def test_the_path_is_unknown_without_the_setting(shared_server: ServerProcess) -> None:
    async with httpx2.AsyncClient(headers={"Authorization": f"Bearer {shared_server.key}"}) as http:
        assert (await http.post(f"{shared_server.url}/mcp", json={})).status_code == 404


async def test_stdio_works_with_an_older_server(tmp_path: Path) -> None:
    with FaultServer(mode="legacy", job_seconds=0.3) as legacy:
        async with over_stdio(legacy.url, legacy.key, tmp_path, "auto") as client:
            drawn = await client.call_tool("generate_image", {"prompt": "a boat"})
            assert not drawn.is_error, text_of(drawn)
            verify(Path(drawn.structured_content["images"][0]).read_bytes())  # type: ignore[index]
            assert "a boat" in text_of(await client.call_tool("list_jobs", {}))
            assert not (await client.call_tool("describe_server", {})).is_error


async def test_stdio_starts_a_server_with_the_first_call(tmp_path: Path) -> None:
    environment = clean_environment(XDG_DATA_HOME=str(tmp_path / "data"))
    command = StdioServerParameters(
        command=sys.executable, args=["-m", "umrgen", "mcp", "--folder", str(tmp_path / "images")], env=environment
    )
    async with Client(command, mode="auto") as client:
        await client.list_tools()
        assert not (tmp_path / "data" / "umrgen" / "embedded").exists()
        drawn = await client.call_tool("generate_image", {"prompt": "a boat", **SMALL})
        assert not drawn.is_error, text_of(drawn)
        assert list((tmp_path / "images").iterdir()) == [Path(drawn.structured_content["images"][0])]  # type: ignore[index]
    assert list((tmp_path / "data" / "umrgen" / "embedded").iterdir()) == []


async def test_an_unwritable_folder_is_named(running: ServerProcess, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    async with over_stdio(running.url, running.key, tmp_path / "file" / "images", "auto") as client:
        refused = await client.call_tool("generate_image", {"prompt": "a boat", **SMALL})
        assert refused.is_error
        assert "--folder" in text_of(refused)
        assert "job_id: ext_" in text_of(refused)
