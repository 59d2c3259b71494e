"""The network between the simulated server and the client, with random faults."""

import json
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

from gateways import GATEWAY_RESPONSES

from simulation.choices import Choices
from simulation.exchange import EPOCH, Exchange
from simulation.server import STATUS, SimulatedServer, exchange_for, lost_exchange
from umrgen.client.flow import Step

__all__ = ["Network"]


class Network:
    """Passes steps to the server and its responses to the client, some of them with faults."""

    def __init__(self, choices: Choices, server: SimulatedServer) -> None:
        self._choices = choices
        self._world = server
        self._share = choices.pick((0.0, 0.05, 0.2, 0.5))
        self._burst: tuple[float, float, int] = (0.0, 0.0, 500)
        if choices.chance(0.3):
            start = choices.between(0.0, 60.0)
            self._burst = (start, start + choices.between(1.0, 120.0), choices.pick((503, 500, 502, 504)))
        self.ahead = 0.0
        """Seconds by which the client's wall clock is ahead of the server's."""

    def send(self, step: Step, at: float) -> Exchange:
        choices = self._choices
        start, end, status = self._burst
        if start <= at < end:
            exchange = exchange_for(step, at, status, None, "transient")
            exchange.at, exchange.ambiguous, exchange.fault = at + 0.01, True, "burst"
        elif self._share and choices.chance(self._share):
            fault = choices.pick(FAULTS)
            exchange = fault(self, step, at)
            exchange.fault = exchange.fault or fault.__name__.strip("_")
        else:
            exchange = self._world.handle(step, at)
        exchange.at = min(max(exchange.at, at + 0.001), at + step.timeout)
        if choices.chance(0.02):
            self.ahead = choices.between(-3600.0, 3600.0)
        exchange.wall = EPOCH + exchange.at + self.ahead
        return exchange

    def _server_response(self, step: Step, at: float) -> Exchange:
        return self._world.handle(step, at)


def _refused(network: Network, step: Step, at: float) -> Exchange:
    return lost_exchange(step, at, at + 0.01, sent=False)


def _broken_off(network: Network, step: Step, at: float) -> Exchange:
    original = network._server_response(step, at) if network._choices.chance(0.5) else None
    return lost_exchange(step, at, min(original.at if original else at + 0.05, at + step.timeout))


def _silence(network: Network, step: Step, at: float) -> Exchange:
    if network._choices.chance(0.5):
        network._server_response(step, at)
    return lost_exchange(step, at, at + step.timeout)


def _server_error(network: Network, step: Step, at: float) -> Exchange:
    if network._choices.chance(0.3):
        network._server_response(step, at)
    exchange = exchange_for(step, at, network._choices.pick((503, 500, 502, 504, 408)), None, "transient")
    exchange.ambiguous = True
    if network._choices.chance(0.3):
        exchange.requested_delay = network._choices.pick((5.0, 0.0, 86400.0))
        exchange.headers = {"retry-after": str(int(exchange.requested_delay))}
    return exchange


def _limited(network: Network, step: Step, at: float) -> Exchange:
    choices = network._choices
    exchange = exchange_for(step, at, 429, {"error": "slow down"}, "limited")
    kind = choices.pick(("none", "seconds", "date", "a day", "nonsense", "a past date", "a date alone"))
    if kind == "seconds":
        exchange.requested_delay = 7.0
        exchange.headers = {"retry-after": "7"}
    elif kind == "a day":
        exchange.requested_delay = 86400.0
        exchange.headers = {"retry-after": "86400"}
    elif kind == "date":
        exchange.requested_delay = 9.0
        now = EPOCH + at
        exchange.headers = {"retry-after": formatdate(now + 9, usegmt=True), "date": formatdate(now, usegmt=True)}
    elif kind == "a past date":
        exchange.requested_delay = 0.0
        now = EPOCH + at
        exchange.headers = {"retry-after": formatdate(now - 60, usegmt=True), "date": formatdate(now, usegmt=True)}
    elif kind == "a date alone":
        exchange.requested_delay = -1.0  # its length depends on the client's clock
        exchange.headers = {"retry-after": formatdate(EPOCH + at + 9, usegmt=True)}
    elif kind == "nonsense":
        exchange.headers = {"retry-after": "in a while"}
    return exchange


