"""Texts of a server never move the terminal: every command against one whose every text is wild."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from wild_responses import RECEIPT, WildServer, wild_server

from umrgen.cli import umrgen

WILD = "a\x1b]0;t\x07\x1b[2J\r\nok: saved \x9b31m \u202eevil\u2028 \ud800\x00"
JOB = {
    "job_id": "ext_1",
    "state": "failed",
    "created_at": 10**300,
    "error": WILD,
    "error_code": WILD,
    "engine": WILD,
    "prompt": WILD,
    "image_url": f"/{WILD}",
    "results": {"images": [{"url": WILD}, {"url": 7}]},
    "webhook": {"state": WILD, "attempts": 2, "next_at": WILD, "last_error": WILD},
    "next": WILD,
}
EVERYTHING = JOB | {
    "jobs": [JOB, {"job_id": WILD, "state": WILD}, 7],
    "unknown": [WILD],
    "cursor": WILD,
    "next_cursor": WILD,
    "filename": WILD,
    "references": [{"filename": WILD, "bytes": 10**300, "expires_at": WILD, "width": WILD}],
    "message": WILD,
    "warnings": [WILD],
    "calls": [WILD],
    "status": WILD,
}
COMMANDS = [
    *(["status", "ext_1"], ["watch", "ext_1"], ["wait", "ext_1"], ["wait", "ext_1", "ext_2"], ["fetch", "ext_1"]),
    *(["cancel", "ext_1"], ["jobs"], ["doctor"], ["upload", "--list"], ["upload", "--delete", "x"]),
    *(["generate", "a boat"], ["generate", "a boat", "-n", "2"], ["submit", "a boat"]),
]


def answer(status: int, data: dict[str, object]) -> bytes:
    body = json.dumps(data).encode()
    return f"HTTP/1.1 {status} {WILD[:9]!r}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


NO_SUCH_JOB = answer(404, {"error": WILD, "code": "job_not_found"})


@pytest.fixture(scope="module")
def wild() -> Iterator[WildServer]:
    with wild_server() as server:
        yield server


@pytest.mark.parametrize("output", [[], ["--json"], ["--events"]], ids=["text", "json", "events"])
@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: " ".join(words))
@pytest.mark.parametrize("status", [200, 404, 500])
def test_a_command_prints_only_printable_lines(
    wild: WildServer,
    command: list[str],
    output: list[str],
    status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if command[0] == "doctor" and output == ["--events"]:
        return  # it has no events
    monkeypatch.setenv("UMRGEN_BASE_URL", wild.url)
    monkeypatch.setenv("UMRGEN_API_KEY", "umr_key")
    first = {"generate": [RECEIPT], "submit": [RECEIPT], "doctor": [NO_SUCH_JOB]} if status == 200 else {}
    wild.play([*first.get(command[0], []), answer(status, EVERYTHING | {"engine": {"name": WILD}})])
    limit = [] if command[0] == "doctor" else ["--timeout", "0.3"]
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(umrgen, [*command, *output, *limit])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.output
    for line in result.output.split("\n"):
        assert line.isprintable(), line
    for line in result.stdout.split("\n") if output else []:
        assert not line or isinstance(json.loads(line), dict)
