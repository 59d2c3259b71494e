"""The diffusers engine on one NVIDIA GPU: images/s against the pipeline itself and other servers, and faults.

    python benchmarks/gpu_pipelines.py OUTPUT.json [--folder FOLDER] [--sections build_klein,klein,...]
        [--aquiles FOLDER_OF_ITS_PACKAGES] [--seconds 300] [--tiny]

It needs torch, diffusers, fastapi and uvicorn, and 36 GB in FOLDER for models of random weights, which it makes.
Each section has a time limit; results are printed and written at once; a section that fails is reported as failed.
With --tiny it runs on the CPU with tiny models: a trial of the script, not a measurement.
"""

import argparse
import asyncio
import base64
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx2

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import served_pipeline
from PIL import Image
from served_pipeline import bare, by_fastapi, by_umrgen, fastapi, free_port, load, other_server, ours

from support import ServerProcess, cli, finish, tied, until

STEPS = {"z-image-turbo": 8, "flux2-klein": 4}
KLEIN = "black-forest-labs/FLUX.2-klein-4B"
"""The name of the model in Aquiles-Image."""
HOG = """
import sys, torch
free, _ = torch.cuda.mem_get_info()
kept = torch.empty(max(free - int(float(sys.argv[1]) * 2**30), 0), dtype=torch.uint8, device="cuda")
print(kept.numel(), flush=True)
sys.stdin.read()
"""
served_pipeline.LOADING = 200.0


