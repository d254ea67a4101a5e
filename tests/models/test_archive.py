"""Files that are damaged or mean harm."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from cliploom.errors import InputError
from cliploom.models.archive import read_tensors


class RunsCode:
    """Unpickled by pickle itself, this makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


def write_torch(path: Path, content: Any) -> None:
    torch.save(content, path)


def write_legacy_torch(path: Path, content: Any) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def write_pickle(path: Path, content: Any) -> None:
    path.write_bytes(pickle.dumps(content))


def write_torchscript(path: Path, content: Any) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", pickle.dumps(content))
        archive.writestr("x/constants.pkl", pickle.dumps(()))


@pytest.mark.parametrize("write", [write_torch, write_legacy_torch, write_pickle, write_torchscript])
def test_code_in_a_file_is_not_run(write: Callable[[Path, Any], None], tmp_path: Path) -> None:
    file, made = tmp_path / "weights.pt", tmp_path / "made"
    write(file, {"visual.conv1.weight": torch.ones(2), "other": RunsCode(made)})
    with pytest.raises(InputError, match=r"weights\.pt is damaged, or holds objects other than tensors"):
        read_tensors(file)
    assert not made.exists()
    pickle.loads(pickle.dumps(RunsCode(made)))
    assert made.exists()  # so the file would have run it


def torchscript(path: Path) -> None:
    torch.jit.script(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))).save(path)


def test_torchscript_holds_parameters_and_buffers(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    torch.jit.script(module).save(tmp_path / "x.pt")
    got = read_tensors(tmp_path / "x.pt")
    assert got.keys() == module.state_dict().keys()
    assert all(torch.equal(got[name], tensor) for name, tensor in module.state_dict().items())


class Part:
    """A pickled reference to a storage."""

    def __init__(self, *pid: Any) -> None:
        self.pid = pid


class Rebuilt:
    """A pickled tensor of a storage."""

    def __init__(self, storage: Any, *arguments: Any) -> None:
        self.arguments = (storage, *arguments)

    def __reduce__(self) -> Any:
        return torch._utils._rebuild_tensor_v2, self.arguments


class StoragePickler(pickle.Pickler):
    def persistent_id(self, item: Any) -> Any:
        return item.pid if isinstance(item, Part) else None


FLOATS = Part("storage", torch.FloatStorage, "0", "cpu", 4)


@pytest.mark.parametrize(
    "content",
    [
        Rebuilt(FLOATS, 0, (5,), (1,), False, {}),  # past the storage's end
        Rebuilt(FLOATS, 3, (2,), (1,), False, {}),
        Rebuilt(FLOATS, -1, (2,), (1,), False, {}),
        Rebuilt(FLOATS, 0, (2,), (-1,), False, {}),
        Rebuilt(FLOATS, 0, (2**40, 2**40), (0, 0), False, {}),  # a claim beyond any memory
        Rebuilt(FLOATS, 0, (2**70,), (0,), False, {}),
        Rebuilt(FLOATS, 0, ("many",), (1,), False, {}),
        Rebuilt(7, 0, (1,), (1,), False, {}),
        Rebuilt(Part("storage", torch.FloatStorage, "0", "cpu", 5), 0, (1,), (1,), False, {}),
        Rebuilt(Part("storage", torch.FloatStorage, "../../etc/passwd", "cpu", 4), 0, (1,), (1,), False, {}),
        Rebuilt(Part("storage", torch.float32, "0", "cpu", 4), 0, (1,), (1,), False, {}),
        Rebuilt(Part("module", torch.FloatStorage, "0", "cpu", 4), 0, (1,), (1,), False, {}),
        FLOATS,
        {"a": "text"},
        [],
        os.getcwd,
    ],
)
def test_forged_torchscript_is_refused(content: Any, tmp_path: Path) -> None:
    file = tmp_path / "x.pt"
    data = io.BytesIO()
    StoragePickler(data, protocol=2).dump(content)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x/data.pkl", data.getvalue())
        archive.writestr("x/constants.pkl", b"")
        archive.writestr("x/data/0", bytes(16))
    with pytest.raises(InputError, match=r"x\.pt"):
        read_tensors(file)


def test_module_inside_itself_is_refused(tmp_path: Path) -> None:
    # A TorchScript object whose attribute `me` is the object: NEWOBJ, memoised, and built from a dict that holds it.
    loop = b"\x80\x02c__torch__.M\nM\n)\x81q\x00}X\x02\x00\x00\x00meh\x00sb."
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("x/data.pkl", loop)
        archive.writestr("x/constants.pkl", b"")
    with pytest.raises(InputError, match="part of itself"):
        read_tensors(tmp_path / "x.pt")


def test_compressed_archive_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", bytes(10**6))
    with pytest.raises(InputError, match="its data are compressed"):
        read_tensors(tmp_path / "x.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": torch.ones(1).expand(10**9)}, "claims more values at 'a' than it holds"),
        ({"a": torch.ones(2).to_sparse()}, "no dense real tensor at 'a'"),
        ({"a": torch.ones(2, dtype=torch.complex64)}, "no dense real tensor at 'a'"),
        ({"a": torch.ones(0, 10**6)}, "an empty tensor at 'a'"),
        ({"a": 1.0}, "something other than tensors at 'a'"),
        ({3: torch.ones(2)}, "something other than tensors at 3"),
        ({}, "holds no state dict"),
        (torch.ones(3), "holds no state dict"),
        ([torch.ones(3)], "holds no state dict"),
    ],
)
def test_what_is_no_state_dict_is_refused(content: Any, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(InputError, match=message):
        read_tensors(tmp_path / "x.pt")


FORMATS: dict[str, Callable[[Path], None]] = {
    "safetensors": lambda path: save_file({"weight": torch.ones(2, 3), "bias": torch.ones(2)}, path),
    "torch": lambda path: write_torch(path, {"weight": torch.ones(2, 3)}),
    "legacy": lambda path: write_legacy_torch(path, {"weight": torch.ones(2, 3)}),
    "torchscript": torchscript,
}


@pytest.mark.parametrize("kind", FORMATS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_gives_an_input_error_or_tensors(kind: str, data: st.DataObject, tmp_path: Path) -> None:
    """Truncated anywhere, or with bytes changed anywhere, a file is read or refused; nothing else is raised."""
    file = tmp_path / f"whole.{kind}"
    if not file.exists():
        FORMATS[kind](file)
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    damaged = tmp_path / "damaged"
    damaged.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        state = read_tensors(damaged)
    except InputError:
        return
    assert all(isinstance(tensor, torch.Tensor) for tensor in state.values())
