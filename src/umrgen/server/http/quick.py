"""Status calls answered before they become ASGI requests, in a few microseconds.

Most calls to this server ask for the state of a job that is over or running, with nothing to wait for. Such
a call needs no task, no scope and no queue of messages, which together cost more than its answer. The
protocol answers it when key and job can be had at once; everything else goes the usual way. What is answered
here is, byte for byte, what `http.status` would have answered: a test compares them.
"""

from typing import ClassVar

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from umrgen.jobs import State
from umrgen.server.http import Services
from umrgen.server.http.status import PATH, View
from umrgen.server.ledger import LedgerUnavailable

__all__ = ["quick_answer", "quick_protocol"]

_PREFIX = PATH.encode()
_BEARER = b"Bearer "
_NOT_PLAIN = frozenset(
    (b"prefer", b"if-none-match", b"expect", b"content-length", b"transfer-encoding", b"connection", b"upgrade")
)
"""Headers that ask for more than a look, or for care with the connection."""

Headers = list[tuple[bytes, bytes]]


def quick_answer(services: Services, url: bytes, headers: Headers) -> tuple[Headers, bytes] | None:
    """Headers and body of a 200, if it can be given at once; None for anything out of the ordinary."""
    authorization = b""
    for name, value in headers:
        if name in _NOT_PLAIN and value.lower() != b"keep-alive":
            return None
        if name == b"authorization":
            authorization = value
    if not authorization.startswith(_BEARER):
        return None
    try:
        job_id, secret = url[len(_PREFIX) :].decode("ascii"), authorization[len(_BEARER) :].decode("ascii")
    except UnicodeDecodeError:
        return None
    key = services.keys.trusted(secret)
    if key is None:
        return None
    try:
        job = services.ledger.glance(job_id)
    except LedgerUnavailable:
        return None
    # A place in the queue cannot be had at once; and whether a job is another's is said in one place only.
    if job is None or job.session_id != key.session_id or job.state is State.QUEUED:
        return None
    view = View(services, job, None)
    return view.headers(), view.body()


class QuickProtocol(HttpToolsProtocol):
    """uvicorn's protocol with a short way for plain status calls. Made by `quick_protocol`."""

    services: ClassVar[Services]
    _answered = False

    def on_headers_complete(self) -> None:
        if self._answer_quickly():
            self._answered = True
            self.on_response_complete()
        else:
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        if self._answered:
            self._answered = False
        else:
            super().on_message_complete()

    def _answer_quickly(self) -> bool:
        if not self.url.startswith(_PREFIX) or self.parser.get_method() != b"GET":
            return False
        busy = (self.cycle is not None and not self.cycle.response_complete) or self.flow.write_paused
        if busy or self.parser.get_http_version() != "1.1" or not self.parser.should_keep_alive():
            return False
        answer = quick_answer(self.services, self.url, self.headers)
        if answer is None:
            return False
        headers, body = answer
        lines = [STATUS_LINE[200]]
        for name, value in (*self.server_state.default_headers, *headers):
            lines += (name, b": ", value, b"\r\n")
        lines.append(b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body))
        lines.append(body)
        self.transport.write(b"".join(lines))
        return True


def quick_protocol(services: Services) -> type[QuickProtocol]:
    """The protocol class for a server with these services."""
    return type("QuickProtocol", (QuickProtocol,), {"services": services})
