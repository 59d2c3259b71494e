"""The cost of provenance: marks and signature of one image of 1024 × 1024 pixels, and images/s of a server.

    python benchmarks/provenance.py

It needs the extra `umrgen[c2pa]`. The image is drawn by the procedural engine, with the noise of a camera's sensor, so
that its PNG is as large as that of a photograph. Two servers with two devices each, one of which signs, take turns.
"""

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import png

from support import ServerProcess, server
from umrgen import AsyncClient, Client
from umrgen.client.load import Load, run_load
from umrgen.clock import SystemClock
from umrgen.image_files import verify
from umrgen.provenance import Provenance, inspect, mark
from umrgen.server.engines import EncodedImage
from umrgen.server.engines.encoding import fingerprint
from umrgen.server.png import encode_png
from umrgen.server.signing import ManifestSigner, SigningOptions
from umrgen.server.signing.trial import write_trial

ROUNDS = 21
TURNS = 5
LOAD = Load(callers=4, images=16, request={"steps": 4})
"""Of each turn: images of 1024 × 1024 pixels, the default size."""
RECORD = Provenance(
    "trainedAlgorithmicMedia", version="1", engine="diffusers", model="a-model", prompt="a lighthouse " * 40, seed=1
)


def milliseconds(call: Callable[[], Any]) -> str:
    """Return the median and the slowest of `ROUNDS` calls, in CPU time of this thread and in time."""
    cpu, wall = [], []
    for _ in range(ROUNDS):
        began = time.perf_counter(), time.thread_time()
        call()
        wall.append((time.perf_counter() - began[0]) * 1000)
        cpu.append((time.thread_time() - began[1]) * 1000)
    return f"{statistics.median(cpu):.1f} ms of CPU (median of {ROUNDS}; {statistics.median(wall):.1f} ms of time)"


async def images_per_second(running: ServerProcess) -> float:
    async with AsyncClient(running.url, running.key, journal=None) as client:
        result = (await run_load(client, LOAD, SystemClock(), lambda done: None)).as_dict()
    assert not result["failures"], result
    return float(result["images_per_second"])


def is_signed(running: ServerProcess) -> bool:
    with tempfile.TemporaryDirectory() as folder, Client(running.url, running.key, journal=None) as client:
        saved = client.generate("a boat", Path(folder) / "boat.png")
        return bool(inspect(saved.data).manifest.valid)


def rates(state: Path, options: SigningOptions) -> tuple[list[float], list[float]]:
    """Return the images/s without and with signatures, by turn."""
    flags = ("--signing-certificate", options.certificate, "--signing-key", options.key)
    without, signed = [], []
    with (
        server(state / "plain", "--devices", "2") as plain,
        server(state / "signing", "--devices", "2", *flags) as signing,
    ):
        assert (is_signed(plain), is_signed(signing)) == (False, True)
        for turn in range(TURNS):
            order = [(plain, without), (signing, signed)]
            for running, found in order if turn % 2 else reversed(order):
                found.append(asyncio.run(images_per_second(running)))
    return without, signed


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_trial(Path(folder) / "trial")
        options = SigningOptions(*(str(Path(folder) / "trial" / name) for name in ("certificate.pem", "key.pem")))
        signer = ManifestSigner(options)
        pixels = png.photograph()
        image = encode_png(pixels)
        marked = mark(image, RECORD)
        signed = signer.sign(marked, RECORD)
        size = f"{len(image) / 1e6:.1f} MB"
        print(f"all marks but C2PA, PNG of {size}: {milliseconds(lambda: mark(image, RECORD))}")
        print(f"perceptual hash of the pixels: {milliseconds(lambda: fingerprint(pixels))}")
        decoded = EncodedImage(image, "image/png")
        print(f"perceptual hash of the PNG, for an engine that encodes: {milliseconds(lambda: fingerprint(decoded))}")
        print(
            f"signing it: {milliseconds(lambda: signer.sign(marked, RECORD))}, {len(signed) - len(marked)} bytes more"
        )
        print(f"checking marks and signature: {milliseconds(lambda: inspect(signed))}")
        assert verify(signed).width == 1024
        without, with_signatures = rates(Path(folder), options)
    rows = [" ".join(f"{rate:.2f}" for rate in found) for found in (without, with_signatures)]
    share = statistics.median(with_signatures) / statistics.median(without)
    print(f"images/s, two devices, {TURNS} turns: without {rows[0]}, with {rows[1]}: {share:.2f} x (medians)")


if __name__ == "__main__":
    sys.exit(main())
