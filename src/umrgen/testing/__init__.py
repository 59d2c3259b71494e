"""For your own tests: a server with faults, a fake engine, a fake clock, and flows without HTTP.

    with FaultServer() as server:
        server.on("GET /outputs/*", Reset(after_headers=True))
        Client(server.url, server.key).generate("a lighthouse", to="lighthouse.png")

The mode "modern" runs the server of this package, so it needs `umrgen[server]`; "legacy" and the rest need the standard
library only. Nothing here is meant to face a network.
"""

from umrgen.testing.clock import FakeClock
from umrgen.testing.engine import FakeEngine
from umrgen.testing.faults import (
    Delay,
    Drip,
    Fault,
    HtmlPage,
    NoResponse,
    PassThrough,
    Redirect,
    Reset,
    Respond,
    Tamper,
    Truncate,
)
from umrgen.testing.flows import FlowRun, SentStep, reply, run_flow
from umrgen.testing.http1 import Exchange, RecordedRequest, Response
from umrgen.testing.options import FaultServerOptions, ServerJob
from umrgen.testing.png import png_bytes
from umrgen.testing.server import FaultServer, RefusedConnections, Script

__all__ = [
    "Delay",
    "Drip",
    "Exchange",
    "FakeClock",
    "FakeEngine",
    "Fault",
    "FaultServer",
    "FaultServerOptions",
    "FlowRun",
    "HtmlPage",
    "NoResponse",
    "PassThrough",
    "RecordedRequest",
    "Redirect",
    "RefusedConnections",
    "Reset",
    "Respond",
    "Response",
    "Script",
    "SentStep",
    "ServerJob",
    "Tamper",
    "Truncate",
    "png_bytes",
    "reply",
    "run_flow",
]
