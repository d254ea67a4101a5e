from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import servers
from cliploom import config, job
from cliploom.config import Config
from cliploom.errors import CredentialsError, InputError, StorageError

JOBS = sorted(path.stem for path in (servers.ROOT / "jobs").glob("*.py"))
HEAVY = {"torch", "ray", "mlflow", "deepspeed", "pyarrow", "boto3", "numpy", "PIL"}

Main = Callable[[Config, list[str]], None]


def nothing(config: Config, words: list[str]) -> None:
    """Do nothing.

    Twice, if need be.
    """


def test_a_job_gets_its_settings_and_words(tmp_path: Path) -> None:
    seen: list[tuple[Config, list[str]]] = []
    path = tmp_path / "job.yaml"
    path.write_text("train: {seed: 3}")
    arguments = ["approve", "--config", str(path), "run.name=a", "12", "because=it is good", "train.workers=2"]
    assert job.run(lambda *both: seen.append(both), "WORDS", arguments) == 0
    [(tree, words)] = seen
    assert tree == config.load(str(path), ["run.name=a", "train.workers=2"])
    assert words == ["approve", "12", "because=it is good"]


def test_options_are_short_for_settings(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[Config] = []
    options = {"--override": "review.override", "--html": "review.html"}
    arguments = ["--html", "a=b.html", "--override", "review.by=ada"]
    assert job.run(lambda tree, _: seen.append(tree), argv=arguments, options=options) == 0
    assert seen == [config.load(None, ["review.html=a=b.html", "review.override=true", "review.by=ada"])]
    with pytest.raises(SystemExit):
        job.run(nothing, argv=["--help"], options=options)
    text = capsys.readouterr().out
    assert "[--override] [--html HTML]" in text.splitlines()[0]
    assert "short for review.override=true" in text


def test_wrong_input_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(config: Config, words: list[str]) -> None:
        raise InputError("data.manifest: there is\n  no such file")

    assert job.run(fail, argv=[]) == 2
    assert capsys.readouterr() == ("", "error: data.manifest: there is no such file\n")


def test_storage_out_of_reach_is_one_line_and_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(config: Config, words: list[str]) -> None:
        raise StorageError("s3://bucket/x: the connection is\n  refused")

    assert job.run(fail, argv=[]) == 1
    line = "error: s3://bucket/x: the connection is refused (run the same command again to go on)\n"
    assert capsys.readouterr() == ("", line)


def test_refused_credentials_are_wrong_input(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(config: Config, words: list[str]) -> None:
        raise CredentialsError("s3://bucket/x: the credentials have expired")

    assert job.run(fail, argv=[]) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train.wrokers=1"], "error: unknown key train.wrokers; did you mean train.workers?\n"),
        (["word"], "error: 'word' is no setting: write section.key=value\n"),
        (["a=b"], "error: 'a=b' is no setting: write section.key=value\n"),
        (["--config", "none.yaml"], "error: no config file at none.yaml\n"),
    ],
)
def test_wrong_settings_are_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert job.run(nothing, argv=arguments) == 2
    assert capsys.readouterr() == ("", message)


def test_an_unknown_option_is_exit_code_2() -> None:
    with pytest.raises(SystemExit) as caught:
        job.run(nothing, argv=["--what"])
    assert caught.value.code == 2


def test_other_errors_are_raised() -> None:
    def fail(config: Config, words: list[str]) -> None:
        raise RuntimeError("a fault of ours")

    with pytest.raises(RuntimeError):
        job.run(fail, argv=[])


def test_an_interrupt_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(config: Config, words: list[str]) -> None:
        raise KeyboardInterrupt

    assert job.run(interrupt, argv=[]) == 130
    assert "run the same command again" in capsys.readouterr().err


def test_print_config_prints_the_tree_and_does_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def fail(config: Config, words: list[str]) -> None:
        raise AssertionError

    assert job.run(fail, argv=["--print-config", "train.workers=[1, 2]"]) == 0
    tree = yaml.safe_load(capsys.readouterr().out)
    assert Config.model_validate(tree) == config.load(None, ["train.workers=[1, 2]"])


def test_print_config_keeps_a_password_to_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert job.run(nothing, argv=["--print-config", "registry.uri=http://me:hidden@mlflow.team:5000"]) == 0
    printed = capsys.readouterr().out
    assert "uri: http://mlflow.team:5000" in printed
    assert "hidden" not in printed


def test_help_has_the_docstring_and_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        job.run(nothing, "WORDS", ["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert "\n\nDo nothing.\n\nTwice, if need be.\n\n" in text
    assert "--config FILE WORDS [section.key=value ...]" in text.splitlines()[0]
    lines = [line.split(None, 1) for line in text.splitlines() if line.startswith("  ")]
    rows = list(config.keys())
    assert [key for key, *_ in lines if "." in key] == [key for key, *_ in rows]


def test_the_first_lines(capsys: pytest.CaptureFixture[str]) -> None:
    job.header("a-run", "s3://bucket/runs", "http://mlflow/run")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [
        ["run", "a-run"],
        ["storage", "s3://bucket/runs"],
        ["mlflow", "http://mlflow/run"],
    ]


@pytest.mark.parametrize("name", JOBS)
def test_help_of_every_job_waits_for_no_heavy_package(name: str) -> None:
    code = f"""
import runpy, sys
sys.argv = ["{name}.py", "--help"]
try:
    runpy.run_path("jobs/{name}.py", run_name="__main__")
except SystemExit as end:
    print("exit", end.code, *sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=servers.ROOT, capture_output=True, text=True, check=True)
    last = done.stdout.splitlines()[-1].split()
    assert last[:2] == ["exit", "0"]
    assert not HEAVY & set(last)
    assert "train.global_batch_size" in done.stdout


@pytest.mark.parametrize("name", JOBS)
def test_every_job_answers_wrong_input_in_one_line(name: str) -> None:
    done = servers.run_job(name, "train.wrokers=1")
    assert done.returncode == 2
    assert done.stderr == "error: unknown key train.wrokers; did you mean train.workers?\n"
