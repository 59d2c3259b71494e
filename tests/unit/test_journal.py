import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from umrgen.client.journal import KEEP_ENDED, PRUNE_ABOVE, Journal, JournalUnusable


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "deep" / "journal.ndjson")


def begin(journal: Journal, prompt: str = "a boat") -> str:
    return journal.begin("http://server", {"prompt": prompt}, f"key-of-{prompt}", target=Path("/x/boat.png"))


def test_the_life_cycle_of_an_entry(journal: Journal) -> None:
    entry_id = begin(journal)
    (entry,) = journal.unfinished()
    assert (entry.id, entry.job_id, entry.idempotency_key, entry.target) == (
        entry_id,
        None,
        "key-of-a boat",
        "/x/boat.png",
    )
    journal.submitted(entry_id, "ext_1")
    assert journal.unfinished()[0].job_id == "ext_1"
    found = journal.find_job("ext_1")
    assert found is not None
    assert found.request == {"prompt": "a boat"}
    journal.ended(entry_id, "saved", Path("/x/boat.png"))
    assert journal.unfinished() == []
    assert [(entry.end, entry.path) for entry in journal.entries()] == [("saved", "/x/boat.png")]


def test_only_the_owner_can_read_the_journal(journal: Journal) -> None:
    begin(journal)
    assert journal.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "line", [b'{"id": "x', b'{"id": "x"}\n\xff\xfe', b"[]\n", b'{"id": 5, "server": 1, "odd": 2}\n', b"\0" * 50]
)
def test_an_invalid_line_is_ignored(journal: Journal, line: bytes) -> None:
    first = begin(journal, "one")
    with journal.path.open("ab") as file:
        file.write(line)
    second = begin(journal, "two")
    assert [entry.id for entry in journal.unfinished()] == [first, second]


def test_concurrent_processes_lose_no_entry(journal: Journal) -> None:
    code = (
        "import sys; from pathlib import Path; from umrgen.client.journal import Journal\n"
        "j = Journal(Path(sys.argv[1]))\n"
        "for n in range(30):\n"
        "    e = j.begin('http://server', {'prompt': 'x' * 500}, f'{sys.argv[2]}-{n}')\n"
        "    j.submitted(e, f'ext_{sys.argv[2]}_{n}')"
    )
    run = lambda name: subprocess.run([sys.executable, "-c", code, str(journal.path), name], check=True)  # noqa: E731
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(run, "abc"))
    entries = journal.unfinished()
    assert len(entries) == 90
    assert {entry.job_id for entry in entries} == {f"ext_{name}_{n}" for name in "abc" for n in range(30)}
    assert all(json.loads(line) for line in journal.path.read_bytes().splitlines())


def test_pruning_removes_old_entries_and_keeps_unfinished_ones(tmp_path: Path) -> None:
    now = 1_000_000.0
    journal = Journal(tmp_path / "j", wall=lambda: now)
    keep = begin(journal, "unfinished")
    for number in range(40):
        journal.ended(begin(journal, f"old {number}"), "saved")
    now += KEEP_ENDED + 1
    filler = "x" * (PRUNE_ABOVE // 10)
    while journal.path.stat().st_size > 1000 and len(journal.entries()) > 15:
        journal.ended(begin(journal, filler), "saved")
    left = journal.entries()
    assert keep in {entry.id for entry in left}
    assert not [entry for entry in left if str(entry.request["prompt"]).startswith("old")]


def test_a_crash_while_pruning_loses_nothing(journal: Journal) -> None:
    first = begin(journal)
    journal.path.with_suffix(".new").write_bytes(journal.path.read_bytes())
    journal.path.write_bytes(b"")
    assert [entry.id for entry in journal.unfinished()] == [first]


def test_an_unwritable_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalUnusable, match="cannot be written"):
        begin(Journal(tmp_path / "file" / "j"))


def test_an_entry_has_no_field_for_an_api_key() -> None:
    fields = "id server request idempotency_key target overwrite embedded begun_at planned job_id end ended_at path"
    fields += " key_mark"  # eight digits of a digest
    from umrgen.client.journal import JournalEntry

    assert set(fields.split()) == set(JournalEntry.__slots__)
