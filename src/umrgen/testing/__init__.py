"""For your own tests: a server that misbehaves on demand, a clock that never waits, flows without HTTP.

    with FaultServer("legacy", job_seconds=0.1) as server:
        server.on("GET /outputs/*", Reset(after_headers=True))
        Client(server.url, server.key).generate("a lighthouse", to="lighthouse.png")

Only the standard library is needed. Nothing here is meant to face a network.
"""

from umrgen.testing.clock import FakeClock
from umrgen.testing.faults import Answer, Cut, Drip, Fault, Own, Page, Redirect, Reset, Silence, Tamper
from umrgen.testing.play import Played, Sent, play, reply
from umrgen.testing.png import png_bytes
from umrgen.testing.server import FaultServer, Refusal, Script
from umrgen.testing.wire import Exchange, Recorded, Response
from umrgen.testing.world import ServerJob, Settings

__all__ = [
    "Answer",
    "Cut",
    "Drip",
    "Exchange",
    "FakeClock",
    "Fault",
    "FaultServer",
    "Own",
    "Page",
    "Played",
    "Recorded",
    "Redirect",
    "Refusal",
    "Reset",
    "Response",
    "Script",
    "Sent",
    "ServerJob",
    "Settings",
    "Silence",
    "Tamper",
    "play",
    "png_bytes",
    "reply",
]
