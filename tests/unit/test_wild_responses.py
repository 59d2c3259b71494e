"""Wild HTTP responses against every call of the client: only typed errors, in time, in little memory, printable."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wild_responses import CALLS, COMPLETED, ENDLESS, Report, WildServer, random_answers, run_call, wild_server

MOST_UNREAD = 16 << 20
"""Bytes of a body that the sockets may hold beyond the limit of the client."""


@pytest.fixture(scope="module")
def wild() -> Iterator[WildServer]:
    with wild_server() as server:
        yield server


@pytest.mark.parametrize(("kind", "name"), CALLS)
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1))
def test_wild_responses(wild: WildServer, kind: str, name: str, tmp_path: Path, seed: int) -> None:
    report = Report()
    run_call(wild, kind, name, random_answers(random.Random(seed), name), tmp_path, report)
    assert report.violations == []


@pytest.mark.parametrize("kind", ["async", "stdlib"])
def test_an_endless_body_is_not_read_to_its_end(wild: WildServer, kind: str, tmp_path: Path) -> None:
    report, wild.sent, wild.endless_bytes = Report(), 0, 0
    run_call(wild, kind, "status", [ENDLESS], tmp_path, report)
    assert report.violations == []
    assert wild.endless_bytes <= wild.sent * MOST_UNREAD


def test_a_partial_response_to_a_request_for_the_whole_file(wild: WildServer, tmp_path: Path) -> None:
    partial = b"HTTP/1.1 206 OK\r\nContent-Length: 9\r\nContent-Range: bytes 0-8/9\r\n\r\nnot a PNG"
    report = Report()
    run_call(wild, "async", "download", [COMPLETED, partial], tmp_path, report)
    assert report.violations == []
    assert report.ends == {"async download: OutputCorrupt": 1}