@dataclass
class Bench:
    """The options and the results so far."""

    output: Path
    folder: Path
    aquiles: str
    tiny: bool
    results: dict[str, Any] = field(default_factory=dict)

    @property
    def device(self) -> str:
        return "cpu" if self.tiny else "cuda"

    def model(self, name: str) -> Path:
        return self.folder / name

    def sized(self, side: int, name: str, steps: int | None = None) -> dict[str, int]:
        side = 512 if self.tiny else side
        return {"width": side, "height": side, "steps": steps or STEPS[name]}

    def count(self, images: int) -> int:
        return max(2, images // 5) if self.tiny else images

    def note(self, section: str, **found: Any) -> None:
        """Keep results, print them and write all of them."""
        self.results.setdefault(section, {}).update(found)
        print(section, json.dumps(found), flush=True)
        self.output.write_text(json.dumps(self.results, indent=1))

    @contextlib.contextmanager
    def server(self, name: str, *options: str) -> Iterator[ServerProcess]:
        """Run our server with the model; note the seconds until it is ready, and the engine's own lines."""
        state, began = self.folder / f"state-{time.monotonic_ns()}", time.monotonic()
        with ours(self.model(name), state, *options) as running:
            self.results.setdefault("logs", {})[f"{name} {' '.join(options)}"] = {
                "ready_s": round(time.monotonic() - began, 1),
                "log": [line[-600:] for line in running.log().splitlines() if "diffusers engine" in line],
            }
            try:
                yield running
            finally:
                with self.output.with_suffix(".server.log").open("a") as log:
                    log.write(f"--- {name} {options}\n{running.log()[-200_000:]}")


def gpu_memory() -> list[str]:
    """Return the memory of the GPU in use, and that of each process, in MiB."""
    try:
        queries = ("--query-gpu=memory.used", "--query-compute-apps=pid,used_memory")
        asked = [["nvidia-smi", query, "--format=csv,noheader"] for query in queries]
        return [subprocess.run(each, capture_output=True, text=True, check=True).stdout.strip() for each in asked]
    except OSError:
        return []


# --- sections ---


def build(bench: Bench, *names: str) -> None:
    script = Path(__file__).with_name("real_pipelines.py")
    for name in names:
        began = time.monotonic()
        more = ["tiny"] if bench.tiny else []
        command = [sys.executable, str(script), name, str(bench.model(name)), bench.device, *more]
        made = subprocess.run(command, capture_output=True, text=True)
        if made.returncode:
            raise RuntimeError(made.stderr[-2000:])
        size = sum(path.stat().st_size for path in bench.model(name).rglob("*.safetensors"))
        parameters = made.stdout.strip().splitlines()[-1]
        bench.note(f"build {name}", s=round(time.monotonic() - began, 1), bytes=size, parameters=parameters)


def build_z(bench: Bench) -> None:
    build(bench, "z-image-turbo")


def build_klein(bench: Bench) -> None:
    build(bench, "flux2-klein")


def check(bench: Bench) -> None:
    """`umrgen engine plan` and `engine check`, as an operator runs them."""
    for name in STEPS:
        if bench.model(name).exists():
            planned = cli("engine", "plan", str(bench.model(name)), timeout=60)
            bench.note("plan", **{name: planned.stdout.splitlines() or planned.stderr[-800:]})
    began = time.monotonic()
    checked = cli("engine", "check", "--model", str(bench.model("z-image-turbo")), timeout=200)
    bench.note(
        "check",
        code=checked.returncode,
        s=round(time.monotonic() - began, 1),
        out=checked.stdout.splitlines(),
        err=checked.stderr[-3000:].splitlines(),
    )


def asker(server: ServerProcess) -> Callable[..., Any]:
    def ask(callers: int, images: int, size: Mapping[str, int], **more: Any) -> Any:
        return asyncio.run(load(server.url, server.key, by_umrgen, callers, images, size=size, **more))

    return ask


def against_bare(bench: Bench, name: str, rounds: int, *options: str) -> None:
    """Rows 1 to 3: our server and the pipeline itself take turns, both compiled."""
    compiled = () if bench.tiny or "compile=false" in options else ("compile",)
    section = " ".join((name, *options))
    with bench.server(name, *options) as server, bare(bench.model(name), bench.device, *compiled) as direct:
        ask, large, small = asker(server), bench.sized(1024, name), bench.sized(512, name)
        twenty, few = bench.count(20), bench.count(10)
        direct(4, 1, large)
        ask(1, 4, large)
        rates: dict[str, list[float]] = {"served": [], "bare": [], "again": []}
        for _ in range(rounds):
            rates["bare"].append(direct(twenty, 1, large))
            rates["served"].append(ask(1, twenty, large).rate)
            rates["again"].append(ask(1, few, large, repeated=True).rate)
            bench.note(section, **rates)
        medians = {each: statistics.median(found) for each, found in rates.items()}
        bench.note(
            section,
            served_over_bare=medians["served"] / medians["bare"],
            again_over_new=medians["again"] / medians["served"],
        )
        batches = {}
        for label, size in (("512", small), ("1024", large)):
            direct(4, 4, size)
            ask(8, 8, size)
            one, eight = ask(1, few, size).rate, ask(8, bench.count(24), size).rate
            bare_rates = direct(few, 1, size), direct(bench.count(12), 4, size)
            batches[label] = {"one": one, "eight_callers": eight, "ratio": eight / one}
            batches[label] |= {"bare_1": bare_rates[0], "bare_4": bare_rates[1]}
            bench.note(section, batches=batches)
        bench.note(section, memory=gpu_memory())


def z_image(bench: Bench) -> None:
    against_bare(bench, "z-image-turbo", 2)


def klein(bench: Bench) -> None:
    against_bare(bench, "flux2-klein", 2)


def z_eager(bench: Bench) -> None:
    against_bare(bench, "z-image-turbo", 1, "compile=false")


def klein_eager(bench: Bench) -> None:
    against_bare(bench, "flux2-klein", 1, "compile=false")


async def by_aquiles(client: httpx2.AsyncClient, body: dict[str, Any]) -> bytes:
    asked = {"prompt": body["prompt"], "model": KLEIN, "size": f"{body['width']}x{body['height']}"}
    answer = await client.post("/v1/images/generations", json=asked | {"response_format": "b64_json"})
    return base64.b64decode(answer.json()["data"][0]["b64_json"])


@contextlib.contextmanager
def aquiles(bench: Bench) -> Iterator[str]:
    """Run Aquiles-Image with the model in a separate hub cache, 4 steps and its other defaults."""
    home = bench.folder / "aquiles"
    cached = home / "hub" / f"models--{KLEIN.replace('/', '--')}"
    (cached / "refs").mkdir(parents=True, exist_ok=True)
    (cached / "refs" / "main").write_text("0" * 40)
    (cached / "snapshots").mkdir(exist_ok=True)
    with contextlib.suppress(FileExistsError):
        (cached / "snapshots" / ("0" * 40)).symlink_to(bench.model("flux2-klein"))
    port = free_port()
    options = ("--host", "127.0.0.1", "--port", str(port), "--model", KLEIN, "--set-steps", "4")
    command = [sys.executable, "-c", "from aquilesimage.cli.cli import app; app()", "serve", *options]
    paths = os.pathsep.join((bench.aquiles, os.environ.get("PYTHONPATH", "")))
    environment = {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "XDG_DATA_HOME": str(home), "PYTHONPATH": paths}
    with other_server(command, port, **environment):
        yield f"http://127.0.0.1:{port}"


def compare(bench: Bench, draw: Any, url: str, key: str = "") -> dict[str, Any]:
    """Return images/s and p95 with 1, 4 and 16 callers."""
    size, found = bench.sized(1024, "flux2-klein"), {}
    asyncio.run(load(url, key, draw, 4, 8, size=size))
    for callers, images in ((1, 10), (4, 20), (16, 48)):
        found[str(callers)] = asdict(asyncio.run(load(url, key, draw, callers, bench.count(images), size=size)))
    return found


def servers(bench: Bench) -> None:
    """Our server, without compiling, the FastAPI server and Aquiles-Image, one after the other in two rounds."""
    name = "flux2-klein"
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(bench.server(name, "compile=false", "sizes=1024x1024"))
        sides = {"umrgen": (by_umrgen, running.url, running.key)}
        sides["fastapi"] = (by_fastapi, stack.enter_context(fastapi(bench.model(name), bench.device))[0], "")
        if bench.aquiles:
            try:
                sides["aquiles"] = (by_aquiles, stack.enter_context(aquiles(bench)), "")
            except Exception as error:
                bench.note("servers", aquiles_failed=f"{type(error).__name__}: {error}"[:500])
        for number in (1, 2):
            for side, (draw, url, key) in sides.items():
                bench.note("servers", **{f"{side} {number}": compare(bench, draw, url, key)})


# --- faults ---


def submit(http: httpx2.Client, **fields: Any) -> str:
    answer = http.post("/api/v1/generate", json={"prompt": "a ship"} | fields)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["job_id"])


