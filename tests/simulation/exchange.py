"""One request, its response, and what the response means."""

from umrgen.client.flow import Step

__all__ = ["EPOCH", "Exchange"]

EPOCH = 1_800_000_000.0
"""The time on the server's clock at second 0, in seconds since the epoch."""

Place = tuple[str, int | None, int | None]


class Exchange:
    """Filled in by the simulated server and the faults: checks do not parse a response.

    `kind`: lost, status, same, gone, limited, transient, garbage, foreign, refused, receipt, batch, data, healthy.
    """

    __slots__ = (
        "actor",
        "ambiguous",
        "at",
        "blocking",
        "body",
        "etag",
        "fault",
        "headers",
        "images",
        "jobs",
        "kind",
        "long_poll",
        "place",
        "requested_delay",
        "sent",
        "sent_at",
        "status",
        "step",
        "wall",
    )

    def __init__(self, step: Step, sent_at: float, at: float, kind: str) -> None:
        self.actor = 0
        self.step = step
        self.sent_at = sent_at
        self.at = at
        self.wall = 0.0
        self.kind = kind
        self.fault = ""
        """The name of the fault, if there is one."""
        self.status: int = 0
        """0: no response."""
        self.headers: dict[str, str] = {}
        self.body = b""
        self.sent = True
        """Whether a request without a response may have arrived."""
        self.ambiguous = False
        """Whether the client cannot exclude that a submit created a job."""
        self.requested_delay: float | None = None
        """The requested delay in seconds; -1 for a date without a Date header."""
        self.long_poll = False
        self.etag = False
        self.place: Place | None = None
        self.images: tuple[str, ...] = ()
        self.blocking: str | None = None
        """The id of the job because of which another one was refused."""
        self.jobs: tuple[tuple[str, str], ...] = ()
        """Ids and states in a response about several jobs ('unknown' for unknown ids)."""

    def line(self) -> str:
        """Return the exchange as two lines of a transcript."""
        step = self.step
        preferences = " ".join(
            f"{name}: {value}" for name, value in step.headers.items() if name in ("Prefer", "If-None-Match")
        )
        request = f"{step.method} {step.path} {preferences}".strip()
        if not self.status:
            response = f"no response ({'may have arrived' if self.sent else 'did not arrive'})"
        else:
            headers = " ".join(f"{name}: {value}" for name, value in self.headers.items() if name != "content-type")
            response = f"{self.status} {headers} {self.body[:160].decode(errors='replace')}"
        fault = f" [{self.fault}]" if self.fault else ""
        return (
            f"  #{self.actor} {self.sent_at:9.3f} {request} (timeout {step.timeout:.1f})\n"
            f"     {self.at:9.3f} {self.kind}{fault}: {response}"
        )
