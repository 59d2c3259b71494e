"""Benchmarks of the checks and limits of the server: their cost, their effect, and images against nginx.

    python benchmarks/checks.py [cost | images | idle | hammer | guess | near_miss | schema]

Without a name, all of them. Each prints rows for docs/benchmarks.md. The server runs on the first core of
the machine, the load on the second. `cost` and `images` need wrk, `images` nginx too. A guess of a
million names takes some minutes; a number after the name makes it fewer.
"""

import asyncio
import contextlib
import http.client
import io
import re
import resource
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

import httpx2

sys.path.insert(0, str(Path(__file__).parent))

from rig import CLIENT_CORE, SERVER_CORE, PinnedServer, asking, fill, new_key, pinned, run, wrk

from support import finish, submit, until

HERE = Path(__file__).parent


class Doorless(PinnedServer):
    """The same server without its checks."""

    command: ClassVar = (sys.executable, str(HERE / "without_checks.py"))


def cost(folder: Path, jobs: int = 1000, rounds: int = 25) -> None:
    """Measure status calls with all checks and with none, in turns of a second: the noise of the machine is slower."""
    rates: dict[type[PinnedServer], list[float]] = {PinnedServer: [], Doorless: []}
    with ExitStack() as stack:
        asked = {}
        for kind in rates:
            state = folder / kind.__name__
            made = new_key(state)
            names = asyncio.run(fill(state, made["session_id"], jobs))
            paths = folder / f"{kind.__name__}.paths"
            paths.write_text("\n".join(f"/api/v1/status/{name}" for name in names))
            running = kind(state)
            stack.callback(running.start().stop)
            asked[kind] = (running.url, asking(paths, made["key"]))
            wrk(*asked[kind], seconds=2)
        for _ in range(rounds):
            for kind, figures in rates.items():
                figures.append(wrk(*asked[kind], seconds=1)["rate"])
    with_checks, without = (statistics.median(figures) for figures in rates.values())
    shares = sorted(1 - each / other for each, other in zip(*rates.values(), strict=True))
    print(
        f"| status GET with all checks, over none | {with_checks:,.0f}/s of {without:,.0f}/s; {rounds} times in "
        f"turn, the checks cost {statistics.median(shares):.0%} (half of the times {shares[rounds // 4]:.0%} to "
        f"{shares[3 * rounds // 4]:.0%}) of the requests/s |"
    )


# --- images against nginx --------------------------------------------------------------------------------


@contextlib.contextmanager
def nginx(folder: Path) -> Iterator[str]:
    """Run nginx with one worker on the server's core, serving the files in `folder`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = folder / "nginx.conf"
    config.write_text(
        f"""
        daemon off; master_process off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.log;
        events {{ worker_connections 256; }}
        http {{
          access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000; types {{ image/png png; }}
          client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fcgi;
          uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
          open_file_cache max=100;
          server {{ listen 127.0.0.1:{port}; root {folder}; }}
        }}"""
    )
    # nginx may be in a folder that is not on a user's PATH.
    program = next(path for path in ("/usr/sbin/nginx", "nginx") if Path(path).exists() or path == "nginx")
    with subprocess.Popen(["taskset", "-c", SERVER_CORE, program, "-c", str(config), "-p", str(folder)]) as process:
        try:
            until(lambda: httpx2.get(f"http://127.0.0.1:{port}/image.png").status_code == 200)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def images(folder: Path, readers: int = 8, rounds: int = 5) -> None:
    """Send one image of 1.5 MB to 8 readers: our server and nginx with sendfile, in turns."""
    with pinned(folder / "state") as running, running.http() as http:
        done = finish(http, submit(http, width=1024, height=1024, steps=4, prompt="a neon city at night in the rain"))
        data = http.get(done["image_url"]).content
        (folder / "image.png").write_bytes(data)
        paths = {}
        for name, line in (("ours", done["image_url"]), ("nginx", "/image.png")):
            paths[name] = folder / name
            paths[name].write_text(line)
        rates: dict[str, list[float]] = {"ours": [], "nginx": []}
        with nginx(folder) as static:
            for _ in range(rounds):
                for name, url in (("ours", running.url), ("nginx", static)):
                    script = asking(paths[name], running.key)
                    rates[name].append(wrk(url, script, seconds=4, connections=readers)["rate"])
    ours, theirs = (statistics.median(each) for each in rates.values())
    print(
        f"| an image of {len(data) / 1e6:.2f} MB to {readers} readers | {ours:,.0f}/s; nginx with sendfile, "
        f"in the same run, {theirs:,.0f}/s: {ours / theirs:.2f} × |"
    )


# --- idle connections, and too many requests -------------------------------------------------------


def idle(folder: Path, count: int = 10_000) -> None:
    """Measure the memory of idle connections, and the latency of a new caller."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 2 * count + 1000), hard))
    with pinned(folder / "state", "--header-timeout", "600") as running, ExitStack() as opened:
        where = urlsplit(running.url)
        httpx2.get(f"{running.url}/healthz").raise_for_status()
        before = running.memory()
        for number in range(count):
            source = (f"127.0.0.{2 + number // 5000}", 0)
            opened.enter_context(socket.create_connection((where.hostname, where.port), 20, source))
        running.has_taken(count)
        each = (running.memory() - before) / count / 1024
        taken = []
        for _ in range(50):
            begun = time.perf_counter()
            caller = http.client.HTTPConnection(where.hostname or "", where.port)
            caller.request("GET", "/api/v1/jobs", headers={"Authorization": f"Bearer {running.key}"})
            assert caller.getresponse().read()
            taken.append((time.perf_counter() - begun) * 1000)
            caller.close()
    print(
        f"| {count:,} idle connections | {each:.1f} KiB each; a new caller is connected and served "
        f"in {statistics.median(taken):.1f} ms (p50), {max(taken):.1f} ms at most of 50 |"
    )


