from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umrgen.model import State, Status
from umrgen.server.domain.job import TRANSITIONS, Change, Conflict, Job, Output, advance, output_name, possible_outputs
from umrgen.server.domain.job_answer import job_to_wire
from umrgen.server.domain.request import GenerationRequest

JOB = Job("ext_1", "sid_a", GenerationRequest("a lighthouse", seed=7), "procedural", created_at=1000)
OUTPUT = Output("umrgen_7_aa.png", "sid_a", 10, "ab" * 32, 512, 512)


def test_a_final_state_has_no_transition() -> None:
    assert {state for state, _ in TRANSITIONS} == {State.QUEUED, State.RUNNING}
    for state in State:
        for change in Change:
            job = JOB._replace(state=state)
            if (state, change) in TRANSITIONS:
                assert advance(job, change, now=1).state is TRANSITIONS[state, change]
            else:
                with pytest.raises(Conflict):
                    advance(job, change, now=1)


def test_the_names_of_images_cannot_be_derived_from_the_id() -> None:
    """All other parts of a name are in the image, or small numbers."""
    jobs = [JOB._replace(token=1, output_key=key) for key in ("", "a", "b")]
    assert len({output_name(job, 0, "image/png") for job in jobs}) == 3
    names = possible_outputs(jobs[1])
    assert output_name(jobs[1], 1, "image/webp") in names
    assert len(set(names)) == len(names)


@given(st.lists(st.sampled_from(Change), max_size=12))
def test_any_sequence_of_changes_counts_claims_and_ends_at_most_once(changes: list[Change]) -> None:
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


class TestLeasesAndTimes:
    """The fields that change between two attempts."""

    claimed = advance(JOB, Change.CLAIM, now=2000, worker="one", lease_until=9000)

    @pytest.mark.parametrize("change", [Change.FAIL, Change.COMPLETE, Change.RELEASE, Change.PROGRESS])
    def test_a_token_is_refused_after_the_job_was_queued_again(self, change: Change) -> None:
        queued = advance(self.claimed, Change.RELEASE, now=3000, token=1)
        assert queued.token == 1, "a queued job keeps the token of its last lease"
        with pytest.raises(Conflict):
            advance(queued, change, now=4000, token=1)
        assert advance(queued, Change.CANCEL, now=4000).state is State.FAILED, "a cancel needs no token"

    def test_a_change_with_the_token_of_an_earlier_lease_is_refused(self) -> None:
        again = advance(advance(self.claimed, Change.RELEASE, now=3000), Change.CLAIM, now=4000)
        with pytest.raises(Conflict):
            advance(again, Change.COMPLETE, now=5000, token=1)
        assert advance(again, Change.COMPLETE, now=5000, token=2).state is State.COMPLETED

    def test_the_time_of_the_end_is_not_before_the_start(self) -> None:
        for end in (Change.COMPLETE, Change.FAIL, Change.CANCEL):
            assert advance(self.claimed, end, now=10).completed_at == 2000, "the clock was set back"
        assert advance(JOB, Change.CANCEL, now=10).completed_at == JOB.created_at
        assert advance(self.claimed, Change.COMPLETE, now=2500).completed_at == 2500

    def test_the_step_of_a_queued_job_is_0(self) -> None:
        halfway = advance(self.claimed, Change.PROGRESS, now=3000, token=1, step=3)
        assert halfway.step == 3
        assert advance(halfway, Change.RELEASE, now=4000).step == 0
        assert advance(halfway._replace(state=State.QUEUED), Change.CLAIM, now=5000).step == 0

    def test_started_at_is_the_time_of_the_first_claim(self) -> None:
        again = advance(advance(self.claimed, Change.RELEASE, now=3000), Change.CLAIM, now=4000)
        assert (again.started_at, again.claimed_at, again.attempt) == (2000, 4000, 2)

    def test_a_change_with_an_outdated_version_is_refused(self) -> None:
        with pytest.raises(Conflict):
            advance(self.claimed, Change.PROGRESS, now=3000, version=1)

    def test_a_job_that_is_over_has_no_worker_and_no_lease(self) -> None:
        done = advance(self.claimed, Change.COMPLETE, now=3000)
        assert (done.worker, done.lease_until) == (None, None)


def test_the_wire_format_has_all_fields_of_the_contract() -> None:
    wire = job_to_wire(JOB._replace(state=State.COMPLETED, outputs=(OUTPUT,), completed_at=3000))
    names = "success job_id state image_url results error error_code queue_position eta_seconds progress created_at "
    names += "started_at completed_at engine seed priority favorite attempt retry_after_ms next"
    assert set(names.split()) == set(wire)
    assert wire["image_url"] == wire["results"]["images"][0]["url"]
    assert wire["image_url"] == "/outputs/sid_a/umrgen_7_aa.png?session_id=sid_a"
    assert wire["retry_after_ms"] is None
    for state, delay in ((State.QUEUED, 3000), (State.RUNNING, 2000)):
        wire = job_to_wire(JOB._replace(state=state))
        assert (wire["image_url"], wire["results"], wire["retry_after_ms"]) == (None, {"images": []}, delay)


class TestParsingAStatus:
    def test_a_status_of_this_server_is_parsed(self) -> None:
        wire = job_to_wire(JOB._replace(state=State.COMPLETED, outputs=(OUTPUT, replace(OUTPUT, name="two.png"))))
        status = Status.parse(wire, "ext_1")
        assert status is not None
        assert status.over
        assert status.image_url == wire["image_url"]
        assert len(status.images) == 2
        assert (status.seed, status.engine) == (7, "procedural")

    def test_the_results_of_an_older_server_are_parsed_without_image_url(self) -> None:
        status = Status.parse({"state": "completed", "results": {"images": [{"url": "/o/1"}, {"url": "/o/2"}]}}, "x")
        assert status is not None
        assert status.images == ("/o/1", "/o/2")

    def test_fields_of_a_wrong_type_are_ignored(self) -> None:
        data = {"state": "running", "image_url": 5, "results": [], "queue_position": "3", "eta_seconds": True}
        data |= {"progress": "half", "seed": None, "error": {"a": 1}, "retry_after_ms": -5}
        status = Status.parse(data, "x")
        assert status is not None
        assert status == Status("x", "running")

    @pytest.mark.parametrize("state", [None, "", 3, ["completed"]])
    def test_an_object_without_a_state_is_no_status(self, state: object) -> None:
        assert Status.parse({"state": state}, "x") is None

    json = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=8,
    )
    names = ("state", "image_url", "results", "progress", "eta_seconds", "seed", "error", "queue_position")

    @given(st.dictionaries(st.sampled_from(names), json))
    def test_any_object_is_parsed_without_an_exception(self, data: dict[str, object]) -> None:
        status = Status.parse(data, "x")
        if status is not None:
            assert all(isinstance(url, str) for url in status.images)
            assert status.eta_seconds is None or status.eta_seconds >= 0
