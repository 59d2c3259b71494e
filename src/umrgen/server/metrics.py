"""The server's metrics, in the text format of Prometheus."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Histogram, Info, ProcessCollector, generate_latest
from prometheus_client import Counter as Counted
from prometheus_client import Gauge as Measured
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from umrgen.model import State
from umrgen.server.domain.job import Job
from umrgen.server.ledger import WebhookState

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
        ProcessCollector(registry=self._registry)
        self._answers: Counter[int] = Counter()
        self._calls_of_keys: Counter[str] = Counter()
        self._jobs_of_keys: Counter[str] = Counter()
        self._refusals: Counter[int] = Counter()
        self._gauges: Sequence[Gauge] = ()
        self._only_key: str | None = None
        self.waits = Histogram(
            "umrgen_job_wait_seconds",
            "From a job's 202 to its first start.",
            ["engine"],
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
        self.webhooks = Counted(
            "umrgen_webhook_attempts", "Attempts to deliver a webhook.", ["result"], registry=self._registry
        )
        self.commits = Histogram(
            "umrgen_ledger_commit_seconds",
            "Duration of a synced commit of the ledger.",
            buckets=_COMMIT_SECONDS,
            registry=self._registry,
        )

    def set_build(self, **facts: str) -> None:
        """Add the gauge `umrgen_build_info`, which is 1, with these labels."""
        Info("umrgen_build", "The version and the parts of this server.", registry=self._registry).info(facts)

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

    def answered(self, status: int, key_id: str | None = None) -> None:
        """Count a response by its status, 0 for a caller that disconnected before it, and by the caller's key."""
        self._answers[status] += 1
        if key_id is not None:
            self._calls_of_keys[key_id] += 1

    def job_accepted(self, key_id: str) -> None:
        """Count a new job of this key."""
        self._jobs_of_keys[key_id] += 1

    def webhook_attempted(self, state: WebhookState) -> None:
        """Count an attempt to deliver a webhook, by the state in which it left the webhook."""
        result = "retried" if state is WebhookState.PENDING else state.value
        self.webhooks.labels(result).inc()

    def refused_stranger(self, status: int) -> None:
        """Count a 4xx response to a caller without a valid key."""
        self._refusals[status] += 1

    def observe(self, jobs: Iterable[Job]) -> None:
        """Observe the jobs whose state the ledger changed; a change by their owner is left out."""
        for job in jobs:
            if job.edited_at is not None:
                continue
            if job.state is State.RUNNING and job.attempt == 1 and job.step == 0 and job.started_at == job.claimed_at:
                self.waits.labels(job.engine).observe(max(0, (job.started_at or 0) - job.created_at) / 1000)
            elif job.over:
                self.ended.labels(job.state.value, job.error_code or "").inc()
                if job.state is State.COMPLETED and job.completed_at and job.claimed_at:
                    self.runs.labels(job.engine).observe((job.completed_at - job.claimed_at) / 1000)

    def collect(self) -> Iterator[Metric]:
        yield _counts("umrgen_requests", "Responses by status.", "status", self._answers)
        refusals = "4xx responses to callers without a valid key."
        yield _counts("umrgen_refused_strangers", refusals, "status", self._refusals)
        yield _counts("umrgen_key_requests", "Responses to each API key.", "key", self._shown(self._calls_of_keys))
        yield _counts("umrgen_key_jobs", "Jobs that each API key submitted.", "key", self._shown(self._jobs_of_keys))
        for name, help, value in self._gauges:
            yield GaugeMetricFamily(name, help, value=value)

    def _shown(self, counts: Counter[str]) -> Counter[str]:
        return Counter({key: count for key, count in counts.items() if self._only_key in (None, key)})

    def text(self, gauges: Sequence[Gauge] = (), only_key: str | None = None) -> bytes:
        """Return all metrics and these gauges, as `CONTENT_TYPE`.

        `only_key`: the id of the key that may see its own use only; None: that of all keys is shown.
        """
        self._gauges, self._only_key = gauges, only_key
        return generate_latest(self._registry)


def _counts(name: str, help: str, label: str, counts: Counter[int] | Counter[str]) -> Metric:
    family = CounterMetricFamily(name, help, labels=[label])
    for value, count in sorted(counts.items()):
        family.add_metric([str(value)], count)
    return family
