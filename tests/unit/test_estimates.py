"""Estimates of the time until a job's end, from the durations of similar jobs."""

from msgspec.structs import replace

from umrgen.model import State
from umrgen.server.domain.job import Job
from umrgen.server.domain.request import GenerationRequest
from umrgen.server.scheduler.eta import OVERDUE, SHAPES, Estimates

JOB = Job("ext_1", "sid_a", GenerationRequest("a boat", seed=1, steps=4), "procedural", created_at=0)


class FixedClock:
    def __init__(self) -> None:
        self.at = 100_000

    def now(self) -> int:
        return self.at

    def monotonic(self) -> float:
        return self.at / 1000

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("estimates do not sleep")


def done(seconds: float, **request: int) -> Job:
    changed = replace(JOB.request, **request)
    return JOB._replace(request=changed, state=State.COMPLETED, claimed_at=0, completed_at=int(seconds * 1000))


def estimates(*jobs: Job, slots: int = 1) -> tuple[Estimates, FixedClock]:
    clock = FixedClock()
    made = Estimates(clock, lambda: slots)
    made.observe(jobs)
    return made, clock


def test_without_runs_of_similar_jobs_there_is_no_estimate() -> None:
    made, _ = estimates(done(5, steps=8), done(5, width=512))
    assert made.seconds_left(JOB, 1) is None
    assert made.seconds_left(JOB._replace(state=State.RUNNING, claimed_at=0)) is None


def test_the_estimate_of_a_running_job_is_the_median_minus_the_elapsed_time() -> None:
    made, clock = estimates(done(10), done(12), done(90))
    job = JOB._replace(state=State.RUNNING, claimed_at=clock.at - 5000)
    assert made.seconds_left(job) == 7, "the median, which one slow run does not change"
    clock.at += 60_000
    assert made.seconds_left(job) == OVERDUE


def test_the_estimate_of_a_queued_job_includes_the_jobs_ahead_of_it() -> None:
    made, _ = estimates(done(10))
    assert made.seconds_left(JOB, 1) == 10 + 0.5 * 10
    assert made.seconds_left(JOB, 4) == 10 + 3.5 * 10
    made, _ = estimates(done(10), slots=2)
    assert made.seconds_left(JOB, 4) == 10 + (3 + 1) * 10 / 2


def test_an_estimate_uses_only_the_last_successful_runs() -> None:
    made, clock = estimates(*[done(100)] * 10, *[done(10)] * 10)
    made.observe([done(1)._replace(state=State.FAILED), JOB._replace(state=State.RUNNING, claimed_at=0)])
    assert made.seconds_left(JOB._replace(state=State.RUNNING, claimed_at=clock.at)) == 10
    assert made.seconds_left(done(10)) is None, "the job is over"


def test_only_the_most_recent_kinds_of_jobs_are_kept() -> None:
    made, _ = estimates(*(done(7, width=512 + width) for width in range(SHAPES + 1)))
    assert made.seconds_left(JOB._replace(request=replace(JOB.request, width=512)), 1) is None
    assert made.seconds_left(JOB._replace(request=replace(JOB.request, width=513)), 1) is not None
