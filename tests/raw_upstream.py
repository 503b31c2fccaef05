"""An upstream made of a socket and a function, so that a test decides every byte and its moment."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class RawRequest:
    """One request as its bytes came."""

    head: bytes
    body: bytes

    @property
    def request_line(self) -> bytes:
        return self.head.split(b"\r\n")[0]

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        lines = self.head.split(b"\r\n")[1:]
        return [(name, value) for name, _, value in (line.partition(b": ") for line in lines if line)]


@dataclass
class Connection:
    """A client's connection to the upstream."""

    sock: socket.socket
    buffer: bytes = b""

    def read_head(self) -> bytes:
        """The next head, without its empty line; b"" where the client closed."""
        while b"\r\n\r\n" not in self.buffer:
            data = self.sock.recv(65536)
            if not data:
                return b""
            self.buffer += data
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        return head

    def read(self, length: int) -> bytes:
        while len(self.buffer) < length:
            data = self.sock.recv(65536)
            if not data:
                raise ConnectionError("the client closed inside a body")
            self.buffer += data
        taken, self.buffer = self.buffer[:length], self.buffer[length:]
        return taken

    def read_line(self) -> bytes:
        while b"\r\n" not in self.buffer:
            data = self.sock.recv(65536)
            if not data:
                raise ConnectionError("the client closed inside a line")
            self.buffer += data
        line, _, self.buffer = self.buffer.partition(b"\r\n")
        return line

    def read_request(self) -> RawRequest | None:
        head = self.read_head()
        if not head:
            return None
        request = RawRequest(head, b"")
        fields = {name.lower(): value for name, value in request.headers}
        if b"content-length" in fields:
            request.body = self.read(int(fields[b"content-length"]))
        elif fields.get(b"transfer-encoding") == b"chunked":
            while length := int(self.read_line(), 16):
                request.body += self.read(length)
                self.read_line()
            self.read_line()
        return request

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def wait_closed(self, seconds: float = 10) -> bool:
        """Whether the client closed its side in time."""
        self.sock.settimeout(seconds)
        try:
            while True:
                if not self.sock.recv(65536):
                    return True
        except ConnectionError:
            return True
        except TimeoutError:
            return False


@dataclass
class RawUpstream:
    port: int
    requests: list[RawRequest] = field(default_factory=list)
    connections: int = 0
    errors: list[BaseException] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


Handler = Callable[[Connection, RawRequest], bool | None]
"""Answers a request. Returning False closes the connection, anything else keeps it for the next request."""


@contextmanager
def raw_upstream(handler: Handler) -> Iterator[RawUpstream]:
    """Serve with `handler`, a thread for each connection."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    upstream = RawUpstream(listener.getsockname()[1])
    open_sockets: set[socket.socket] = set()

    def converse(sock: socket.socket) -> None:
        connection = Connection(sock)
        try:
            while (request := connection.read_request()) is not None:
                upstream.requests.append(request)
                if handler(connection, request) is False:
                    break
        except OSError as exc:
            upstream.errors.append(exc)
        finally:
            open_sockets.discard(sock)
            sock.close()

    def accept() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            upstream.connections += 1
            open_sockets.add(sock)
            threading.Thread(target=converse, args=(sock,), daemon=True).start()

    acceptor = threading.Thread(target=accept, daemon=True)
    acceptor.start()
    try:
        yield upstream
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for sock in list(open_sockets):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it is closed already
        acceptor.join()


def answer(body: bytes, *, status: bytes = b"200 OK", headers: bytes = b"content-type: application/json\r\n") -> bytes:
    """A whole response."""
    return b"HTTP/1.1 %b\r\n%bcontent-length: %d\r\n\r\n%b" % (status, headers, len(body), body)
