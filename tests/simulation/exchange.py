"""One request, what came of it, and what it truly meant."""

from umrgen.client.flow import Step

__all__ = ["Exchange"]

Place = tuple[str, int | None, int | None]


class Exchange:
    """Filled in by the world and its faults; the judge never reads an answer's bytes.

    `kind`: lost, status, same, gone, limited, transient, garbage, refused, receipt, batch, data, healthy.
    """

    __slots__ = (
        "actor",
        "ambiguous",
        "asked",
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
        """The fault, if this is one."""
        self.status: int = 0
        """0: no answer at all."""
        self.headers: dict[str, str] = {}
        self.body = b""
        self.sent = True
        """Of a lost request: whether it may have arrived."""
        self.ambiguous = False
        """Of a submit: whether, for all the client can know, a job was made."""
        self.asked: float | None = None
        """Seconds the server asks to wait; -1 when only its clock knows."""
        self.held = False
        self.etag = False
        self.place: Place | None = None
        self.images: tuple[str, ...] = ()
        self.busy: str | None = None
        """The job that is in the way."""
        self.jobs: tuple[tuple[str, str], ...] = ()
        """Of an answer for many: ids and states ('unknown' for those not known)."""

    def line(self) -> str:
        step = self.step
        asked = " ".join(
            f"{name}: {value}" for name, value in step.headers.items() if name in ("Prefer", "If-None-Match")
        )
        request = f"{step.method} {step.path} {asked}".strip()
        if not self.status:
            answer = f"no answer ({'may have arrived' if self.sent else 'never arrived'})"
        else:
            told = " ".join(f"{name}: {value}" for name, value in self.headers.items() if name != "content-type")
            answer = f"{self.status} {told} {self.body[:160].decode(errors='replace')}"
        fault = f" [{self.note}]" if self.note else ""
        return (
            f"  #{self.actor} {self.sent_at:9.3f} {request} (timeout {step.timeout:.1f})\n"
            f"     {self.at:9.3f} {self.kind}{fault}: {answer}"
        )
