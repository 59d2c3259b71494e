"""A server that fails while it opens leaves nothing open."""

import errno
import socket
from pathlib import Path

import pytest

from support import open_descriptors
from umrgen.server import serve
from umrgen.server.application import Application
from umrgen.server.http import server as http_server
from umrgen.server.ledger import LedgerUnavailable
from umrgen.server.ledger.sql.jobs import SqlJobStore
from umrgen.server.ledger.sqlite.file import SqliteLedger
from umrgen.server.scheduler.dispatcher import Dispatcher
from umrgen.server.settings import BadSettings, Settings


@pytest.mark.parametrize(("component", "step"), [(SqlJobStore, "recent_runs"), (Dispatcher, "recover")])
async def test_a_failure_after_the_ledger_was_opened_closes_it(
    component: type, step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    async def fails(*args: object, **options: object) -> None:
        opened.extend(open_descriptors(tmp_path))
        raise LedgerUnavailable("the ledger cannot be read: disk I/O error")

    monkeypatch.setattr(component, step, fails)
    with pytest.raises(LedgerUnavailable):
        await Application(Settings(state=tmp_path)).open()
    assert str(tmp_path / "ledger.sqlite3") in opened
    assert open_descriptors(tmp_path) == []


@pytest.mark.parametrize("step", ["setsockopt", "bind", "listen"])
def test_a_port_that_cannot_be_listened_on_leaves_no_socket_open(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A port may be taken between bind and listen."""
    made: list[socket.socket] = []

    class Taken(socket.socket):
        def __init__(self, *arguments: int) -> None:
            super().__init__(*arguments)
            made.append(self)

    def fails(*_: object) -> None:
        raise OSError(errno.EADDRINUSE, "Address already in use")

    setattr(Taken, step, fails)
    monkeypatch.setattr(http_server.socket, "socket", Taken)
    with pytest.raises(BadSettings, match="Address already in use"):
        http_server.reserve("127.0.0.1", 0)
    assert {opened.fileno() for opened in made} == {-1}


async def test_a_close_that_fails_closes_the_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = SqliteLedger(tmp_path / "ledger.sqlite3")
    await ledger.open()
    end_of_writer = ledger._writer.close

    async def fails() -> None:
        await end_of_writer()
        raise LedgerUnavailable("the disk is gone")

    monkeypatch.setattr(ledger._writer, "close", fails)
    with pytest.raises(LedgerUnavailable):
        await ledger.close()
    assert open_descriptors(tmp_path) == []


async def test_a_part_that_cannot_be_closed_leaves_neither_an_engine_nor_the_ledger_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    application = Application(Settings(state=tmp_path))
    await application.open()
    end_of_deliveries = application.deliverer.stop

    async def fails(seconds: float) -> None:
        await end_of_deliveries(seconds)
        raise RuntimeError("the deliveries cannot be stopped")

    monkeypatch.setattr(application.deliverer, "stop", fails)
    with pytest.raises(RuntimeError):
        await application.close()
    assert application.executor.capacity == 0, "the engine is stopped"
    assert [file for file in open_descriptors(tmp_path) if "ledger.sqlite3" in file] == []


async def test_without_a_key_it_listens_only_on_loopback(tmp_path: Path) -> None:
    application = Application(Settings(state=tmp_path, host="0.0.0.0"))
    await application.open()
    try:
        with pytest.raises(BadSettings, match="there is no API key yet"):
            await serve._first_key(application, shown=True)
        assert await application.keys.usable() == []
    finally:
        await application.close()
