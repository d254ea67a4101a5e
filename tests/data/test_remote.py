from __future__ import annotations

import pytest

from cliploom.data import remote


def test_a_url_that_is_none_is_answered_as_documented() -> None:
    origin = "http://127.0.0.1:9"
    with pytest.raises(ValueError, match=r"http://127\.0\.0\.1:9/a b can't be fetched: "):
        remote.fetch(f"{origin}/a b", [origin])
