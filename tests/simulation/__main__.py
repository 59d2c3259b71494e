"""Play random histories: `python tests/simulation --histories 100000 --jobs 2`, or one: `--seed N`."""

import argparse
import multiprocessing
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from simulation.choices import Choices, shrink
from simulation.history import Failure, play_choices, play_history


def _play_range(span: tuple[int, int]) -> tuple[Counter[str], int, list[tuple[int, str]]]:
    outcomes: Counter[str] = Counter()
    requests, failures = 0, []
    for seed in range(*span):
        try:
            history = play_history(seed)
        except Failure as failure:
            failures.append((seed, str(failure).splitlines()[0]))
            if len(failures) >= 5:
                break
            continue
        outcomes[f"{history.scenario}: {type(history.outcome).__name__}"] += 1
        requests += len(history.exchanges)
    return outcomes, requests, failures


def shortest(seed: int, seconds: float = 10.0) -> str:
    """Return the transcript of the simplest history with the same violation as the history of `seed`."""
    choices = Choices(seed)
    try:
        play_choices(choices)
    except Failure as failure:
        message = str(failure).splitlines()[0].split(":")[:2]
    else:
        return f"history {seed} violates no rule"

    def fails(draws: list[int]) -> bool:
        try:
            play_choices(Choices(given=draws))
        except Failure as failure:
            return str(failure).splitlines()[0].split(":")[:2] == message
        return False

    best = shrink(choices.taken, fails, seconds=seconds)
    try:
        play_choices(Choices(given=best))
    except Failure as failure:
        return f"{len(best)} draws (of {len(choices.taken)}):\n{failure}"
    return "it could not be replayed"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--histories", type=int, default=100_000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--start-seed", type=int, default=0)
    parser.add_argument("--seed", type=int, help="replay one history, shrink it if it fails")
    arguments = parser.parse_args()
    if arguments.seed is not None:
        try:
            print(play_history(arguments.seed).transcript())
        except Failure as failure:
            print(failure)
            print("\nshrunk:", shortest(arguments.seed))
            sys.exit(1)
        return
    started = time.monotonic()
    first, size = arguments.start_seed, 500
    spans = [
        (at, min(at + size, first + arguments.histories)) for at in range(first, first + arguments.histories, size)
    ]
    outcomes: Counter[str] = Counter()
    requests, failures = 0, []
    with multiprocessing.Pool(arguments.jobs) as pool:
        for some, count, failed in pool.imap_unordered(_play_range, spans):
            outcomes += some
            requests += count
            failures += failed
    for name, count in sorted(outcomes.items()):
        print(f"{count:8}  {name}")
    seconds = time.monotonic() - started
    print(f"{sum(outcomes.values())} histories, {requests} requests, {seconds:.0f} s, {len(failures)} failed")
    for seed, message in sorted(failures)[:5]:
        print(f"\nseed {seed}: {message}\nreplay it: python tests/simulation --seed {seed}")
    if failures:
        print("\nshrunk:", shortest(min(failures)[0]))
        sys.exit(1)


if __name__ == "__main__":
    main()
