"""What is wrong with a sample, as against with the storage that it comes from."""

from __future__ import annotations

import re

_NO_TEXT = re.compile("[\ud800-\udfff]")


class BadSample(Exception):  # noqa: N818 - a fact about the data, counted and replaced; not an error of the program
    """A sample's content can't be used. It will be as bad on every machine and at every attempt.

    Attributes:
        cause: what faults are counted by, a short phrase of a fixed set, such as "undecodable image".
    """

    def __init__(self, cause: str, detail: str = "") -> None:
        super().__init__(cause, detail)  # both, so that it survives pickling between processes
        self.cause = cause
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.cause}: {self.detail}" if self.detail else self.cause


def is_text(text: str) -> bool:
    """Whether UTF-8 can encode it: not the halves of surrogate pairs that JSON's escapes can make, and that stand for
    bytes of other encodings (Python's surrogateescape)."""
    return not _NO_TEXT.search(text)
