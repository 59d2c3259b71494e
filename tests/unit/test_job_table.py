"""The list of jobs: columns that fit the terminal, and prompts cut to the width of what a terminal shows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umrgen.cli.cells import cell_width, cut
from umrgen.cli.job_table import JobRow, age, job_lines, local_row, server_row
from umrgen.text import printable

NOW = 1_800_000_000.0
JOB = {
    "job_id": "ext_" + 32 * "a",
    "state": "completed",
    "created_at": (NOW - 90) * 1000,
    "started_at": (NOW - 80) * 1000,
    "completed_at": (NOW - 77.5) * 1000,
    "seed": 4294967295,
    "results": {"images": [{"width": 1024, "height": 768}]},
    "request": {"prompt": "a lighthouse on a cliff at dusk, storm over the sea", "width": 512, "height": 512},
}


def lines(width: int | None, *jobs: dict[str, object]) -> list[str]:
    return list(job_lines([server_row(job) for job in jobs], NOW, width))


@pytest.mark.parametrize(
    ("text", "width"),
    [("boat", 4), ("船が", 4), ("e\u0301", 1), ("👍", 2), ("ﾃ", 1), ("☂\ufe0f", 2), ("", 0)],
)
def test_the_cells_of_a_text(text: str, width: int) -> None:
    assert cell_width(text) == width


def test_a_wide_character_is_not_cut_in_half() -> None:
    assert cut("船船船", 4) == "船…"
    assert cut("船船船", 5) == "船船…"
    assert cut("船船船", 6) == "船船船"
    assert cut("boat", 0) == ""


@given(st.text(max_size=60), st.integers(20, 200), st.booleans())
def test_no_line_is_wider_than_the_terminal(prompt: str, width: int, failed: bool) -> None:
    job = JOB | {"prompt": prompt, "error": prompt if failed else None}
    for line in lines(width, job, JOB):
        assert cell_width(line) <= width
        assert line.isprintable()
    for line in lines(None, job):
        assert line.isprintable()


def test_at_80_columns_the_prompt_has_space() -> None:
    head, row = lines(79, JOB)
    assert head.split() == ["AGE", "STATE", "JOB", "PROMPT"]
    assert row == f"1 min  completed  {JOB['job_id']}  a lighthouse on a clif…"


def test_at_120_columns_there_are_the_size_the_duration_and_the_seed() -> None:
    head, row = lines(119, JOB)
    assert head.split() == ["AGE", "STATE", "JOB", "SIZE", "TIME", "SEED", "PROMPT"]
    assert "1024×768  2.5 s  4294967295  a lighthouse on" in row


def test_a_column_without_a_value_is_left_out() -> None:
    head, _ = lines(119, {"job_id": "ext_1", "state": "queued", "prompt": "a boat"})
    assert head.split() == ["AGE", "STATE", "JOB", "PROMPT"]


def test_elsewhere_than_in_a_terminal_nothing_is_cut() -> None:
    (row,) = lines(None, JOB)
    assert JOB["request"]["prompt"] in row  # type: ignore[index]
    assert "1024×768" in row
    assert "2027-01-" in row


def test_an_error_is_shown_beside_a_long_prompt() -> None:
    _, row = lines(79, JOB | {"state": "failed", "error": "cancelled"})
    assert row.endswith("  (cancelled)")


def test_values_of_a_wrong_type_are_dashes() -> None:
    row = server_row({"job_id": 7, "state": None, "created_at": 10**300, "seed": "x", "results": [], "request": 3})
    assert (row.created_at, row.seed, row.size, row.duration, row.prompt) == (None, "-", "-", "-", "")


@pytest.mark.parametrize(
    ("seconds", "text"), [(-3, "0 s"), (59.9, "59 s"), (60, "1 min"), (7300, "2 h"), (200_000, "2 d")]
)
def test_an_age_is_in_its_largest_unit(seconds: float, text: str) -> None:
    assert age(seconds) == text


def test_an_entry_of_the_journal_without_a_job_shows_its_own_id() -> None:
    entry = {"id": "ab12", "begun_at": NOW, "end": None, "job_id": None, "request": {"prompt": "a boat\x1b[2J"}}
    row = local_row(entry)
    assert (row.state, row.job_id, row.prompt) == ("unfinished", "(ab12)", printable("a boat\x1b[2J"))
    assert JobRow(None, "x", "y", "z").cell("age", NOW) == "-"
