from __future__ import annotations

import io
import json
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from cliploom.demo import packages
from cliploom.errors import InputError


def archive(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


class Npm:
    """Stands for npm: writes the package, or fails."""

    def __init__(self, error: str = "") -> None:
        self.error, self.commands = error, []  # type: ignore[var-annotated]

    def __call__(self, command: list[str], cwd: Path, **_: Any) -> subprocess.CompletedProcess[str]:
        self.commands.append(command)
        if not self.error:
            archive(cwd / "some-icons-1.2.3.tgz", {"a.json": b"{}"})
        return subprocess.CompletedProcess(command, 1 if self.error else 0, "", self.error)


def test_a_package_is_fetched_once_and_its_scripts_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", npm := Npm())
    for _ in range(2):
        path = packages.fetch("@some/icons", "1.2.3", tmp_path)
        assert path == tmp_path / "some-icons-1.2.3.tgz"
        assert packages.read_json(path, ["a.json"]) == {"a.json": {}}
    [command] = npm.commands
    assert command[1:3] == ["pack", "--ignore-scripts"]
    assert command[-1] == "@some/icons@1.2.3"


def test_a_failed_download_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = "npm error code ENOTFOUND\nnpm error network request failed\n"
    monkeypatch.setattr(subprocess, "run", Npm(error))
    with pytest.raises(
        InputError, match=r"@some/icons@1\.2\.3 can't be downloaded .*ENOTFOUND.* run this again"
    ) as caught:
        packages.fetch("@some/icons", "1.2.3", tmp_path)
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(subprocess, "run", Npm())  # the network is back
    assert packages.fetch("@some/icons", "1.2.3", tmp_path).exists()


def test_only_what_is_asked_for_is_read(tmp_path: Path) -> None:
    members = {"a.json": b'{"a": 1}', "../../evil.json": b"{}", "b.json": json.dumps([2]).encode()}
    path = archive(tmp_path / "p.tgz", members)
    assert packages.read_json(path, ["b.json", "a.json"]) == {"a.json": {"a": 1}, "b.json": [2]}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("damage", ["truncated", "text", "lacking"])
def test_a_damaged_package_is_named(tmp_path: Path, damage: str) -> None:
    path = archive(tmp_path / "p.tgz", {"b.json": bytes(range(256)) * 64, "a.json": b"{}"})
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:150])
    if damage == "text":
        path.write_text("<html>")
    with pytest.raises(InputError, match=r"p\.tgz .*delete it and run this again"):
        packages.read_json(path, ["a.json", "c.json"])
