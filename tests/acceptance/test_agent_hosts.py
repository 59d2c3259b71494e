"""Jobs of 90 s, drawn by real clients of the tools for agents at the time limits that these have for a request.

Each client is unmodified and runs in a separate process, over HTTP or with a separate `umrgen mcp`. All of them run
concurrently, in real time: one server draws the images immediately, the other has a job before each of them. The
clients with the limit of 5 s start last, when the others have started.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from client_scripts import ClientScript, ScriptProcess
from support import UNLIMITED, ServerProcess, clean_environment, cli, server, submit
from umrgen.image_files import verify

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]

HERE = Path(__file__).parent
JOB_SECONDS = 90
ATTEMPTS = 3
CALLS = {60: 6, 5: 30}
"""Calls that a job of 90 s may take, by the time limit of the client in seconds."""


@dataclass(frozen=True)
class Host:
    """A client, as an agent's host uses it. `mode` is the era of the protocol, where the client has a choice."""

    script: ClientScript
    transport: str
    mode: str = ""
    limit: int = 60
    """Its time limit of a request, in seconds."""

    @property
    def name(self) -> str:
        return "-".join(part for part in (self.script.name, self.transport, self.mode) if part)


SDK, CLIENT, AI_SDK = ClientScript("mcp_sdk.mjs"), ClientScript("mcp_client.mjs"), ClientScript("mcp_ai_sdk.mjs")
LANGCHAIN = ClientScript("langchain_tools.py", ".venv-langchain")
HOSTS = [
    Host(SDK, "http"),
    Host(SDK, "stdio"),
    Host(CLIENT, "http", "legacy"),
    Host(CLIENT, "http", "auto"),
    Host(CLIENT, "stdio", "legacy"),
    Host(CLIENT, "stdio", "auto"),
    Host(AI_SDK, "http"),
    Host(LANGCHAIN, "http"),
    Host(LANGCHAIN, "stdio"),
    Host(LANGCHAIN, "http", "session", limit=5),
    Host(LANGCHAIN, "stdio", "session", limit=5),
    Host(ClientScript("openai_agents_stdio.py", ".venv-clients"), "stdio", limit=5),
]


class Run:
    """A client that draws one image."""

    def __init__(self, host: Host, server: ServerProcess, key: str, folder: Path, prompt: str) -> None:
        folder.mkdir()
        self.http = server.http(Authorization=f"Bearer {key}")
        self.prompt = prompt
        self._script, self._folder = host.script, folder
        self._settings = {
            "transport": host.transport,
            "mode": host.mode,
            "limit": host.limit,
            "url": f"{server.url}/mcp",
            "key": key,
            "command": [sys.executable, "-m", "umrgen", "mcp", "--folder", str(folder / "images")],
            "env": clean_environment(UMRGEN_BASE_URL=server.url, UMRGEN_API_KEY=key),
            "request": {"prompt": prompt, "width": 512, "height": 512},
        }
        self.start()

    def start(self) -> None:
        self.process = ScriptProcess(self._script, self._folder, self._settings)

    def until_connected(self) -> None:
        """Wait until the client is connected. On a busy machine, `umrgen mcp` may need more than 5 s to start."""
        for _ in range(ATTEMPTS):
            try:
                assert self.process.line() == {"connected": True}
                return
            except AssertionError:
                self.stop()
                self.start()
        assert self.process.line() == {"connected": True}

    def stop(self) -> None:
        self.process.stop()


def new_key(server: ServerProcess) -> str:
    key: str = json.loads(cli("keys", "create", "--state", str(server.state), "--json").stdout)["key"]
    return key


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[tuple[str, str], Run]]:
    """The clients that run, by their names and the case."""
    folder = tmp_path_factory.mktemp("hosts")
    with ExitStack() as stack:

        def serve(name: str) -> ServerProcess:
            engine = ("--engine", "fake_engines:TimedEngine", "--engine-option", f"seconds={JOB_SECONDS}")
            options = (*UNLIMITED, "--mcp", "on", *engine, "--engine-option", f"capacity={len(HOSTS)}")
            return stack.enter_context(server(folder / name, *options, PYTHONPATH=str(HERE.parent)))

        servers = {
            "alone": dict.fromkeys(CALLS, serve("alone")),
            "queued": {limit: serve(f"queued-{limit}") for limit in CALLS},
        }
        found = {}
        for limit in CALLS:  # the shortest one last
            started = []
            with servers["queued"][limit].http() as http:
                for _ in HOSTS:
                    submit(http, "a job before the others", steps=6)
            for case in servers:
                running = servers[case][limit]
                key = new_key(running)  # the server learns one time limit for a key
                for host in HOSTS:
                    if host.limit == limit and not host.script.missing:
                        run = Run(host, running, key, folder / f"{case}-{host.name}", f"{case} {host.name}")
                        stack.callback(run.stop)
                        found[host.name, case] = run
                        started.append(run)
            for run in started:
                run.until_connected()
        yield found


@pytest.mark.parametrize("case", ["alone", "queued"])
@pytest.mark.parametrize("host", HOSTS, ids=lambda host: host.name)
def test_a_job_of_90_s_is_drawn_once(runs: Mapping[tuple[str, str], Run], host: Host, case: str) -> None:
    """With at most 6 calls at 60 s, and 30 at 5 s; for a job that is queued up to 90 s longer, as many again."""
    host.script.require()
    run = runs[host.name, case]
    outcome = run.process.line()
    assert outcome["calls"] <= CALLS[host.limit] * (2 if case == "queued" else 1)
    assert ("queued" in outcome["states"]) == (case == "queued")
    assert bool(outcome["cut"]) == (host.limit < 25)
    (place,) = outcome["answer"]["images"]
    verify(Path(place).read_bytes() if host.transport == "stdio" else httpx2.get(place).content)
    with run.http as http:
        listed = http.get("/api/v1/jobs?limit=100").json()["jobs"]
    assert [job["job_id"] for job in listed if job["prompt"] == run.prompt] == [outcome["answer"]["job_id"]]
