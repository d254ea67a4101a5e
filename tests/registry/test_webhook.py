"""The receiver of webhooks, with signatures that MLflow's own code makes."""

from __future__ import annotations

import datetime
import http.client
import json
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from mlflow.webhooks.delivery import _generate_hmac_signature

import servers
from cliploom.errors import InputError
from cliploom.registry import webhook
from cliploom.settings.evaluation import Webhook

SECRET = "a-shared-secret"
BODY = json.dumps({"entity": "model_version", "action": "created", "data": {"name": "emoji", "version": "3"}})
Post = Callable[..., int]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for localhost, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    encoding, private = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (folder / "key.pem").write_bytes(key.private_bytes(encoding, private, serialization.NoEncryption()))
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(encoding))
    return folder / "certificate.pem", folder / "key.pem"


@pytest.fixture
def settings(pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Webhook:
    monkeypatch.setenv(webhook.SECRET, SECRET)
    address = f"127.0.0.1:{servers.free_ports(1)[0]}"
    return Webhook(address=address, certificate=str(pair[0]), key=str(pair[1]))


@pytest.fixture
def came(settings: Webhook) -> Iterator[Event]:
    with webhook.receiver(settings) as event:
        yield event


@pytest.fixture
def post(settings: Webhook) -> Post:
    """Sends a webhook as MLflow does; returns the status of the answer."""

    def post(
        body: str = BODY,
        secret: str = SECRET,
        age: float = 0,
        sent: str | None = None,
        length: int | None = None,
        method: str = "POST",
    ) -> int:
        when = str(int(time.time() - age))
        headers = {
            "X-MLflow-Delivery-Id": "delivery-1",
            "X-MLflow-Timestamp": when,
            "X-MLflow-Signature": _generate_hmac_signature(secret, "delivery-1", when, body),
        }
        context = ssl.create_default_context(cafile=str(settings.certificate))
        port = int(str(settings.address).rpartition(":")[2])
        connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=20)
        if length is not None:  # announced, and not sent
            connection.request(method, "/", None, {**headers, "Content-Length": str(length)})
        else:
            connection.request(method, "/", sent or body, headers)
        return connection.getresponse().status

    return post


def test_a_genuine_one_rings_the_bell(came: Event, post: Post) -> None:
    assert post() == 204
    assert came.is_set()


@pytest.mark.parametrize(
    "forged", [{"secret": "another"}, {"age": 3600}, {"age": -3600}, {"sent": BODY.replace("3", "4")}]
)
def test_a_forged_or_old_one_does_not(came: Event, post: Post, forged: dict[str, str]) -> None:
    assert post(**forged) == 401
    assert not came.is_set()


def test_what_is_no_webhook(came: Event, post: Post, settings: Webhook) -> None:
    assert post(method="GET") == 501
    assert post(length=2 << 20) == 413
    with pytest.raises(requests.ConnectionError):
        requests.post(f"http://{settings.address}", BODY, timeout=20)
    assert post() == 204
    assert came.is_set()


def test_without_an_address_nothing_listens() -> None:
    with webhook.receiver(Webhook()) as event:
        assert not event.is_set()


def test_what_is_missing_is_named(settings: Webhook, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    other.write_text("no key")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"key": None}, "needs a certificate and its key"),
        ({"key": str(other)}, "are no pair"),
        ({"address": "192.0.2.1:443"}, "can't be listened at"),
        ({"address": "127.0.0.1:99999"}, "can't be listened at"),
    ]
    for changed, said in cases:
        with pytest.raises(InputError, match=said), webhook.receiver(settings.model_copy(update=changed)):
            pass
    monkeypatch.delenv(webhook.SECRET)
    with pytest.raises(InputError, match="CLIPLOOM_WEBHOOK_SECRET"), webhook.receiver(settings):
        pass