def _garbled(network: Network, step: Step, at: float) -> Exchange:
    exchange = network._server_response(step, at)
    if exchange.kind in ("status", "receipt", "batch", "data") and exchange.body:
        body = network._choices.pick((b"<html>You are about to visit</html>", b"", exchange.body[:-5], b"[]", b"5"))
        exchange.body, exchange.kind, exchange.ambiguous = body, "garbage", exchange.kind == "receipt"
    return exchange


def _strange_state(network: Network, step: Step, at: float) -> Exchange:
    exchange = network._server_response(step, at)
    if exchange.kind == "status" and step.path.startswith(STATUS) and exchange.place and exchange.place[0] == "running":
        body = json.loads(exchange.body) | {"state": network._choices.pick(("paused", "queued"))}
        exchange.body = json.dumps(body).encode()
        exchange.place = (body["state"], *exchange.place[1:])
    return exchange


def _backwards(network: Network, step: Step, at: float) -> Exchange:
    """A replica that lags behind: an earlier state of the job."""
    exchange = network._server_response(step, at)
    if exchange.kind == "status" and exchange.place and exchange.place[0] == "completed":
        body = json.loads(exchange.body) | {"state": network._choices.pick(("running", "queued"))}
        body = {name: body[name] for name in ("success", "job_id", "state")}
        exchange.body, exchange.images = json.dumps(body).encode(), ()
        exchange.place, exchange.requested_delay = (body["state"], None, None), None
        exchange.headers = {name: value for name, value in exchange.headers.items() if name != "retry-after"}
    return exchange


NO_IMAGES: tuple[dict[str, Any], ...] = (
    {"image_url": None},
    {"image_url": "", "results": {"images": []}},
    {"results": None},
    {"image_url": 7, "results": {"images": [None, {"url": None}, 5]}},
)


def _imageless(network: Network, step: Step, at: float) -> Exchange:
    """Completed, without an image yet."""
    exchange = network._server_response(step, at)
    if exchange.kind == "status" and exchange.place and exchange.place[0] == "completed":
        body = {"success": True, "state": "completed"} | network._choices.pick(NO_IMAGES)
        exchange.body, exchange.images = json.dumps(body).encode(), ()
    return exchange


WRONG_TYPES: tuple[dict[str, Any], ...] = (
    {"state": 5},
    {"state": None},
    {"state": ""},
    {"queue_position": "first", "progress": [1, 4], "eta_seconds": "soon", "retry_after_ms": -5, "error": {}},
    {"queue_position": -1, "progress": {"step": True}, "eta_seconds": 1e300, "retry_after_ms": [], "image_url": {}},
    {"queue_position": None, "progress": None, "eta_seconds": float("nan"), "retry_after_ms": float("inf")},
)


def _wrong_types(network: Network, step: Step, at: float) -> Exchange:
    exchange = network._server_response(step, at)
    if exchange.kind == "status" and exchange.place and exchange.place[0] in ("queued", "running"):
        wrong = network._choices.pick(WRONG_TYPES)
        exchange.body = json.dumps(json.loads(exchange.body) | wrong).encode()
        exchange.place = (exchange.place[0], None, None)
        if "state" in wrong:
            exchange.kind, exchange.place = "garbage", None
    return exchange


RESPONSES = [sent for sent in GATEWAY_RESPONSES if sent.status != 304]
"""A 304 confirms the last status, also when a cache sends it."""


def _gateway(network: Network, step: Step, at: float) -> Exchange:
    """A gateway responds in the place of the server; the server may have received the request, if it is slow."""
    sent = network._choices.pick(RESPONSES)
    if step.path == "/healthz" and sent.sender == "a health check":
        return network._server_response(step, at)  # it cannot be distinguished from the server's
    slow = sent.status >= 500 and sent.status != 501
    exchange = exchange_for(step, at, sent.status, None, "foreign")
    exchange.headers = {name.lower(): value for name, value in sent.headers.items()}
    exchange.body, exchange.fault = sent.body.encode(), sent.name
    if slow or sent.status == 408:
        exchange.kind, exchange.ambiguous = "transient", True
    elif sent.status == 200:
        exchange.kind, exchange.ambiguous = "garbage", not sent.body.startswith("<")
    if slow and network._choices.chance(0.3):
        network._server_response(step, at)
    return exchange


FAULTS: tuple[Callable[[Network, Step, float], Exchange], ...] = (
    _refused,
    _broken_off,
    _silence,
    _server_error,
    _limited,
    _garbled,
    _strange_state,
    _backwards,
    _imageless,
    _wrong_types,
    _gateway,
    _gateway,
)
