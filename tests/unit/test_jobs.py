from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umrgen.jobs import TRANSITIONS, Change, Conflict, Job, JobSpec, Output, State, Status, advance, job_to_wire

JOB = Job("ext_1", "sid_a", JobSpec("a lighthouse", seed=7), "procedural", created_at=1000)
OUTPUT = Output("umrgen_7_aa.png", "sid_a", 10, "ab" * 32, 512, 512)


def test_nothing_leads_out_of_a_final_state() -> None:
    assert {state for state, _ in TRANSITIONS} == {State.QUEUED, State.RUNNING}
    for state in State:
        for change in Change:
            job = JOB._replace(state=state)
            if (state, change) in TRANSITIONS:
                assert advance(job, change, now=1).state is TRANSITIONS[state, change]
            else:
                with pytest.raises(Conflict):
                    advance(job, change, now=1)


@given(st.lists(st.sampled_from(Change), max_size=12))
def test_whatever_happens_the_books_balance(changes: list[Change]) -> None:
    job, claims, ends = JOB, 0, 0
    for now, change in enumerate(changes, 2000):
        try:
            following = advance(job, change, now=now, lease_until=now + 1 if change is Change.CLAIM else None)
        except Conflict:
            continue
        claims += change is Change.CLAIM
        ends += following.over
        assert following.version == job.version + 1
        assert (following.completed_at is not None) == following.over
        job = following
    assert (job.attempt, job.token) == (claims, claims)
    assert ends <= 1


def test_the_wire_form_has_everything_the_contract_names() -> None:
    wire = job_to_wire(JOB._replace(state=State.COMPLETED, outputs=(OUTPUT,), completed_at=3000))
    names = "success job_id state image_url results error error_code queue_position eta_seconds progress created_at "
    names += "started_at completed_at engine seed priority attempt retry_after_ms next"
    assert set(names.split()) == set(wire)
    assert wire["image_url"] == wire["results"]["images"][0]["url"]
    assert wire["image_url"] == "/outputs/sid_a/umrgen_7_aa.png?session_id=sid_a"
    assert wire["retry_after_ms"] is None
    for state, delay in ((State.QUEUED, 3000), (State.RUNNING, 2000)):
        wire = job_to_wire(JOB._replace(state=state))
        assert (wire["image_url"], wire["results"], wire["retry_after_ms"]) == (None, {"images": []}, delay)


class TestReadingAServersAnswer:
    def test_our_own(self) -> None:
        wire = job_to_wire(JOB._replace(state=State.COMPLETED, outputs=(OUTPUT, replace(OUTPUT, name="two.png"))))
        status = Status.parse(wire, "ext_1")
        assert status is not None
        assert status.over
        assert status.image_url == wire["image_url"]
        assert len(status.images) == 2
        assert (status.seed, status.engine) == (7, "procedural")

    def test_an_old_servers_first_minute(self) -> None:
        status = Status.parse({"state": "completed", "results": {"images": [{"url": "/o/1"}, {"url": "/o/2"}]}}, "x")
        assert status is not None
        assert status.images == ("/o/1", "/o/2")

    def test_wrong_types_are_as_if_missing(self) -> None:
        data = {"state": "running", "image_url": 5, "results": [], "queue_position": "3", "eta_seconds": True}
        data |= {"progress": "half", "seed": None, "error": {"a": 1}, "retry_after_ms": -5}
        status = Status.parse(data, "x")
        assert status is not None
        assert status == Status("x", "running")

    @pytest.mark.parametrize("state", [None, "", 3, ["completed"]])
    def test_without_a_state_it_is_no_status(self, state: object) -> None:
        assert Status.parse({"state": state}, "x") is None

    json = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=8,
    )
    names = ("state", "image_url", "results", "progress", "eta_seconds", "seed", "error", "queue_position")

    @given(st.dictionaries(st.sampled_from(names), json))
    def test_nothing_it_is_given_breaks_it(self, data: dict[str, object]) -> None:
        status = Status.parse(data, "x")
        if status is not None:
            assert all(isinstance(url, str) for url in status.images)
            assert status.eta_seconds is None or status.eta_seconds >= 0
