"""The engine: its options, its servers and their health."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from umrgen.server.engines import DrawTask, EncodedImage, EngineFailure, EngineInfo, Report
from umrgen.server.engines.comfyui.answers import NodeInfo
from umrgen.server.engines.comfyui.checks import describe, largest_seed, problems
from umrgen.server.engines.comfyui.drawing import Drawing, PollLimits
from umrgen.server.engines.comfyui.servers import ComfyServer, ComfyServers, parse_urls
from umrgen.server.engines.comfyui.transport import ComfyClient
from umrgen.server.engines.comfyui.workflow import TEMPLATES, Workflow, load_workflow

__all__ = ["ComfyUIEngine"]

log = logging.getLogger(__name__)

SHOWN = 5
"""Problems of a workflow in one message."""


class ComfyUIEngine:
    """Implements `RemoteEngine`: runs a workflow on one or several ComfyUI servers."""

    def __init__(
        self,
        *,
        url: str | list[str] = "http://127.0.0.1:8188",
        workflow: str = "",
        bindings: str = "",
        allow_paid_nodes: bool = False,
        timeout: float = 30.0,
        poll_interval: float = 2.0,
        health_interval: float = 5.0,
        lost_after: float = 30.0,
    ) -> None:
        """`url`: one URL or several with commas, `URL*2` for two prompts at a time. `workflow`: a file in the API
        format, or the name of a template; absent: the first template whose files ComfyUI has. `bindings`: a file.

        Times in seconds. `timeout`: of a call; `poll_interval`: between two polls of a prompt; `health_interval`:
        between two health checks; `lost_after`: until a server that does not respond is given up. Raises
        ValueError, and EngineFailure for a file.
        """
        for name, text in (("workflow", workflow), ("bindings", bindings)):
            if not isinstance(text, str):
                raise ValueError(f"{name} must be a text; got {text!r}")
        times = {"timeout": timeout, "poll_interval": poll_interval, "health_interval": health_interval}
        for name, seconds in (times | {"lost_after": lost_after}).items():
            if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < 86400:
                raise ValueError(f"{name} must be a number of seconds above 0; got {seconds!r}")
        if not isinstance(allow_paid_nodes, bool):
            raise ValueError(f"allow_paid_nodes must be true or false; got {allow_paid_nodes!r}")
        if bindings and not workflow:
            raise ValueError("bindings need a workflow")
        self._urls = parse_urls(url)
        self._candidates = {name: load_workflow(name, bindings) for name in ([workflow] if workflow else TEMPLATES)}
        self._allow_paid_nodes = allow_paid_nodes
        self._timeout = timeout
        self._limits = PollLimits(poll_interval, lost_after)
        self._health_interval = health_interval
        self._workflow: Workflow | None = None
        self._servers = ComfyServers(())
        self._sent: dict[str, int] = {}
        self._monitor: asyncio.Task[None] | None = None
        self._on_capacity: Callable[[], None] = lambda: None

    @property
    def info(self) -> EngineInfo:
        """The features of the workflow; models and LoRAs are those of all servers."""
        infos = [server.info for server in self._servers.all if server.info]
        models = dict.fromkeys(name for info in infos for name in info.models)
        loras = dict.fromkeys(name for info in infos for name in info.loras)
        return replace(infos[0], models=tuple(models), loras=tuple(loras))

    @property
    def capacity(self) -> int:
        return self._servers.capacity

    async def load(self, on_capacity: Callable[[], None]) -> None:
        """Connect to the servers, and check the workflow on each. Raises EngineFailure if none can run it."""
        self._on_capacity = on_capacity
        if find_spec("websockets") is None:
            raise EngineFailure("the package for ComfyUI's messages is not installed: pip install 'umrgen[comfyui]'")
        if not self._servers.all:
            self._servers = ComfyServers(
                ComfyServer(ComfyClient(url, self._timeout), capacity) for url, capacity in self._urls
            )
        await self._servers.refresh(self._check)
        if not any(server.info for server in self._servers.all):
            troubles = dict.fromkeys(server.trouble for server in self._servers.all if server.trouble)
            raise EngineFailure("; ".join(troubles))
        if self._monitor is None:
            self._monitor = asyncio.create_task(self._watch_health())

    async def draw(self, task: DrawTask, report: Report) -> list[EncodedImage]:
        """Raises EngineFailure, OutOfMemory and EngineCrashed."""
        assert self._workflow is not None
        return await Drawing(task, report, self._workflow, self._servers, self._limits, self._sent).run()

    async def unload(self) -> None:
        """Let ComfyUI take the models out of memory."""
        await self._servers.unload()

    async def close(self) -> None:
        if self._monitor is not None:
            self._monitor.cancel()
            with suppress(asyncio.CancelledError):
                await self._monitor
            self._monitor = None
        await self._servers.close()
        self._servers = ComfyServers(())

    async def _watch_health(self) -> None:
        while True:
            await asyncio.sleep(self._health_interval)
            try:
                if await self._servers.refresh(self._check):
                    self._on_capacity()
            except Exception:
                log.exception("the health of ComfyUI could not be checked")

    # --- checks ---

    async def _check(self, server: ComfyServer, version: str) -> None:
        """Check the workflow on a server. Without a given one, choose the first template that it can run."""
        refused = []
        for name, workflow in self._candidates.items():
            if self._workflow not in (None, workflow):
                continue
            infos = await _node_infos(server.client, workflow)
            found = problems(workflow, infos, allow_paid_nodes=self._allow_paid_nodes)
            if not found:
                self._workflow = workflow
                notes = (f"ComfyUI {version}, workflow {Path(name).name}", f"bound: {workflow.bindings}")
                server.info = replace(describe(workflow, infos, version), notes=notes)
                server.seed_max = largest_seed(workflow, infos)
                return
            refused.append((name, found))
        message = _refusal(refused)
        if message != server.trouble:
            for problem in (problem for _, found in refused for problem in found):
                log.error("ComfyUI at %s: %s", server.address, problem)
        raise EngineFailure(message)


async def _node_infos(client: ComfyClient, workflow: Workflow) -> dict[str, NodeInfo | None]:
    return {name: await client.node_info(name) for name in {node.class_type for node in workflow.graph.values()}}


def _refusal(refused: list[tuple[str, list[str]]]) -> str:
    """Return the message for workflows that a server cannot run."""
    if len(refused) == 1:
        problems = refused[0][1]
        more = f"; and {len(problems) - SHOWN} more, see the log" if len(problems) > SHOWN else ""
        return f"ComfyUI cannot run the workflow: {'; '.join(problems[:SHOWN])}{more}"
    first = "; ".join(f"{name}: {problems[0]}" for name, problems in refused)
    return f"no workflow is given, and ComfyUI cannot run a template: {first}"
