"""Run a job on a cluster: submits it, follows its lines, and ends with its exit code.

    python cluster/submit.py [--address URL] [--no-wait] JOB --config FILE [section.key=value ...]

What stands from JOB on is what would run it here (`python jobs/JOB.py --config FILE ...`). The job's id on the cluster
is its run.name, or JOB where that is not set, and with -2, -3, ... where there is one: a run goes on from where it was.
A run.name that is still at work is not started twice. Code and config go along, data never; Ctrl-C leaves the job at
work.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from cliploom import config as configs
from cliploom.errors import InputError
from cliploom.job import SETTING
from cliploom.registry.provenance import git_commit

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

ROOT = Path(__file__).resolve().parent.parent
_POLL_SECONDS = 0.5


def main(argv: list[str] | None = None) -> int:
    """The job's exit code; 2 where there is nothing to submit, 1 where no cluster answers or Ray ends the job."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:8265")
    parser.add_argument("--address", default=default, help=f"of the cluster's job server (default {default})")
    parser.add_argument("--no-wait", action="store_true", help="end once the job is submitted")
    parser.add_argument("job", choices=sorted(path.stem for path in (ROOT / "jobs").glob("*.py")))
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="of the job")
    options = parser.parse_args(argv)
    try:
        return submit(options.address, options.job, options.arguments, wait=not options.no_wait)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def submit(address: str, job: str, arguments: list[str], wait: bool) -> int:
    """Submit a job, and where `wait` says so, follow it to its end.

    Raises:
        InputError: the settings are wrong, no cluster answers, or the run is at work already.
    """
    from ray.job_submission import JobSubmissionClient

    run = _run_name(arguments)
    try:
        client = JobSubmissionClient(address)
    except (ConnectionError, RuntimeError) as error:
        raise InputError(f"no cluster takes jobs at {address}: {str(error).splitlines()[0]}") from None
    metadata = {"job": job} | ({"run": run} if run else {})
    name = _free_id(client.list_jobs(), metadata)
    with tempfile.TemporaryDirectory() as folder:
        arguments = _stage(Path(folder), arguments)
        client.submit_job(
            entrypoint=shlex.join(["python", f"jobs/{job}.py", *arguments]),
            submission_id=name,
            metadata=metadata,
            runtime_env={
                "working_dir": folder,
                "py_modules": [str(ROOT / "platform" / "cliploom")],
                "env_vars": {"PYTHONUNBUFFERED": "1", "CLIPLOOM_GIT_COMMIT": git_commit()},
            },
        )
    print(f"job      {name} at {address}; stop it with: ray job stop --address {address} {name}", flush=True)
    if not wait:
        return 0
    try:
        return _follow(client, name)
    except (OSError, RuntimeError) as error:
        print(f"error: lost the cluster at {address}: {error}: submit again to go on", file=sys.stderr)
        return 1


def _run_name(arguments: list[str]) -> str | None:
    """run.name of the job's settings."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--config")
    known, rest = parser.parse_known_args(arguments)
    return configs.load(known.config, [word for word in rest if SETTING.match(word)]).run.name


def _free_id(jobs: list[JobDetails], metadata: dict[str, str]) -> str:
    """The run's name, or the job's, or that with the first number that no job of the cluster has.

    Jobs without a run's name may be about different work, even where they are of one kind.
    """
    for job in jobs:
        if "run" in metadata and job.metadata == metadata and not job.status.is_terminal():
            raise InputError(
                f"run {metadata['run']} is at work as job {job.submission_id}: "
                f"ray job logs --follow {job.submission_id} shows it"
            )
    taken, first = {job.submission_id for job in jobs}, metadata.get("run", metadata["job"])
    numbers = range(2, len(taken) + 3)
    return next(name for name in (first, *(f"{first}-{number}" for number in numbers)) if name not in taken)


def _stage(folder: Path, arguments: list[str]) -> list[str]:
    """Copy into `folder` the files that the job needs there; its arguments, with the config's path in it."""
    shutil.copytree(ROOT / "jobs", folder / "jobs", ignore=shutil.ignore_patterns("__pycache__"))
    staged = list(arguments)
    for number, word in enumerate(arguments):
        flag, separator, path = word.partition("=")
        if flag != "--config" or not (separator or arguments[number + 1 :]):
            continue
        place, path = (number, path) if separator else (number + 1, arguments[number + 1])
        shutil.copyfile(path, folder / "config.yaml")
        staged[place] = "--config=config.yaml" if separator else "config.yaml"
    return staged


def _follow(client: JobSubmissionClient, name: str) -> int:
    """Print the job's lines until its end; its exit code."""

    async def show() -> None:
        async for lines in client.tail_job_logs(name):
            print(lines, end="", flush=True)

    asyncio.run(show())
    while not (info := client.get_job_info(name)).status.is_terminal():  # the last lines come before the end is known
        time.sleep(_POLL_SECONDS)
    code = info.driver_exit_code
    if code is None or code < 0:  # it never ran, or a signal ended it
        print(f"job {name} {info.status.lower()}: {info.message}", file=sys.stderr)
        return 1
    return code


if __name__ == "__main__":
    sys.exit(main())
