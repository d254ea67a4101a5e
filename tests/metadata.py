"""A cloud's metadata server, pretended: it says what a test has it say, and takes note of what it is asked."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlparse

TOKEN_PATH = "/latest/api/token"
AWS_ACTION = "/latest/meta-data/spot/instance-action"
AWS_REBALANCE = "/latest/meta-data/events/recommendations/rebalance"
GCP_PREEMPTED = "/computeMetadata/v1/instance/preempted"
GCP_MAINTENANCE = "/computeMetadata/v1/instance/maintenance-event"


class Metadata:
    """What the server answers, by path, and how often each path was asked for."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.answers: dict[str, str] = {}
        self.tokens = ["first"]  # the last one is valid
        self.asked: Counter[str] = Counter()
        self._more = threading.Condition()

    def note(self, path: str) -> None:
        """Count a request."""
        with self._more:
            self.asked[path] += 1
            self._more.notify_all()

    def await_request(self, path: str, times: int = 1, seconds: float = 60) -> None:
        """Return once `path` has been asked for so many times more."""
        with self._more:
            until = self.asked[path] + times
            assert self._more.wait_for(lambda: self.asked[path] >= until, seconds), f"nobody asks for {path}"


@contextmanager
def serve() -> Iterator[Metadata]:
    """A server on a free port of the loopback, which takes AWS's session tokens and GCP's header as the clouds do."""

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            ttl = self.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "")
            self._answer(*((200, told.tokens[-1]) if self.path == TOKEN_PATH and ttl.isdigit() else (400, "")))

        def do_GET(self) -> None:
            allowed = (
                self.headers.get("Metadata-Flavor") == "Google"
                if self.path.startswith("/computeMetadata/")
                else self.headers.get("X-aws-ec2-metadata-token") == told.tokens[-1]
            )
            if not allowed:
                self._answer(401, "")
            else:
                self._answer(*((200, told.answers[self.path]) if self.path in told.answers else (404, "")))

        def _answer(self, status: int, text: str) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())
            told.note(urlparse(self.path).path)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    told = Metadata(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield told
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def aws_action(seconds: float) -> str:
    """The notice of an interruption in so many seconds."""
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds))
    return f'{{"action": "terminate", "time": "{moment}"}}'
