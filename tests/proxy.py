"""A proxy between a client and a real S3 server that does to requests what networks and services do at times."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

Fault = Literal["reset", "silence", "cut", "busy", "expired"]
_ANSWERS = {
    "busy": ("503 Service Unavailable", "SlowDown", "Please reduce your request rate."),
    "expired": ("400 Bad Request", "ExpiredToken", "The provided token has expired."),
}


@dataclass
class Proxy:
    """Where the proxy is, what it shall do, and what it has seen.

    Attributes:
        endpoint: URL of the proxy.
        fault: told a request's first line and its number, says what goes wrong with it: the connection is reset, there
            is never an answer, it is cut in the middle, or S3 says that it is busy or that credentials have expired.
        requests: first lines so far.
    """

    endpoint: str
    fault: Callable[[str, int], Fault | None] = lambda line, number: None
    requests: list[str] = field(default_factory=list)


@contextmanager
def before(endpoint: str) -> Iterator[Proxy]:
    """A proxy before the server at `endpoint`, on a free port of the loopback."""
    server = urlsplit(endpoint)
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = Proxy(f"http://127.0.0.1:{listener.getsockname()[1]}")

        def accept() -> None:
            while True:
                client, _ = listener.accept()
                if ended.is_set():
                    client.close()
                    return
                place = (str(server.hostname), int(server.port or 80))
                threading.Thread(target=_serve, args=(proxy, client, place, ended), daemon=True).start()

        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        try:
            yield proxy
        finally:
            ended.set()
            socket.create_connection(listener.getsockname()).close()
            accepting.join()


def _serve(proxy: Proxy, client: socket.socket, server: tuple[str, int], ended: threading.Event) -> None:
    """One request; the server is told to close after it, so that the next comes on a connection of its own."""
    with client, suppress(OSError):
        head = b""
        while b"\r\n\r\n" not in head:
            received = client.recv(65536)
            if not received:
                return
            head += received
        line = head.partition(b"\r\n")[0].decode()
        proxy.requests.append(line)
        fault = proxy.fault(line, len(proxy.requests))
        if fault == "reset":
            _reset(client)
        elif fault == "silence":
            ended.wait()
        elif fault in _ANSWERS:
            client.sendall(_answer(*_ANSWERS[fault]))
        else:
            first, _, rest = head.partition(b"\r\n")
            with socket.create_connection(server) as upstream:
                upstream.sendall(
                    first + b"\r\nConnection: close\r\n" + rest.replace(b"\r\nConnection: Keep-Alive", b"")
                )
                threading.Thread(target=_pump, args=(client, upstream), daemon=True).start()
                _relay(upstream, client, cut=fault == "cut")


def _relay(upstream: socket.socket, client: socket.socket, cut: bool) -> None:
    """The answer; where it is cut, its head and a few bytes."""
    sent = b""
    while data := upstream.recv(65536):
        if cut:
            sent += data
            head, separator, body = sent.partition(b"\r\n\r\n")
            if separator and len(body) >= 2:
                client.sendall(head + separator + body[: len(body) // 2])
                _reset(client)
                return
        else:
            client.sendall(data)


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)


def _reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def _answer(status: str, code: str, message: str) -> bytes:
    body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode()
