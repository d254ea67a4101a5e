"""Why attempts ended, which budget that is charged to, and when no other one begins."""

from __future__ import annotations

import re

import pytest

from cliploom.training.board import DIED, HUNG, RAISED, Board, GaveUpError, Place

A, B, C = (Place(node, f"10.0.0.{number}", 0) for number, node in enumerate("abc"))
ALL = {"a", "b", "c"}
ECHO = "RuntimeError: Connection closed by peer"


def board(failures: int = 9, preemptions: int = 9) -> Board:
    """With an attempt of a worker on `a` and one on `b` under way."""
    made = Board(failures, preemptions)
    assert made.begin([A, B], ALL) == ""
    return made


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([(0, RAISED, "ValueError: x"), (1, RAISED, ECHO)], "worker 0: ValueError: x"),
        ([(0, RAISED, ECHO), (1, DIED, "exit type:\n SYSTEM_ERROR")], "worker 1: exit type: SYSTEM_ERROR"),
        (
            [(0, HUNG, "step 7 took long"), (0, DIED, "exit")],
            "worker 0: step 7 took long; nothing was heard of worker 1",
        ),
        ([(0, HUNG, "step 7 took long"), (1, HUNG, "step 7 took long")], "worker 0: step 7 took long"),
        ([(1, DIED, "exit type: NODE_OUT_OF_MEMORY"), (0, RAISED, ECHO)], "want of memory .* train.micro_batch_size"),
        ([], "the workers could not be started"),
    ],
)
def test_faults_are_charged_as_failures_with_their_cause(words: list[tuple[int, int, str]], reason: str) -> None:
    made = board(failures=1)
    for word in words:
        made.tell(*word)
    assert re.search(reason, made.begin([A, B], ALL))
    assert made.error() is None
    made.begin([A, B], ALL)
    assert isinstance(made.error(), GaveUpError)
    assert "train.max_failures=1 allows no other restart" in str(made.error())
    assert made.is_over()


def test_the_kernel_s_count_tells_of_want_of_memory() -> None:
    made = board()
    made.tell(1, DIED, "exit type: SYSTEM_ERROR")
    assert "worker 1 was killed for want of memory" in made.begin([A, B._replace(kills=1)], ALL)


@pytest.mark.parametrize(
    ("words", "now", "alive"),
    [
        ([(0, RAISED, ECHO)], [A], {"a", "c"}),  # Ray knows already
        ([], [A, C], {"a", "c"}),
        ([(0, RAISED, ECHO)], [A, C], ALL),  # it does not yet, but no word came from there and none is put there
    ],
)
def test_nodes_that_went_away_are_charged_as_preemptions(
    words: list[tuple[int, int, str]], now: list[Place], alive: set[str]
) -> None:
    made = board(failures=0, preemptions=1)
    for word in words:
        made.tell(*word)
    assert made.begin(now, alive) == "node 10.0.0.1 drained or lost"
    assert made.error() is None
    made.begin([C], {"c"})
    assert "train.max_preemptions=1" in str(made.error())


def test_more_room_costs_nothing() -> None:
    made = board(failures=0, preemptions=0)
    assert made.begin([A, B, C], ALL) == "there is room for 3 workers in place of 2"
    assert made.error() is None


def test_the_first_error_counts_and_reports_are_taken_once() -> None:
    made = board()
    made.give_up(ValueError("first"))
    made.give_up(ValueError("second"))
    assert str(made.error()) == "first"
    made.pin({"step": 1})
    assert made.take() == [{"step": 1}]
    assert made.take() == []
