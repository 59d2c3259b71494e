"""A proxy in front of PostgreSQL or S3 that cuts connections, or passes nothing on without closing them."""

import socket
import threading
from contextlib import suppress
from pathlib import Path

__all__ = ["CuttingProxy", "through"]


class CuttingProxy:
    """Listens on a free port of the loopback interface, and passes bytes on to a server's Unix socket, or port.

    `cut_at`: the number, from 1, of the packet of a client at which its connection is cut once. `passes_it_on`: whether
    the server gets this packet first; then the client does not get the response. `cut_on`: a part of a response that
    is not passed on; its connection is cut.
    """

    def __init__(self, target: Path | int) -> None:
        self._target = target
        self.cut_at = 0
        self.cut_on: bytes | None = None
        self.passes_it_on = False
        self.packets = 0
        self.cuts = 0
        self.refusing = threading.Event()
        """Set while new connections are refused, and by a cut on a response."""
        self._flowing = threading.Event()
        self._flowing.set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def arm(self, packet: int, *, passes_it_on: bool) -> None:
        """Cut at this packet, counted from now on."""
        with self._lock:
            self.packets, self.cut_at, self.passes_it_on = 0, packet, passes_it_on

    def stall(self) -> None:
        """Accept connections and bytes, and pass nothing on until `resume`."""
        self._flowing.clear()

    def resume(self) -> None:
        self._flowing.set()

    def cut_all(self) -> None:
        """Cut all connections."""
        for side in list(self._open):
            _end(side)

    def close(self) -> None:
        self._listener.close()
        self.resume()
        self.cut_all()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            local = isinstance(self._target, Path)
            server = socket.socket(socket.AF_UNIX if local else socket.AF_INET)
            try:
                if self.refusing.is_set():
                    raise OSError
                server.connect(str(self._target) if local else ("127.0.0.1", self._target))
            except OSError:
                client.close()
                server.close()
                continue
            self._open |= {client, server}
            threading.Thread(target=self._from_client, args=(client, server), daemon=True).start()
            threading.Thread(target=self._from_server, args=(client, server), daemon=True).start()

    def _from_client(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(1 << 16):
                self._flowing.wait()
                if self._is_cut():
                    if self.passes_it_on:
                        # The client must not get the response, which is still read so that the server is not stopped.
                        _end(client)
                        server.sendall(data)
                        server.shutdown(socket.SHUT_WR)
                        return
                    break
                server.sendall(data)
        _end(client)
        _end(server)

    def _is_cut(self) -> bool:
        with self._lock:
            self.packets += 1
            if self.packets != self.cut_at:
                return False
            self.cut_at, self.cuts = 0, self.cuts + 1
            return True

    def _from_server(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(1 << 16):
                self._flowing.wait()
                if self.cut_on is not None and self.cut_on in data:
                    self.cut_on = None
                    self.refusing.set()
                    self.cuts += 1
                    break
                with suppress(OSError):
                    client.sendall(data)
        _end(client)
        _end(server)


def _end(side: socket.socket) -> None:
    with suppress(OSError):
        side.shutdown(socket.SHUT_RDWR)
    side.close()


def through(proxy: CuttingProxy, url: str) -> str:
    """Return the URL of the same database by way of the proxy."""
    database = url.partition("@/")[2].partition("?")[0]
    return f"postgresql://postgres@127.0.0.1:{proxy.port}/{database}?sslmode=disable&gssencmode=disable"
