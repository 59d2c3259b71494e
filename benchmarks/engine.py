"""Benchmarks of the procedural engine: seconds for one image of 1024 x 1024 in 4 steps.

Run it with `python benchmarks/engine.py`.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from support import draw_task
from umrgen.server.engines import load_engine

PROMPTS = (
    "a lighthouse on a cliff at dusk, storm over the sea",
    "a neon city at night in the rain",
    "mountains at sunrise, mist in the valley",
    "hello world",
)
ROUNDS = 5


def warm(prompt: str) -> float:
    """Return the median over several images in a process that has drawn one before."""
    engine = load_engine("procedural", {})
    taken = []
    for seed in range(ROUNDS + 1):
        begun = time.perf_counter()
        engine.draw(draw_task(prompt, 1024, 1024, 4, seed), lambda step, total, preview=None: None)
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken[1:])


def whole_command() -> float:
    """`umrgen generate` with no server configured, as `make image` runs it: the quickest of a few."""
    with tempfile.TemporaryDirectory() as folder:
        taken = []
        for number in range(ROUNDS):
            begun = time.perf_counter()
            target = Path(folder) / f"{number}.png"
            command = [sys.executable, "-m", "umrgen", "generate", PROMPTS[0], "-o", str(target)]
            environment = {"PATH": "/usr/bin:/bin", "XDG_DATA_HOME": folder}
            subprocess.run(command, check=True, capture_output=True, env=environment)
            taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def main() -> None:
    for prompt in PROMPTS:
        print(f"| {prompt!r}, warm process | {warm(prompt):.2f} s |")
    print(f"| `umrgen generate` that starts its own server, the first prompt, in total | {whole_command():.1f} s |")


if __name__ == "__main__":
    main()
