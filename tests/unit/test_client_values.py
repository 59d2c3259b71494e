"""Values that no request can have: they are refused before anything is sent or recorded."""

import math
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from umrgen import AsyncClient, InvalidRequest, UmrgenError
from umrgen.cli.cells import terminal_size
from umrgen.cli.connection import Seconds
from umrgen.cli.display import detection
from umrgen.client.journal import Journal
from umrgen.client.target import STDOUT, descriptor_of

NOWHERE = "http://127.0.0.1:9"


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"cfg": math.nan}, "cfg must have finite numbers; got nan"),
        ({"loras": [{"name": "a", "strength": math.inf}]}, "loras must have finite numbers"),
        ({"negative": "a \ud800"}, "negative is not valid Unicode; got 'a \N{REPLACEMENT CHARACTER}'"),
        ({"idempotency_key": "caf\xe9"}, "idempotency_key must have 1 to 255 visible ASCII characters; got 'café'"),
        ({"idempotency_key": ""}, "idempotency_key must have"),
        ({"idempotency_key": "a\nb"}, "idempotency_key must have"),
    ],
)
async def test_a_submit_names_the_value(values: dict[str, Any], named: str, tmp_path: Path) -> None:
    async with AsyncClient(NOWHERE, "key", journal=None) as client:
        with pytest.raises(InvalidRequest) as refused:
            await client.submit("a boat", references=[tmp_path / "not uploaded.png"], **values)
    assert str(refused.value).startswith(named)


@pytest.mark.parametrize(("wrong", "error"), [({"cfg": math.nan}, InvalidRequest), ({"stepz": 1}, TypeError)])
async def test_one_wrong_request_of_several_leaves_no_entry_in_the_journal(
    wrong: dict[str, Any], error: type[Exception], tmp_path: Path
) -> None:
    journal = Journal(tmp_path / "journal")
    requests = [{"prompt": "a boat"}, {"prompt": "a boat", **wrong}]
    async with AsyncClient(NOWHERE, "key", journal=journal) as client:
        with pytest.raises(error):
            await anext(aiter(client.generate_many(requests, [None, None])))
    assert journal.entries() == []


@pytest.mark.parametrize("name", ["state", "search", "engine"])
async def test_a_list_names_the_value(name: str) -> None:
    filters: dict[str, Any] = {name: "\udcff"}
    async with AsyncClient(NOWHERE, "key", journal=None) as client:
        with pytest.raises(InvalidRequest, match=f"{name} is not valid Unicode"):
            await anext(aiter(client.jobs(**filters)))
        with pytest.raises(InvalidRequest, match="name is not valid Unicode"):
            await client.delete_upload("\udcff")


@pytest.mark.parametrize("value", [math.nan, -5, -0.1])
async def test_a_time_limit_is_a_number_of_at_least_0(value: float) -> None:
    with pytest.raises(UmrgenError, match="timeout must be a number of at least 0; got"):
        AsyncClient(NOWHERE, "key", timeout=value)
    async with AsyncClient(NOWHERE, "key", journal=None) as client:
        with pytest.raises(UmrgenError, match="patience must be a number of at least 0; got"):
            await client.job("ext_1").wait(patience=value)
    with pytest.raises(click.BadParameter):
        Seconds(min=0).convert(str(value), None, None)


def test_a_time_limit_of_the_command_line() -> None:
    assert [Seconds(min=0).convert(text, None, None) for text in ("0", "2.5", "inf")] == [0, 2.5, math.inf]


def test_on_windows_a_dash_is_stdout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    monkeypatch.setattr("umrgen.client.target.os.path.normpath", lambda path: f"C:{path}")
    assert descriptor_of(STDOUT) == 1
    assert descriptor_of(tmp_path / "dev" / "stdout") is None


def test_windows_has_no_query_of_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detection, "termios", None)
    monkeypatch.delattr("os.O_NOCTTY")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert detection.chosen_protocol(None, {"TERM": "xterm-256color"}) is None


def test_a_stream_without_a_terminal_has_the_usual_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "71")
    with Path("/dev/null").open("w") as stream:
        assert terminal_size(stream).columns == 71
