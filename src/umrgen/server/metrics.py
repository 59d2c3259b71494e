"""The server's metrics, in the text format of Prometheus."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client import Counter as Counted
from prometheus_client import Gauge as Measured
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from umrgen.model import State
from umrgen.server.domain.job import Job

__all__ = ["CONTENT_TYPE", "Gauge", "Metrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_JOB_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
_COMMIT_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1)


Gauge = tuple[str, str, float]
"""Name, help, value."""


class Metrics(Collector):
    """Counters, histograms and gauges. Counters start at 0 with the process, as Prometheus expects."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(self)
        self._answers: Counter[int] = Counter()
        self._refusals: Counter[int] = Counter()
        self._gauges: Sequence[Gauge] = ()
        self.waits = Histogram(
            "umrgen_job_wait_seconds",
            "From a job's 202 to its first start.",
            buckets=_JOB_SECONDS,
            registry=self._registry,
        )
        self.runs = Histogram(
            "umrgen_job_run_seconds",
            "From a completed job's last start to its end.",
            ["engine"],
            buckets=_JOB_SECONDS,
            registry=self._registry,
        )
        self.ended = Counted(
            "umrgen_jobs_ended", "Jobs that are over.", ["state", "error_code"], registry=self._registry
        )
        self.commits = Histogram(
            "umrgen_ledger_commit_seconds",
            "Duration of a synced commit of the ledger.",
            buckets=_COMMIT_SECONDS,
            registry=self._registry,
        )

    def watch_signing(self, up: Callable[[], float], seconds_left: Callable[[], float]) -> None:
        """Add gauges of the certificate that signs images; both are called for each scrape."""
        gauges = (
            ("umrgen_signing_up", "1 if images can be signed.", up),
            (
                "umrgen_signing_certificate_seconds",
                "Time until the certificate that signs images expires.",
                seconds_left,
            ),
        )
        for name, help, value in gauges:
            Measured(name, help, registry=self._registry).set_function(value)

    def answered(self, status: int) -> None:
        """Count a response by its status; 0 for a caller that disconnected before the response."""
        self._answers[status] += 1

    def refused_stranger(self, status: int) -> None:
        """Count a 4xx response to a caller without a valid key."""
        self._refusals[status] += 1

    def observe(self, jobs: Iterable[Job]) -> None:
        """Observe the jobs whose state the ledger changed; a change by their owner is left out."""
        for job in jobs:
            if job.edited_at is not None:
                continue
            if job.state is State.RUNNING and job.attempt == 1 and job.step == 0 and job.started_at == job.claimed_at:
                self.waits.observe(max(0, (job.started_at or 0) - job.created_at) / 1000)
            elif job.over:
                self.ended.labels(job.state.value, job.error_code or "").inc()
                if job.state is State.COMPLETED and job.completed_at and job.claimed_at:
                    self.runs.labels(job.engine).observe((job.completed_at - job.claimed_at) / 1000)

    def collect(self) -> Iterator[Metric]:
        yield _by_status("umrgen_requests", "Responses by status.", self._answers)
        yield _by_status("umrgen_refused_strangers", "4xx responses to callers without a valid key.", self._refusals)
        for name, help, value in self._gauges:
            yield GaugeMetricFamily(name, help, value=value)

    def text(self, gauges: Sequence[Gauge] = ()) -> bytes:
        """Return all metrics and these gauges, as `CONTENT_TYPE`."""
        self._gauges = gauges
        return generate_latest(self._registry)


def _by_status(name: str, help: str, counts: Counter[int]) -> Metric:
    family = CounterMetricFamily(name, help, labels=["status"])
    for status, count in sorted(counts.items()):
        family.add_metric([str(status)], count)
    return family