async def _pester(url: str, key: str, path: str, rate: float, until_when: float) -> int:
    """Send `rate` requests a second; return the number of 429 responses."""
    where = urlsplit(url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    head = f" HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n\r\n"
    requests = cycle([f"GET {path}{head}".encode(), f"GET /api/v1/jobs{head}".encode()])
    loop, refused = asyncio.get_running_loop(), 0
    due = loop.time()
    while due < until_when:
        await asyncio.sleep(max(0.0, due - loop.time()))
        writer.write(next(requests))
        answer = await reader.readuntil(b"\r\n\r\n")
        refused += answer.startswith(b"HTTP/1.1 429")
        length = next(line for line in answer.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(int(length.split(b":")[1]))
        due += 1 / rate
    writer.close()
    return refused


def hammer(folder: Path, keys: int = 20, seconds: float = 20.0) -> None:
    """Run keys at ten times their limit (600 a minute), and measure the latency of one more key within its limit."""
    with pinned(folder / "state", "--rate", "600") as running:
        noisy = [new_key(running.state)["key"] for _ in range(keys)]
        quiet = new_key(running.state)["key"]
        with running.http() as http:
            path = f"/api/v1/status/{submit(http)}"
            finish(http, path.rsplit("/", 1)[1])

        def latency(count: int = 80) -> list[float]:
            taken = []
            with httpx2.Client(base_url=running.url, headers={"Authorization": f"Bearer {quiet}"}) as http:
                http.get("/api/v1/jobs").raise_for_status()
                for _ in range(count):
                    begun = time.perf_counter()
                    http.get("/api/v1/jobs").raise_for_status()
                    taken.append((time.perf_counter() - begun) * 1000)
                    time.sleep(0.12)
            return sorted(taken)

        calm = latency()
        with subprocess.Popen(
            ["taskset", "-c", CLIENT_CORE, sys.executable, __file__, "_noise", running.url, path, str(seconds), *noisy],
            stdout=subprocess.PIPE,
            text=True,
        ) as other:
            assert other.stdout is not None
            other.stdout.readline()  # it has begun
            loud = latency()
            refused = int(other.stdout.readline())
    ratios = [loud[int(len(loud) * share)] / calm[int(len(calm) * share)] for share in (0.5, 0.95)]
    print(
        f"| {keys} keys, each at ten times its 600 a minute ({refused:,} × 429 in {seconds:.0f} s), and one more "
        f"| its p50 is {ratios[0]:.2f} × that without load ({calm[len(calm) // 2]:.2f} ms), its p95 {ratios[1]:.2f} × |"
    )


def _noise(url: str, path: str, seconds: str, *keys: str) -> None:
    async def all_of_them() -> int:
        ends = asyncio.get_running_loop().time() + float(seconds)
        first = [asyncio.create_task(_pester(url, key, path, 100, ends)) for key in keys]
        await asyncio.sleep(8)  # until the minute's worth of each is used up, at 100 a second
        print("begun", flush=True)
        return sum(await asyncio.gather(*first))

    print(asyncio.run(all_of_them()), flush=True)


def guess(folder: Path, tries: int = 1_000_000) -> None:
    """Request names similar to an existing one, pipelined over four connections from one address."""
    with pinned(folder / "state") as running, running.http() as http:
        done = finish(http, submit(http))
        url = urlsplit(done["image_url"])
        near = url.path.removesuffix(".png")[:-6]
        begun = time.perf_counter()
        counts = asyncio.run(_guess(running.url, near, url.query, url.path, tries))
        seconds = time.perf_counter() - begun
        assert http.get(done["image_url"]).status_code == 200
    statuses = ", ".join(f"{count:,} × {status}" for status, count in sorted(counts.items()))
    print(f"| {tries:,} guesses of image names similar to an existing one, in {seconds:.0f} s | {statuses} |")


async def _guess(base: str, near: str, query: str, right: str, tries: int) -> dict[int, int]:
    where, counts = urlsplit(base), dict[int, int]()
    numbers = iter(range(tries))

    async def one() -> None:
        reader, writer = await asyncio.open_connection(where.hostname, where.port)
        while some := [number for number, _ in zip(numbers, range(50), strict=False)]:
            buffer = io.BytesIO()
            for number in some:
                path = f"{near}{number:06x}.png"
                path = path if path != right else f"{near}zzzzzz.png"  # the right one would be no guess
                buffer.write(f"GET {path}?{query} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            writer.write(buffer.getvalue())
            for _ in some:
                head = await reader.readuntil(b"\r\n\r\n")
                status = int(head.split(maxsplit=2)[1])
                counts[status] = counts.get(status, 0) + 1
                length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
                await reader.readexactly(int(length.split(b":")[1]))
        writer.close()

    await asyncio.gather(*(one() for _ in range(4)))
    return counts


# --- does the time of a 401 depend on the key -----------------------------------------------------


def near_miss(folder: Path, rounds: int = 300) -> None:
    """Print the medians of interleaved calls with an almost correct key, and with an unrelated one."""
    with pinned(folder / "state", "--failed-logins", "1000000") as running:
        near, far = running.key[:-1] + ("A" if running.key[-1] != "A" else "B"), "umr_" + "x" * 43
        taken: dict[str, list[float]] = {near: [], far: []}
        with httpx2.Client(base_url=running.url) as http:
            for _ in range(rounds):
                for key, seconds in taken.items():
                    begun = time.perf_counter()
                    http.get("/api/v1/status/ext_1", headers={"Authorization": f"Bearer {key}"})
                    seconds.append(time.perf_counter() - begun)
    ratio = statistics.median(taken[near]) / statistics.median(taken[far])
    print(f"| 401 for a key wrong in its last character over 401 for an unrelated one, medians | {ratio:.2f} |")


# --- the API against its own description ----------------------------------------------------------------


def schema(folder: Path, examples: int = 200) -> None:
    """Run schemathesis over the whole OpenAPI description: examples, edge cases, random cases, and chains of calls."""
    tests = HERE.parent / "tests"
    few = ("--concurrent", "2", "--max-wait", "1", "--engine", "engines_that_fail:FailingEngine")
    with pinned(folder / "state", *few, environment={"PYTHONPATH": str(tests)}) as running:
        checks = ("not_a_server_error", "status_code_conformance", "content_type_conformance")
        checks += ("response_headers_conformance", "response_schema_conformance")
        command = [
            str(Path(sys.executable).parent / "schemathesis"),
            "run",
            f"{running.url}/openapi.json",
            "--no-color",
        ]
        command += ["--header", f"Authorization: Bearer {running.key}", "--checks", ",".join(checks)]
        command += ["--max-examples", str(examples), "--phases", "examples,coverage,fuzzing,stateful"]
        done = subprocess.run(command, capture_output=True, text=True)
    output = done.stdout
    assert done.returncode == 0, output[-3000:]
    cases = re.search(r"Test cases:\s+([\d,]+ generated, .*)", output)
    calls = re.search(r"Tested: (\d+)", output)
    assert cases, output[-3000:]
    assert calls
    print(f"| schemathesis over {calls[1]} calls | {cases[1]}: no 5xx, no response outside its schema |")


if __name__ == "__main__":
    if sys.argv[1:2] == ["_noise"]:
        _noise(*sys.argv[2:])
    else:
        run(__doc__, cost, images, idle, hammer, guess, near_miss, schema)
