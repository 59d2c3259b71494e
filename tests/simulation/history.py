"""One random history: a flow of the client against a simulated server, checked by the judge."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from simulation.choices import Choices
from simulation.exchange import Exchange
from simulation.faults import Network
from simulation.judge import PathRecord, Violation, demand, judge_step, record
from simulation.verdict import judge_end
from simulation.world import World
from umrgen.client.flow import CallContext, Flow, Options, Reply, Step, TransportFailure
from umrgen.client.flows.submit import check_idempotency_support, submit
from umrgen.client.flows.wait import StatusPoller
from umrgen.client.flows.wait_many import BatchPoller
from umrgen.client.protocol import API, call_if_supported
from umrgen.errors import UmrgenError

__all__ = ["SCENARIOS", "Failure", "History", "play_choices", "play_history"]

MOST_STEPS = 5000

Drive = Callable[["History", Flow[Any]], Any]


class Failure(AssertionError):
    """A history that violates a rule, with its transcript."""


@dataclass
class History:
    """The state of a history, for the flow's driver, the judge and the transcript."""

    choices: Choices
    world: World
    network: Network
    run: CallContext
    exchanges: list[Exchange] = field(default_factory=list)
    paths: dict[tuple[str, str], PathRecord] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)
    reported_over: set[str] = field(default_factory=set)
    """The jobs of a batch call whose end was in a response."""
    job_ids: list[str] = field(default_factory=list)
    limited_at: float | None = None
    scenario: str = ""
    outcome: Any = None

    @property
    def submitting(self) -> bool:
        """Return whether the flow has not yet received a job id (or ended without one)."""
        return self.scenario == "submit and wait" and not self.job_ids

    def path_record(self, step: Step) -> PathRecord:
        record = self.paths.get((step.method, step.path))
        if record is None:
            record = self.paths[step.method, step.path] = PathRecord(self.run.now)
        return record

    def transcript(self) -> str:
        kind = "legacy" if self.world.legacy else "modern"
        lines = [f"{self.scenario} on a {kind} server; {self.run.options}"]
        lines += [
            f"  job {job.id}: runs {job.runs}, over at {job.over_at:.2f} {job.fate}, gone at {job.gone_at:.3g}"
            for job in self.world.made
        ]
        lines += [exchange.line() for exchange in self.exchanges[-60:]]
        return "\n".join([*lines, f"  → {self.outcome!r} at {self.run.now:.3f}"])


def drive(history: History, flow: "Flow[Any]") -> Any:
    """Run a flow in simulated time: the delays of its steps, and the latency of the network."""
    run = history.run
    try:
        step = next(flow)
        while True:
            sent_at = run.now + step.delay
            exchange = history.network.send(step, sent_at)
            judge_step(history, exchange)
            history.exchanges.append(exchange)
            record(history, exchange)
            if len(history.exchanges) > MOST_STEPS:
                raise Violation("the flow never ends")
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
                )
                step = flow.send(reply)
            if run.budget.limited and history.limited_at is None:
                history.limited_at = run.now
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
    if history.world.one_at_a_time and history.choices.chance(0.5):
        history.world.submit(0.0, "")  # a job of another caller occupies the slot
    receipt = drive(history, submit(history.run, {"prompt": "x"}, "key-1", wait_for_slot=slot))
    history.job_ids = [receipt["job_id"]]
    return drive(history, StatusPoller(history.run, receipt["job_id"], seen=True).result())


def _wait(history: History, drive: Drive) -> Any:
    history.job_ids = [history.world.submit(0.0, "").id if history.choices.chance(0.9) else "ext_none"]
    return drive(history, StatusPoller(history.run, history.job_ids[0]).result())


def _watch(history: History, drive: Drive) -> Any:
    history.job_ids = [history.world.submit(0.0, "").id]
    watch = StatusPoller(history.run, history.job_ids[0])
    while not (status := drive(history, watch.next_change())).over:
        pass
    return status


def _many(history: History, drive: Drive) -> Any:
    count = 1 + history.choices.below(6)
    history.job_ids = [history.world.submit(0.0, "").id for _ in range(count)]
    if history.choices.chance(0.2):
        history.job_ids.append("ext_none")
    many = BatchPoller(history.run, history.job_ids)
    over: dict[str, Any] = {}
    while many.pending:
        over |= drive(history, many.next_finished())
    return over


def _cancel(history: History, drive: Drive) -> Any:
    job = history.world.submit(0.0, "")
    path = f"{API}/cancel/{job.id}" if job.id.isalnum() or "/" not in job.id else f"{API}/cancel/ext_none"
    return drive(history, call_if_supported(history.run, "POST", path, job_id=job.id))


def _capabilities(history: History, drive: Drive) -> Any:
    return drive(history, call_if_supported(history.run, "GET", f"{API}/capabilities"))


def _keeps_keys(history: History, drive: Drive) -> Any:
    """The check that `resume` makes before it repeats a submit."""
    drive(history, check_idempotency_support(history.run))
    demand(not history.world.legacy, "idempotency keys were reported as supported by a server without them")
    return True


SCENARIOS: Sequence[tuple[str, Callable[[History, Drive], Any]]] = (
    ("wait", _wait),
    ("submit and wait", _submit_and_wait),
    ("submit and wait", _submit_and_wait),
    ("watch", _watch),
    ("many", _many),
    ("cancel", _cancel),
    ("capabilities", _capabilities),
    ("keeps keys", _keeps_keys),
)


def play_choices(choices: Choices, driver: Drive = drive) -> History:
    """Play the history that `choices` describes. Raise Failure with a transcript."""
    world = World(choices)
    network = Network(choices, world)
    run = CallContext(_options(choices), 0.0, random=choices.real)
    history = History(choices, world, network, run)
    history.scenario, scenario = choices.pick(SCENARIOS)
    try:
        try:
            history.outcome = scenario(history, driver)
        except UmrgenError as error:
            history.outcome = error
        judge_end(history)
    except Exception as wrong:
        raise Failure(f"{type(wrong).__name__}: {wrong}\n{history.transcript()}") from wrong
    return history


def play_history(seed: int, driver: Drive = drive) -> History:
    return play_choices(Choices(seed), driver)
