"""Break each line that implements a guarantee, and check that a test fails: `make mutants`, or

    python tests/mutants [--only NAME,NAME] [--table]

Each mutation of mutations.py is made in a separate copy of src/, from which its tests import. It is caught when these
tests fail, and they pass with an unchanged copy. --table prints the table of docs/reliability.md.

Tests run in processes that are forked from one that has imported pytest and the libraries already.
"""

import argparse
import re
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from mutants.mutations import MUTATIONS, Mutation, table
from mutants.runs import copy_of_sources, prepare, run_tests

CONCURRENT = 4
"""Mutations that are tried concurrently. Many of their tests wait for processes, so more than one for each core."""
SECONDS = 300.0
"""Time limit for the tests of one mutation. A test that hangs fails earlier, by pytest's time limit."""
BASELINE_SECONDS = 900.0
"""Time limit for all tests without a mutation."""
SLOWEST = 40
"""How many of the slowest mutations are listed at the end."""


def verdict(mutation: Mutation) -> str:
    """Return "" if a test caught the mutation, otherwise the reason why not."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            sources = copy_of_sources(Path(folder), mutation)
        except ValueError as error:
            return str(error)
        try:
            code, output = run_tests(sources, mutation.tests, SECONDS)
        except TimeoutError as error:
            return f"its tests did not end within {SECONDS:g} s: {str(error)[-600:]}"
    if code == 1:
        return ""
    return "SURVIVED" if code == 0 else f"pytest ended with {code}: {output[-600:]}"


def timed_verdict(mutation: Mutation) -> tuple[str, float]:
    """Return the verdict on a mutation and the seconds that it took."""
    began = time.monotonic()
    return verdict(mutation), time.monotonic() - began


def baseline(tests: Sequence[str]) -> str:
    """Run tests on an unchanged copy, where they must pass; return why they do not, or ""."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            code, output = run_tests(copy_of_sources(Path(folder)), tests, BASELINE_SECONDS)
        except TimeoutError:
            return f"the tests do not end within {BASELINE_SECONDS:g} s without a mutation"
    if code != 0 or not re.search(r"\d+ passed", output):
        return f"the tests do not pass without a mutation:\n{output[-3000:]}"
    return ""


def baseline_groups(mutations: Sequence[Mutation]) -> list[list[str]]:
    """Return the tests of the mutations in as many groups as run concurrently; the tests of one file stay together."""
    by_file = defaultdict[str, set[str]](set)
    for mutation in mutations:
        for test in mutation.tests:
            by_file[test.partition("::")[0]].add(test)
    files = sorted(by_file)
    groups = [
        [test for file in files[start::CONCURRENT] for test in sorted(by_file[file])] for start in range(CONCURRENT)
    ]
    return [group for group in groups if group]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="names of mutations, separated by commas")
    parser.add_argument("--table", action="store_true", help="print the table of guarantees and their tests")
    options = parser.parse_args()
    if options.table:
        print(table())
        return
    wanted = set(filter(None, options.only.split(",")))
    chosen = [mutation for mutation in MUTATIONS if not wanted or mutation.name in wanted]
    if wanted - {mutation.name for mutation in chosen}:
        sys.exit(f"no such mutation: {', '.join(sorted(wanted - {mutation.name for mutation in chosen}))}")
    began = time.monotonic()
    prepare()
    survived, durations = [], []
    with ThreadPoolExecutor(CONCURRENT) as pool:
        if failures := "\n".join(filter(None, pool.map(baseline, baseline_groups(chosen)))):
            sys.exit(failures)
        print(f"all tests pass without a mutation, after {time.monotonic() - began:.0f} s", flush=True)
        for mutation, (what, seconds) in zip(chosen, pool.map(timed_verdict, chosen), strict=True):
            line = f"{'caught' if not what else 'NOT CAUGHT'}  {mutation.name}  {what}".rstrip()
            survived += [line] if what else []
            durations.append((seconds, mutation.name))
            print(line, flush=True)
    caught = len(chosen) - len(survived)
    print("slowest:", ", ".join(f"{name} {seconds:.0f} s" for seconds, name in sorted(durations)[:-SLOWEST:-1]))
    print(f"{caught} of {len(chosen)} mutations were caught, in {time.monotonic() - began:.0f} s")
    print("\n".join([*survived, f"{caught} passed, {len(survived)} failed"]))  # the end of a long log has the reason
    sys.exit(bool(survived))


if __name__ == "__main__":
    main()
