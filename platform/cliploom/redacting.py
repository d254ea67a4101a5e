"""Secrets stay out of what is printed and kept."""

from __future__ import annotations

import re

_USER = re.compile(r"//[^/?#\s]+@")  # in a URI


def redacted(text: str) -> str:
    """`text` without the user names and passwords of URIs in it."""
    return _USER.sub("//", text)
