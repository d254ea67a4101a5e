"""A receiver of MLflow's webhooks over HTTPS: a bell that says "look into the registry", and no more.

Nothing of what a webhook says is used but that it came. It must carry MLflow's signature (HMAC-SHA256 over delivery id,
time and body, under a secret that both sides have) and be a few minutes old at the most.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cliploom.errors import InputError
from cliploom.settings.evaluation import Webhook

SECRET = "CLIPLOOM_WEBHOOK_SECRET"  # noqa: S105  # the variable that holds it
_OLDEST_SECONDS = 300
_MOST_BYTES = 1 << 20
_PATIENCE_SECONDS = 10  # for a client that says nothing


def is_genuine(headers: Message, body: bytes, secret: str) -> bool:
    """Whether a request carries MLflow's signature under `secret`, and is new."""
    when = headers.get("X-MLflow-Timestamp", "")
    if not when.isdecimal() or abs(time.time() - int(when)) > _OLDEST_SECONDS:
        return False
    signed = f"{headers.get('X-MLflow-Delivery-Id', '')}.{when}.".encode() + body
    digest = hmac.new(secret.encode(), signed, hashlib.sha256).digest()
    expected = "v1," + base64.b64encode(digest).decode()
    return hmac.compare_digest(headers.get("X-MLflow-Signature", "").encode(), expected.encode())


@contextmanager
def receiver(settings: Webhook) -> Iterator[threading.Event]:
    """An event that is set when a webhook comes in; never, where `settings` names no address.

    Raises:
        InputError: the address, the certificate or the secret can't be used.
    """
    came = threading.Event()
    if settings.address is None:
        yield came
        return
    server = _server(settings, came)
    thread = threading.Thread(target=server.serve_forever, name="webhooks", daemon=True)
    thread.start()
    try:
        yield came
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _server(settings: Webhook, came: threading.Event) -> ThreadingHTTPServer:
    secret = os.environ.get(SECRET)
    if not secret:
        raise InputError(f"evaluate.webhook needs the secret that MLflow signs with, in the variable {SECRET}")
    if settings.certificate is None or settings.key is None:
        raise InputError("evaluate.webhook needs a certificate and its key: webhooks come over HTTPS alone")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(settings.certificate, settings.key)
    except OSError as error:
        raise InputError(f"evaluate.webhook: {settings.certificate} and {settings.key} are no pair: {error}") from None
    host, _, port = str(settings.address).rpartition(":")
    try:
        server = ThreadingHTTPServer((host, int(port)), _handler(secret, came))
    except (OSError, ValueError, OverflowError) as error:
        raise InputError(f"evaluate.webhook.address: {settings.address} can't be listened at: {error}") from None
    # The handshake is the handler's, in a thread of its own: a client that says nothing must not hold up the others.
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    return server


def _handler(secret: str, came: threading.Event) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = _PATIENCE_SECONDS

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "")
            if not length.isdecimal() or int(length) > _MOST_BYTES:
                self._answer(413)
                return
            body = self.rfile.read(int(length))
            genuine = is_genuine(self.headers, body, secret)
            if genuine:
                came.set()
            self._answer(204 if genuine else 401)

        def _answer(self, status: int) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def handle(self) -> None:
            try:
                super().handle()
            except OSError:  # a client that is none; nothing of it is to be told
                self.close_connection = True

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