def status(http: httpx2.Client, job: str) -> dict[str, Any]:
    found: dict[str, Any] = http.get(f"/api/v1/status/{job}").json()
    return found


def at_step(http: httpx2.Client, job: str, step: int) -> dict[str, Any]:
    """Wait until the job has done some steps."""
    return dict(until(lambda: (found := status(http, job))["progress"]["step"] >= step and found, 60))


def cancel_alone(bench: Bench, http: httpx2.Client, name: str) -> dict[str, float]:
    """Cancel a job in its steps; return the seconds until the next one runs, in steps of the cancelled one."""
    size = bench.sized(1024, name, 40)
    began = time.monotonic()
    finish(http, submit(http, seed=1, **size))
    whole = time.monotonic() - began
    first = submit(http, seed=2, **size)
    second = submit(http, seed=3, **(size | {"steps": 2}))
    at_step(http, first, 5)
    http.post(f"/api/v1/cancel/{first}")
    cancelled = time.monotonic()
    until(lambda: status(http, second)["state"] != "queued", 60)
    freed = time.monotonic() - cancelled
    finish(http, second)
    return {"step_s": whole / 40, "until_the_next_runs_s": freed, "steps": freed / (whole / 40)}


def killed(bench: Bench, server: ServerProcess, http: httpx2.Client, name: str) -> dict[str, Any]:
    """Kill the engine in a job; return the seconds until the next one runs, and the longest answer of the API."""
    job = submit(http, seed=4, **bench.sized(1024, name, 40))
    at_step(http, job, 5)
    ended, slowest = threading.Event(), [0.0]

    def probe() -> None:
        with server.http() as other:
            while not ended.wait(0.005):
                begun = time.monotonic()
                other.get(f"/api/v1/status/{job}")
                slowest[0] = max(slowest[0], time.monotonic() - begun)

    with ThreadPoolExecutor(1) as pool:
        probing = pool.submit(probe)
        (pid,) = server.engine_pids()
        os.kill(pid, signal.SIGKILL)
        began = time.monotonic()
        again = until(lambda: (found := status(http, job))["progress"]["step"] and found["attempt"] > 1 and found, 150)
        taken = time.monotonic() - began
        ended.set()
        probing.result()
    return {"attempt": again["attempt"], "s": taken, "slowest_answer_ms": slowest[0] * 1000} | {
        "state": finish(http, job)["state"]
    }


