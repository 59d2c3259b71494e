"""One request, its response, and the meaning of the response."""

from umrgen.client.flow import Step

__all__ = ["Exchange"]

Place = tuple[str, int | None, int | None]


class Exchange:
    """A request and its response, written by the world and the faults; the judge reads no bytes of a response.

    `kind`: lost, status, same, gone, limited, transient, garbage, refused, receipt, batch, data, healthy.
    """

    __slots__ = (
        "actor",
        "ambiguous",
        "at",
        "body",
        "busy",
        "etag",
        "headers",
        "held",
        "images",
        "jobs",
        "kind",
        "note",
        "place",
        "retry_after",
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
        self.note = ""
        """The fault that changed the response; '' without one."""
        self.status: int = 0
        """0 without a response."""
        self.headers: dict[str, str] = {}
        self.body = b""
        self.sent = True
        """For a lost request: whether it may have arrived."""
        self.ambiguous = False
        """For a submit: whether the server may have created a job, by the information of the client."""
        self.retry_after: float | None = None
        """Delay in seconds that the response requests; -1 for a date that depends on the server's clock."""
        self.held = False
        self.etag = False
        self.place: Place | None = None
        self.images: tuple[str, ...] = ()
        self.busy: str | None = None
        """The job that occupies the slot."""
        self.jobs: tuple[tuple[str, str], ...] = ()
        """For a batch response: ids and states ('unknown' for ids that the server does not have)."""

    def line(self) -> str:
        step = self.step
        conditions = " ".join(
            f"{name}: {value}" for name, value in step.headers.items() if name in ("Prefer", "If-None-Match")
        )
        request = f"{step.method} {step.path} {conditions}".strip()
        if not self.status:
            response = f"no response ({'may have arrived' if self.sent else 'did not arrive'})"
        else:
            headers = " ".join(f"{name}: {value}" for name, value in self.headers.items() if name != "content-type")
            response = f"{self.status} {headers} {self.body[:160].decode(errors='replace')}"
        fault = f" [{self.note}]" if self.note else ""
        return (
            f"  #{self.actor} {self.sent_at:9.3f} {request} (timeout {step.timeout:.1f})\n"
            f"     {self.at:9.3f} {self.kind}{fault}: {response}"
        )
