"""Fetches npm packages, and reads files out of them without installing anything."""

from __future__ import annotations

import json
import subprocess
import sysconfig
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cliploom.errors import InputError

_SECONDS = 900


def fetch(name: str, version: str, folder: Path) -> Path:
    """The package as a local .tgz below `folder`, downloaded if it is not there yet.

    npm checks what it downloads against the registry's digest and keeps it in its cache, so an interrupted download is
    not begun from nothing; scripts of the package never run.

    Raises:
        InputError: npm is not there or can't download; says what to do.
    """
    archive = folder / f"{name.removeprefix('@').replace('/', '-')}-{version}.tgz"
    if archive.exists():
        return archive
    folder.mkdir(parents=True, exist_ok=True)
    npm = Path(sysconfig.get_path("scripts"), "npm")
    if not npm.exists():
        raise InputError(f"there is no npm at {npm}: pip install 'cliploom[demo]'")
    staging = folder / "staging"
    staging.mkdir(exist_ok=True)
    print(f"fetching {name} {version}", flush=True)
    command = [
        str(npm),
        "pack",
        "--ignore-scripts",
        "--loglevel=error",
        f"--cache={folder / 'npm'}",
        f"{name}@{version}",
    ]
    try:
        done = subprocess.run(command, cwd=staging, capture_output=True, text=True, timeout=_SECONDS, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        raise _failed(name, version, folder, f"no end after {_SECONDS} s") from None
    if done.returncode != 0:
        reason = next((line for line in done.stderr.splitlines() if line.startswith("npm error")), "npm failed")
        raise _failed(name, version, folder, reason.removeprefix("npm error ").strip())
    (staging / archive.name).replace(archive)
    return archive


def read_json(archive: Path, names: Iterable[str]) -> dict[str, Any]:
    """The JSON files `names` of a package, by name; nothing is unpacked.

    Raises:
        InputError: the archive is damaged or lacks a file.
    """
    wanted = {f"package/{name}": name for name in names}
    found: dict[str, Any] = {}
    try:
        with tarfile.open(archive, "r|gz") as tar:
            for member in tar:
                name = wanted.get(member.name)
                file = tar.extractfile(member) if name else None
                if name and file:
                    found[name] = json.load(file)
                    if len(found) == len(wanted):
                        break
    except (tarfile.ReadError, EOFError, OSError, ValueError) as error:
        raise InputError(f"{archive} is damaged ({error}): delete it and run this again") from None
    if missing := wanted.values() - found.keys():
        raise InputError(f"{archive} holds no {', '.join(sorted(missing))}: delete it and run this again")
    return found


def _failed(name: str, version: str, folder: Path, reason: str) -> InputError:
    return InputError(
        f"{name}@{version} can't be downloaded ({reason}): check the network and npm's registry setting, then run this "
        f"again; or put the package's .tgz into {folder}"
    )
