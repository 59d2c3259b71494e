"""Faults of the network, of proxies and of servers between a correct response and the client."""

import json
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

from simulation.choices import Choices
from simulation.exchange import Exchange
from simulation.world import STATUS, World, lost, reply
from umrgen.client.flow import Step

__all__ = ["Network"]

EPOCH = 1_800_000_000.0


class Network:
    """The connection between client and world, with faults; each history has its own rate of faults."""

    def __init__(self, choices: Choices, world: World) -> None:
        self._choices = choices
        self._world = world
        self._share = choices.pick((0.0, 0.05, 0.2, 0.5))
        self._burst: tuple[float, float, int] = (0.0, 0.0, 500)
        if choices.chance(0.3):
            start = choices.between(0.0, 60.0)
            self._burst = (start, start + choices.between(1.0, 120.0), choices.pick((503, 500, 502, 504)))
        self.ahead = 0.0
        """How far the client's wall clock is ahead of the server's, in seconds."""

    def send(self, step: Step, at: float) -> Exchange:
        choices = self._choices
        start, end, status = self._burst
        if start <= at < end:
            response = reply(step, at, status, None, "transient")
            response.at, response.ambiguous, response.note = at + 0.01, True, "burst"
        elif self._share and choices.chance(self._share):
            fault = choices.pick(FAULTS)
            response = fault(self, step, at)
            response.note = response.note or fault.__name__.strip("_")
        else:
            response = self._world.handle(step, at)
        response.at = min(max(response.at, at + 0.001), at + step.timeout)
        if choices.chance(0.02):
            self.ahead = choices.between(-3600.0, 3600.0)
        response.wall = EPOCH + response.at + self.ahead
        return response

    def forward(self, step: Step, at: float) -> Exchange:
        return self._world.handle(step, at)


def _refused(network: Network, step: Step, at: float) -> Exchange:
    return lost(step, at, at + 0.01, sent=False)


def _broken_off(network: Network, step: Step, at: float) -> Exchange:
    true = network.forward(step, at) if network._choices.chance(0.5) else None
    return lost(step, at, min(true.at if true else at + 0.05, at + step.timeout))


def _timeout(network: Network, step: Step, at: float) -> Exchange:
    if network._choices.chance(0.5):
        network.forward(step, at)
    return lost(step, at, at + step.timeout)


def _server_error(network: Network, step: Step, at: float) -> Exchange:
    if network._choices.chance(0.3):
        network.forward(step, at)
    response = reply(step, at, network._choices.pick((503, 500, 502, 504, 408)), None, "transient")
    response.ambiguous = True
    if network._choices.chance(0.3):
        response.retry_after = network._choices.pick((5.0, 0.0, 86400.0))
        response.headers = {"retry-after": str(int(response.retry_after))}
    return response


def _limited(network: Network, step: Step, at: float) -> Exchange:
    choices = network._choices
    response = reply(step, at, 429, {"error": "slow down"}, "limited")
    kind = choices.pick(("none", "seconds", "date", "a day", "nonsense", "a past date", "a date without Date"))
    if kind == "seconds":
        response.retry_after = 7.0
        response.headers = {"retry-after": "7"}
    elif kind == "a day":
        response.retry_after = 86400.0
        response.headers = {"retry-after": "86400"}
    elif kind == "date":
        response.retry_after = 9.0
        now = EPOCH + at
        response.headers = {"retry-after": formatdate(now + 9, usegmt=True), "date": formatdate(now, usegmt=True)}
    elif kind == "a past date":
        response.retry_after = 0.0
        now = EPOCH + at
        response.headers = {"retry-after": formatdate(now - 60, usegmt=True), "date": formatdate(now, usegmt=True)}
    elif kind == "a date without Date":
        response.retry_after = -1.0  # the delay depends on the client's clock
        response.headers = {"retry-after": formatdate(EPOCH + at + 9, usegmt=True)}
    elif kind == "nonsense":
        response.headers = {"retry-after": "later"}
    return response


def _garbled(network: Network, step: Step, at: float) -> Exchange:
    response = network.forward(step, at)
    if response.kind in ("status", "receipt", "batch", "data") and response.body:
        body = network._choices.pick((b"<html>You are about to visit</html>", b"", response.body[:-5], b"[]", b"5"))
        response.body, response.kind, response.ambiguous = body, "garbage", response.kind == "receipt"
    return response


def _strange_state(network: Network, step: Step, at: float) -> Exchange:
    response = network.forward(step, at)
    if response.kind == "status" and step.path.startswith(STATUS) and response.place and response.place[0] == "running":
        body = json.loads(response.body) | {"state": network._choices.pick(("paused", "queued"))}
        response.body = json.dumps(body).encode()
        response.place = (body["state"], *response.place[1:])
    return response


def _backwards(network: Network, step: Step, at: float) -> Exchange:
    """An earlier state of the job, as a replica returns it whose data are stale."""
    response = network.forward(step, at)
    if response.kind == "status" and response.place and response.place[0] == "completed":
        body = json.loads(response.body) | {"state": network._choices.pick(("running", "queued"))}
        body = {name: body[name] for name in ("success", "job_id", "state")}
        response.body, response.images = json.dumps(body).encode(), ()
        response.place, response.retry_after = (body["state"], None, None), None
        response.headers = {name: value for name, value in response.headers.items() if name != "retry-after"}
    return response


NO_IMAGES: tuple[dict[str, Any], ...] = (
    {"image_url": None},
    {"image_url": "", "results": {"images": []}},
    {"results": None},
    {"image_url": 7, "results": {"images": [None, {"url": None}, 5]}},
)


def _imageless(network: Network, step: Step, at: float) -> Exchange:
    """A completed job without an image, as if its file were not yet stored."""
    response = network.forward(step, at)
    if response.kind == "status" and response.place and response.place[0] == "completed":
        body = {"success": True, "state": "completed"} | network._choices.pick(NO_IMAGES)
        response.body, response.images = json.dumps(body).encode(), ()
    return response


WRONG_TYPES: tuple[dict[str, Any], ...] = (
    {"state": 5},
    {"state": None},
    {"state": ""},
    {"queue_position": "first", "progress": [1, 4], "eta_seconds": "soon", "retry_after_ms": -5, "error": {}},
    {"queue_position": -1, "progress": {"step": True}, "eta_seconds": 1e300, "retry_after_ms": [], "image_url": {}},
    {"queue_position": None, "progress": None, "eta_seconds": float("nan"), "retry_after_ms": float("inf")},
)


def _wrong_types(network: Network, step: Step, at: float) -> Exchange:
    response = network.forward(step, at)
    if response.kind == "status" and response.place and response.place[0] in ("queued", "running"):
        wrong = network._choices.pick(WRONG_TYPES)
        response.body = json.dumps(json.loads(response.body) | wrong).encode()
        response.place = (response.place[0], None, None)
        if "state" in wrong:
            response.kind, response.place = "garbage", None
    return response


def _redirected(network: Network, step: Step, at: float) -> Exchange:
    response = reply(step, at, 302, None, "refused", {"location": "https://evil.example/x"})
    return response if network._choices.chance(0.1) else network.forward(step, at)


FAULTS: tuple[Callable[[Network, Step, float], Exchange], ...] = (
    _refused,
    _broken_off,
    _timeout,
    _server_error,
    _limited,
    _garbled,
    _strange_state,
    _backwards,
    _imageless,
    _wrong_types,
    _redirected,
)
