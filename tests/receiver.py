"""A receiver of webhooks: a real HTTP server in a thread of the test process."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from standardwebhooks import Webhook

__all__ = ["ReceivedRequest", "Receiver", "receiver"]


@dataclass(frozen=True)
class ReceivedRequest:
    """A received request."""

    path: str
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes

    def verified(self, secret: str) -> dict[str, object]:
        """Return the message, verified by the reference implementation of Standard Webhooks."""
        message: dict[str, object] = Webhook(secret).verify(self.body, self.headers)
        return message


Responder = Callable[[BaseHTTPRequestHandler], None]


def status(code: int, **headers: str) -> Responder:
    def respond(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return respond


@dataclass
class Receiver:
    """The n-th request gets its response from the n-th of `responders`, later ones from the last."""

    port: int
    responders: list[Responder]
    requests: list[ReceivedRequest] = field(default_factory=list)
    pending: int = 0
    """The number of requests that have no response yet."""
    most_pending: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def url(self, path: str = "/hook", host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    def begin(self, request: ReceivedRequest) -> Responder:
        with self.lock:
            self.requests.append(request)
            self.pending += 1
            self.most_pending = max(self.most_pending, self.pending)
            return self.responders[min(len(self.requests), len(self.responders)) - 1]

    def end(self) -> None:
        with self.lock:
            self.pending -= 1


@contextmanager
def receiver(*responders: Responder, host: str = "127.0.0.1", port: int = 0, tls: object = None) -> Iterator[Receiver]:
    """Run a receiver that responds 204, or as `responders` do; with an SSLContext as `tls`, over TLS."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30

        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            body = self.rfile.read(length)
            if len(body) < length:
                return  # the sender was killed before it had sent the whole request
            headers = {name.lower(): value for name, value in self.headers.items()}
            respond = made.begin(ReceivedRequest(self.path, headers, body))
            self.close_connection = True
            try:
                respond(self)
            except OSError:
                pass  # the sender has closed the connection
            finally:
                made.end()

        do_GET = do_PUT = do_POST

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """Ignore senders that close the connection."""

    with Server((host, port), Handler) as running:
        if tls is not None:
            running.socket = tls.wrap_socket(running.socket, server_side=True)  # type: ignore[attr-defined]
        made = Receiver(running.server_address[1], list(responders) or [status(204)])
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield made
        finally:
            running.shutdown()
            thread.join()
