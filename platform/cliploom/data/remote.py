"""Images by URL, from origins that an allow-list names: a served model must not become a way into the network."""

from __future__ import annotations

import http.client
import urllib.request
from collections.abc import Collection
from typing import Any
from urllib.parse import urlsplit

ORIGINS = "CLIPLOOM_IMAGE_ORIGINS"  # the variable that names them: https://images.example.org, parted by commas
_SECONDS = 10  # of silence
_MOST_BYTES = 32 << 20


class _Refusing(urllib.request.HTTPRedirectHandler):
    """A redirect could lead out of the allowed origins."""

    def redirect_request(self, *_: Any) -> None:
        return None


def is_url(text: str) -> bool:
    """Whether `text` names an image rather than holding one; base64 has no colon."""
    return text.startswith(("http://", "https://"))


def fetch(url: str, origins: Collection[str]) -> bytes:
    """What is at `url`.

    Args:
        url: http or https.
        origins: scheme, host and port (where it is not the scheme's own) of what may be fetched.

    Raises:
        ValueError: the origin is none of these, nothing is there, it is too large, or it redirects.
    """
    parts = urlsplit(url)
    if f"{parts.scheme}://{parts.netloc}" not in origins:
        raise ValueError(f"images from {parts.scheme}://{parts.hostname} are not allowed: {ORIGINS} names what is")
    opener = urllib.request.build_opener(_Refusing)
    try:
        with opener.open(url, timeout=_SECONDS) as answer:
            data: bytes = answer.read(_MOST_BYTES + 1)
    except (http.client.HTTPException, OSError) as error:
        raise ValueError(f"{url} can't be fetched: {error}") from None
    if len(data) > _MOST_BYTES:
        raise ValueError(f"{url} has more than {_MOST_BYTES >> 20} MiB")
    return data
