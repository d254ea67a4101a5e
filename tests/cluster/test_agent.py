"""What the node agent takes for a notice. That it drains a real node is seen in tests/integration/test_growing.py."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

import metadata
from cluster import agent
from metadata import Metadata


@pytest.fixture
def server() -> Iterator[Metadata]:
    with metadata.serve() as told:
        yield told


def test_without_a_notice_there_is_none(server: Metadata) -> None:
    server.answers |= {metadata.GCP_PREEMPTED: "FALSE\n", metadata.GCP_MAINTENANCE: "NONE"}
    assert agent.Aws(server.url).notice() is None
    assert agent.Gcp(server.url).notice() is None


def test_aws_says_when_a_spot_instance_ends(server: Metadata) -> None:
    server.answers[metadata.AWS_ACTION] = '{"action": "terminate", "time": "2026-11-25T10:02:00Z"}'
    assert agent.Aws(server.url).notice() == agent.Notice("spot instance to terminate", 1795600920.0)


def test_aws_recommends_to_leave_before_that(server: Metadata) -> None:
    server.answers[metadata.AWS_REBALANCE] = '{"noticeTime": "2026-11-25T10:00:00Z"}'
    assert agent.Aws(server.url).notice() == agent.Notice("rebalance recommendation", 1795600800.0 + 120)
    server.answers[metadata.AWS_ACTION] = '{"action": "stop", "time": "2026-11-25T10:01:00Z"}'
    assert agent.Aws(server.url).notice() == agent.Notice("spot instance to stop", 1795600860.0)


def test_a_session_token_serves_many_requests_and_is_renewed_when_it_is_refused(server: Metadata) -> None:
    cloud = agent.Aws(server.url)
    for _ in range(3):
        cloud.notice()
    assert server.asked[metadata.TOKEN_PATH] == 1
    server.tokens.append("second")
    server.answers[metadata.AWS_ACTION] = metadata.aws_action(60)
    assert cloud.notice() is None  # refused
    assert cloud.notice() is not None
    assert server.asked[metadata.TOKEN_PATH] == 2


@pytest.mark.parametrize(
    ("path", "told", "seconds"),
    [
        (metadata.GCP_PREEMPTED, "TRUE", 25),
        (metadata.GCP_MAINTENANCE, "TERMINATE_ON_HOST_MAINTENANCE", 3600),
        (metadata.GCP_MAINTENANCE, "MIGRATE_ON_HOST_MAINTENANCE", None),  # it lives on
    ],
)
def test_gcp_says_that_an_instance_ends(server: Metadata, path: str, told: str, seconds: float | None) -> None:
    server.answers[path] = told
    began, notice = time.time(), agent.Gcp(server.url).notice()
    if seconds is None:
        assert notice is None
    else:
        assert notice is not None
        assert notice.deadline >= began + seconds
        assert notice.deadline <= time.time() + seconds


def test_it_waits_for_a_notice_through_nonsense(server: Metadata, capsys: pytest.CaptureFixture[str]) -> None:
    server.answers[metadata.AWS_ACTION] = "no JSON"
    found: list[agent.Notice] = []
    waiting = threading.Thread(target=lambda: found.append(agent.wait(agent.Aws(server.url), 0.01)), daemon=True)
    waiting.start()
    server.await_request(metadata.AWS_ACTION, 3)
    server.answers[metadata.AWS_ACTION] = metadata.aws_action(60)
    waiting.join(60)
    assert [notice.reason for notice in found] == ["spot instance to terminate"]
    assert capsys.readouterr().out.count("no answer from the metadata server") == 1
