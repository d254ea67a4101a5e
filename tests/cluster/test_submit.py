"""How a submission is named and what goes along. Jobs on a cluster: tests/integration/test_growing.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from ray.job_submission import JobDetails, JobStatus, JobType

import servers
from cliploom.errors import InputError
from cluster import submit

RUN = {"job": "train", "run": "first"}


def job(name: str, status: JobStatus, metadata: dict[str, str]) -> JobDetails:
    return JobDetails(type=JobType.SUBMISSION, submission_id=name, status=status, entrypoint="", metadata=metadata)


def test_a_submission_is_named_by_its_run_and_numbered_after_the_first() -> None:
    failed, other = JobStatus.FAILED, {"job": "evaluate", "run": "first"}
    assert submit._free_id([], RUN) == "first"
    assert submit._free_id([job("first", failed, RUN)], RUN) == "first-2"
    known = [job("first", failed, RUN), job("first-2", JobStatus.RUNNING, other), job("else", failed, {})]
    assert submit._free_id(known, RUN) == "first-3"


def test_a_run_at_work_is_not_started_twice() -> None:
    with pytest.raises(InputError, match="run first is at work as job first-2"):
        submit._free_id([job("first-2", JobStatus.RUNNING, RUN)], RUN)


class Cluster:
    """What a submission sees of one on which every job stays at work."""

    def __init__(self) -> None:
        self.jobs: list[JobDetails] = []

    def __call__(self, address: str) -> Cluster:
        return self

    def list_jobs(self) -> list[JobDetails]:
        return self.jobs

    def submit_job(self, submission_id: str, metadata: dict[str, str], **_: object) -> None:
        self.jobs.append(job(submission_id, JobStatus.RUNNING, metadata))


def test_jobs_that_name_no_run_may_be_at_work_together(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster()
    monkeypatch.setattr("ray.job_submission.JobSubmissionClient", cluster)
    for source in ("one.csv", "other.csv"):
        submit.submit("http://cluster", "prepare", [f"prepare.source={source}"], wait=False)
    assert [one.submission_id for one in cluster.jobs] == ["prepare", "prepare-2"]
    submit.submit("http://cluster", "prepare", ["run.name=named"], wait=False)
    with pytest.raises(InputError, match="run named is at work"):
        submit.submit("http://cluster", "prepare", ["run.name=named"], wait=False)


def test_words_of_a_job_are_no_settings() -> None:
    assert submit._run_name(["approve", "3", "lr=0.1", "is", "better", "run.name=review"]) == "review"


@pytest.mark.parametrize("word", ["--config", "--config="])
def test_jobs_and_config_go_along_and_data_does_not(tmp_path: Path, word: str) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("run: {name: mine}")
    arguments = [f"{word}{config}"] if word.endswith("=") else [word, str(config)]
    arguments.append("train.epochs=2")
    (tmp_path / "staged").mkdir()
    staged = submit._stage(tmp_path / "staged", arguments)
    assert "".join(staged).replace("=", "", word.endswith("=")) == "--configconfig.yamltrain.epochs=2"
    assert (tmp_path / "staged" / "config.yaml").read_text() == "run: {name: mine}"
    assert (tmp_path / "staged" / "jobs" / "train.py").is_file()
    assert {path.name for path in (tmp_path / "staged").iterdir()} == {"jobs", "config.yaml"}
    assert submit._run_name(arguments) == "mine"
    assert submit._run_name([*arguments, "run.name=other"]) == "other"
    assert submit._run_name([]) is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "run.nmae=x"], "error: unknown key run.nmae"),
        (["train", "run.name=x"], "error: no cluster takes jobs at http://127.0.0.1:1"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(arguments: list[str], said: str) -> None:
    command = [sys.executable, "cluster/submit.py", "--address", "http://127.0.0.1:1", *arguments]
    answer = subprocess.run(command, cwd=servers.ROOT, capture_output=True, text=True)
    assert answer.returncode == 2
    assert answer.stderr.splitlines()[-1].startswith(said)
    assert "Traceback" not in answer.stderr
