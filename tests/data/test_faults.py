from __future__ import annotations

import pickle

from cliploom.data.faults import BadSample


def test_a_bad_sample_says_its_cause_also_after_pickling() -> None:
    bad = pickle.loads(pickle.dumps(BadSample("undecodable image", "broken PNG file")))
    assert bad.cause == "undecodable image"
    assert str(bad) == "undecodable image: broken PNG file"
    assert str(BadSample("empty caption")) == "empty caption"
