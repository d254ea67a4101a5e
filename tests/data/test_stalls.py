"""What was waited for, and what helps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cliploom.data.stalls import MENDS, Stalls, Work, between, summary

SECONDS = st.floats(0, 1e6)


@given(st.lists(st.tuples(SECONDS, st.builds(Work, SECONDS, SECONDS, SECONDS)), max_size=5))
def test_all_waiting_has_a_cause(waits: list[tuple[float, Work]]) -> None:
    stalls = Stalls()
    for seconds, work in waits:
        stalls.add_data(seconds, work)
    assert sum(stalls.seconds.values()) == pytest.approx(sum(seconds for seconds, _ in waits))


def test_data_is_waited_for_as_its_tasks_worked() -> None:
    stalls = Stalls()
    stalls.add_data(10, Work(read=1, decode=3, tokenize=0))
    stalls.add_data(1, Work())
    stalls.add("collective", 2)
    metrics = stalls.metrics()
    assert metrics.pop("stall/elapsed_seconds") >= 0
    assert metrics == {
        "stall/read_seconds": 2.5,
        "stall/decode_seconds": 7.5,
        "stall/tokenize_seconds": 0,
        "stall/transfer_seconds": 1,
        "stall/device_seconds": 0,
        "stall/collective_seconds": 2,
    }


def test_the_summary_names_the_causes_and_the_mend_of_the_first() -> None:
    metrics = Stalls().metrics() | {"stall/elapsed_seconds": 100, "loss": 1}
    waited = {"stall/read_seconds": 2, "stall/decode_seconds": 7.1, "stall/transfer_seconds": 0.9}
    assert summary(metrics | waited) == f"waiting 10 % (decode 71 %, read 20 %, transfer 9 %): {MENDS['decode']}"


@pytest.mark.parametrize("elapsed", [0, 100])
def test_no_waiting_needs_no_mend(elapsed: float) -> None:
    assert summary(Stalls().metrics() | {"stall/elapsed_seconds": elapsed}) == "waiting 0 %"


def test_a_line_on_the_time_since_the_last_one_leaves_out_what_came_before() -> None:
    then = Stalls().metrics() | {"stall/elapsed_seconds": 100, "stall/read_seconds": 50}
    now = then | {"stall/elapsed_seconds": 200, "stall/decode_seconds": 10, "loss": 1}
    assert summary(between(then, now)) == f"waiting 10 % (decode 100 %): {MENDS['decode']}"
    assert summary(between({}, now)).startswith("waiting 30 % (read 83 %")