@contextlib.contextmanager
def hog(bench: Bench, left: float) -> Iterator[None]:
    """Let another process take the memory of the GPU, except `left` GiB."""
    if bench.tiny:
        yield
        return
    with subprocess.Popen(
        tied(sys.executable, "-c", HOG, str(left)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield
        finally:
            process.terminate()


def never_fits(bench: Bench, server: ServerProcess, http: httpx2.Client, name: str) -> dict[str, Any]:
    """Submit a job that does not fit, with ten others behind it."""
    before = server.engine_pids()
    with hog(bench, 0.5):
        began = time.monotonic()
        too_large = submit(http, seed=5, **(bench.sized(1024, name) | {"width": 2048, "height": 2048}))
        others = [submit(http, seed=10 + number, **bench.sized(512, name)) for number in range(10)]
        refused = finish(http, too_large)
        taken = time.monotonic() - began
        done = [finish(http, job) for job in others]
        whole = time.monotonic() - began
    return {
        "state": refused["state"],
        "code": refused.get("error_code"),
        "error": refused.get("error"),
        "s": taken,
        "others": sorted({job["state"] for job in done}),
        "others_s": whole - taken,
        "attempts": sorted({job["attempt"] for job in done}),
        "same_process": server.engine_pids() == before,
    }


def released(bench: Bench, server: ServerProcess, http: httpx2.Client, name: str) -> dict[str, Any]:
    """Release the engine, and draw again."""
    memory = [gpu_memory()]
    answer = cli("engine", "release", "--state", str(server.state))
    with contextlib.suppress(AssertionError):
        until(lambda: not server.engine_pids(), 20)
    memory.append(gpu_memory())
    began = time.monotonic()
    state = finish(http, submit(http, seed=6, **bench.sized(512, name)))["state"]
    return {"release": answer.stdout or answer.stderr, "memory": memory, "again": state, "s": time.monotonic() - began}


def faults(bench: Bench) -> None:
    """A compiled server: cancel, out of memory, killed engine, release."""
    name = "flux2-klein"
    options = ("sizes=512x512,1024x1024", "max_batch=1")
    with bench.server(name, *options) as server, server.http() as http:
        for label, part in (
            ("cancel", lambda: cancel_alone(bench, http, name)),
            ("never_fits", lambda: never_fits(bench, server, http, name)),
            ("killed", lambda: killed(bench, server, http, name)),
            ("released", lambda: released(bench, server, http, name)),
        ):
            try:
                bench.note("faults", **{label: part()})
            except Exception as error:
                bench.note("faults", **{label: f"{type(error).__name__}: {error}"[:500]})


def pixels(http: httpx2.Client, job: str) -> bytes:
    done = finish(http, job)
    assert done["state"] == "completed", done
    return Image.open(BytesIO(http.get(done["results"]["images"][0]["url"]).content)).tobytes()


def cancelled_of_four(bench: Bench) -> None:
    """In float32: one of a batch of four is cancelled; are the other three as without that?"""
    name = "flux2-klein"
    size = bench.sized(512, name, 20)

    def four(http: httpx2.Client, *, cancel: bool) -> list[bytes]:
        blocker = submit(http, seed=1, **(size | {"steps": 10}))
        jobs = [submit(http, prompt=f"a ship {number}", seed=number, **size) for number in range(4)]
        finish(http, blocker)
        if cancel:
            at_step(http, jobs[1], 3)
            http.post(f"/api/v1/cancel/{jobs[1]}")
            assert finish(http, jobs[1])["error_code"] == "cancelled"
        return [pixels(http, jobs[number]) for number in (0, 2, 3)]

    options = ("dtype=float32", "compile=false", "max_batch=4", "sizes=")
    with bench.server(name, *options) as server, server.http() as http:
        plain, cancelled, plain_again = four(http, cancel=False), four(http, cancel=True), four(http, cancel=False)
        bench.note("cancelled_of_four", identical=plain == cancelled, repeated=plain == plain_again)


SECTIONS: Mapping[str, tuple[Callable[[Bench], None], int]] = {
    "build_z": (build_z, 120),
    "build_klein": (build_klein, 120),
    "check": (check, 200),
    "z_image": (z_image, 240),
    "klein": (klein, 200),
    "z_eager": (z_eager, 120),
    "klein_eager": (klein_eager, 120),
    "faults": (faults, 200),
    "servers": (servers, 240),
    "cancelled_of_four": (cancelled_of_four, 120),
}
"""Each section, and the most seconds that it may take."""


def late(number: int, frame: Any) -> None:
    raise TimeoutError("the section's time is over")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm/umrgen-models"))
    parser.add_argument("--sections", default=",".join(SECTIONS))
    parser.add_argument("--aquiles", default="", help="the folder with the packages of Aquiles-Image")
    parser.add_argument("--seconds", type=int, default=3600, help="no section begins with less than 20 s of these left")
    parser.add_argument("--tiny", action="store_true", help="tiny models on the CPU")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    bench = Bench(given.output, given.folder, given.aquiles, given.tiny)
    served_pipeline.ERRORS = given.output.with_suffix(".others.log").open("ab")
    signal.signal(signal.SIGALRM, late)
    began = time.monotonic()
    for name in given.sections.split(","):
        section, most = SECTIONS[name]
        left = int(given.seconds - (time.monotonic() - began))
        if left < 20:
            bench.note("times", **{name: "not begun: no time left"})
            continue
        started = time.monotonic()
        signal.alarm(min(most, left))
        try:
            section(bench)
        except BaseException as error:
            bench.note("failed", **{name: traceback.format_exc()[-3000:]})
            if isinstance(error, KeyboardInterrupt):
                raise
        finally:
            signal.alarm(0)
            bench.note("times", **{name: round(time.monotonic() - started, 1)})


if __name__ == "__main__":
    main()
