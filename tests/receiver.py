"""Somebody who receives webhooks: a real HTTP server, in a thread of the test's."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from standardwebhooks import Webhook

__all__ = ["Letter", "Receiver", "receiver"]


@dataclass(frozen=True)
class Letter:
    """One request, as it arrived."""

    path: str
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes

    def verified(self, secret: str) -> dict[str, object]:
        """What it says, checked by the reference implementation of Standard Webhooks."""
        said: dict[str, object] = Webhook(secret).verify(self.body, self.headers)
        return said


Answer = Callable[[BaseHTTPRequestHandler], None]


def status(code: int, **headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


@dataclass
class Receiver:
    """Answers the first request with the first of `answers`, and so on; with the last from then on."""

    port: int
    answers: list[Answer]
    letters: list[Letter] = field(default_factory=list)
    now: int = 0
    """Requests that are being answered this moment."""
    most: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def url(self, path: str = "/hook", host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    def take(self, letter: Letter) -> Answer:
        with self.lock:
            self.letters.append(letter)
            self.now += 1
            self.most = max(self.most, self.now)
            return self.answers[min(len(self.letters), len(self.answers)) - 1]

    def done(self) -> None:
        with self.lock:
            self.now -= 1


@contextmanager
def receiver(*answers: Answer, host: str = "127.0.0.1", port: int = 0, tls: object = None) -> Iterator[Receiver]:
    """One that answers 204 unless told otherwise; with an SSLContext as `tls`, over TLS."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30

        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            body = self.rfile.read(length)
            if len(body) < length:
                return  # its sender was killed in the middle: no letter at all
            headers = {name.lower(): value for name, value in self.headers.items()}
            answer = made.take(Letter(self.path, headers, body))
            self.close_connection = True
            try:
                answer(self)
            except OSError:
                pass  # the sender has heard enough
            finally:
                made.done()

        do_GET = do_PUT = do_POST

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """A sender that breaks the connection off is no trouble of the test's."""

    with Server((host, port), Handler) as running:
        if tls is not None:
            running.socket = tls.wrap_socket(running.socket, server_side=True)  # type: ignore[attr-defined]
        made = Receiver(running.server_address[1], list(answers) or [status(204)])
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield made
        finally:
            running.shutdown()
            thread.join()
