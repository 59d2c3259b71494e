"""One random history: a flow of the client against a simulated server and network, with checks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from simulation.choices import Choices
from simulation.exchange import Exchange
from simulation.faults import Network
from simulation.request_checks import CallRecord, Violation, check_request, record_exchange, require
from simulation.result_checks import check_result
from simulation.server import SimulatedServer
from umrgen.client.flow import CallContext, Flow, Options, Reply, Step, TransportFailure
from umrgen.client.flows.submit import submit, supports_idempotency
from umrgen.client.flows.wait import StatusPoller
from umrgen.client.flows.wait_many import BatchPoller
from umrgen.client.protocol import API, call_if_supported
from umrgen.client.responses import read_object
from umrgen.errors import UmrgenError

__all__ = ["SCENARIOS", "Failure", "History", "run_choices", "run_history"]

MOST_STEPS = 5000

Drive = Callable[["History", Flow[Any]], Any]


class Failure(AssertionError):
    """A history with a violation; the message has its transcript."""


@dataclass
class History:
    """The state of a history, for the driver, the checks and the transcript."""

    choices: Choices
    server: SimulatedServer
    network: Network
    context: CallContext
    exchanges: list[Exchange] = field(default_factory=list)
    records: dict[tuple[str, str], CallRecord] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)
    reported_over: set[str] = field(default_factory=set)
    """The jobs of a batch whose end was reported."""
    job_ids: list[str] = field(default_factory=list)
    limited_at: float | None = None
    scenario: str = ""
    outcome: Any = None

    @property
    def submitting(self) -> bool:
        """True until a job is accepted."""
        return self.scenario == "submit and wait" and not self.job_ids

    def record(self, step: Step) -> CallRecord:
        """Return the record for the step's method and path."""
        record = self.records.get((step.method, step.path))
        if record is None:
            record = self.records[step.method, step.path] = CallRecord(self.context.now)
        return record

    def transcript(self) -> str:
        """Return the jobs and the last exchanges as text."""
        kind = "legacy" if self.server.legacy else "modern"
        lines = [f"{self.scenario} on a {kind} server; {self.context.options}"]
        lines += [
            f"  job {job.id}: runs {job.runs}, ends at {job.ended_at:.2f} {job.end_state}, lost at {job.lost_at:.3g}"
            for job in self.server.created
        ]
        lines += [exchange.line() for exchange in self.exchanges[-60:]]
        return "\n".join([*lines, f"  → {self.outcome!r} at {self.context.now:.3f}"])


def drive(history: History, flow: "Flow[Any]") -> Any:
    """Run a flow in simulated time: the delays of its steps and the latency of the network."""
    context = history.context
    try:
        step = next(flow)
        while True:
            sent_at = context.now + step.delay
            exchange = history.network.send(step, sent_at)
            check_request(history, exchange)
            history.exchanges.append(exchange)
            record_exchange(history, exchange)
            if len(history.exchanges) > MOST_STEPS:
                raise Violation(f"the flow sent more than {MOST_STEPS} requests")
            if exchange.status == 0:
                step = flow.throw(TransportFailure(exchange.kind, at=exchange.at, sent=exchange.sent))
            else:
                reply = Reply(
                    exchange.status,
                    exchange.headers,
                    exchange.body,
                    at=exchange.at,
                    elapsed=exchange.at - sent_at,
                    wall=exchange.wall,
                    data=read_object(exchange.body),
                )
                step = flow.send(reply)
            if context.budget.limited and history.limited_at is None:
                history.limited_at = context.now
    except StopIteration as end:
        return end.value


def _options(choices: Choices) -> Options:
    return Options(
        timeout=choices.pick((600.0, 60.0, 900.0, 5.0, 25.0)),
        wait=choices.pick((25, 0, 5)),
        queue_timeout=choices.pick((None, None, None, 20.0)),
        on_stall=choices.pick(("report", "report", "report", "raise")),
        patience=choices.pick((300.0, 30.0)),
        follow=choices.chance(0.3),
        requests_a_minute=choices.pick((55, 20)),
    )


# --- scenarios -----------------------------------------------------------------------------------------


def _submit_and_wait(history: History, drive: Drive) -> Any:
    slot = history.choices.chance(0.4)
    if history.server.one_at_a_time and history.choices.chance(0.5):
        history.server.submit(-5.0, "")  # a job of another client
    receipt = drive(history, submit(history.context, {"prompt": "x"}, "key-1", wait_for_slot=slot))
    history.job_ids = [receipt.job_id]
    require(history.server.jobs[receipt.job_id].key == "key-1", "the job of another client was taken for this one")
    for record in history.records.values():  # the search for a lost submit has requested the status of several jobs
        record.ended, record.imageless, record.failures = False, 0, 0
    return drive(history, StatusPoller(history.context, receipt.job_id, seen=True).result())


def _wait(history: History, drive: Drive) -> Any:
    history.job_ids = [history.server.submit(0.0, "").id if history.choices.chance(0.9) else "ext_none"]
    return drive(history, StatusPoller(history.context, history.job_ids[0]).result())


def _watch(history: History, drive: Drive) -> Any:
    history.job_ids = [history.server.submit(0.0, "").id]
    watch = StatusPoller(history.context, history.job_ids[0])
    while not (status := drive(history, watch.next_change())).over:
        pass
    return status


def _many(history: History, drive: Drive) -> Any:
    count = 1 + history.choices.below(6)
    history.job_ids = [history.server.submit(0.0, "").id for _ in range(count)]
    if history.choices.chance(0.2):
        history.job_ids.append("ext_none")
    many = BatchPoller(history.context, history.job_ids)
    finished: dict[str, Any] = {}
    while many.pending:
        finished |= drive(history, many.next_finished())
    return finished


def _cancel(history: History, drive: Drive) -> Any:
    job = history.server.submit(0.0, "")
    return drive(history, call_if_supported(history.context, "POST", f"{API}/cancel/{job.id}", job_id=job.id))


def _capabilities(history: History, drive: Drive) -> Any:
    return drive(history, call_if_supported(history.context, "GET", f"{API}/capabilities"))


def _idempotency_support(history: History, drive: Drive) -> Any:
    """The check that `resume` makes before it repeats a submit."""
    supported = drive(history, supports_idempotency(history.context))
    require(not (supported and history.server.legacy), "a server without idempotency keys was taken for one with them")
    return True


SCENARIOS: Sequence[tuple[str, Callable[[History, Drive], Any]]] = (
    ("wait", _wait),
    ("submit and wait", _submit_and_wait),
    ("submit and wait", _submit_and_wait),
    ("watch", _watch),
    ("many", _many),
    ("cancel", _cancel),
    ("capabilities", _capabilities),
    ("idempotency support", _idempotency_support),
)


def run_choices(choices: Choices, driver: Drive = drive) -> History:
    """Run the history of these random choices. Raises Failure."""
    server = SimulatedServer(choices)
    network = Network(choices, server)
    context = CallContext(_options(choices), 0.0, random=choices.real)
    history = History(choices, server, network, context)
    history.scenario, scenario = choices.pick(SCENARIOS)
    try:
        try:
            history.outcome = scenario(history, driver)
        except UmrgenError as error:
            history.outcome = error
        check_result(history)
    except Exception as error:
        raise Failure(f"{type(error).__name__}: {error}\n{history.transcript()}") from error
    return history


def run_history(seed: int, driver: Drive = drive) -> History:
    """Run the history of a seed. Raises Failure."""
    return run_choices(Choices(seed), driver)
