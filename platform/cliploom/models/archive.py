"""Tensors out of weights files of any kind, without running code that such a file may hold."""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from cliploom.errors import InputError

# What readers raise on bytes that are no weights; pickle's documentation leaves the list open.
_MALFORMED = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RuntimeError,
    SafetensorError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    struct.error,
    zipfile.BadZipFile,
)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The state dict that a file holds, under the names that the file gives.

    Knows safetensors, torch.save's formats (the dict itself, or training checkpoints that hold it as `state_dict`) and
    TorchScript archives.

    Raises:
        InputError: the file is not there, is damaged, or holds anything but tensors.
    """
    try:
        loaded = _read(path)
    except FileNotFoundError:
        raise InputError(f"there is no weights file {path}") from None
    except pickle.UnpicklingError:
        raise InputError(
            f"the weights file {path} is damaged, or holds objects other than tensors; such code is never run: "
            "save the model's state_dict() alone, best as safetensors"
        ) from None
    except _MALFORMED as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"the weights file {path} can't be read; it may be incomplete ({reason})") from None
    return _checked(_unwrapped(loaded), path)


def _read(path: Path) -> Any:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            # torch compresses TorchScript's code, never data; what is compressed may swell beyond the memory.
            data = [entry for entry in archive.infolist() if "/code/" not in entry.filename]
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in data):
                raise ValueError("its data are compressed, which torch never does")
            # torch.save writes no constants.
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                return _read_torchscript(archive)
    elif _is_safetensors(path):
        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _is_safetensors(path: Path) -> bool:
    """Whether the file starts as that format does: the header's length, then the header, which is a JSON object."""
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def _unwrapped(loaded: Any) -> Any:
    """The innermost state dict, without the prefixes that wrappers of the module add to its names."""
    while isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]
    for prefix in ("module.", "_orig_mod."):
        if isinstance(loaded, dict) and loaded and all(str(name).startswith(prefix) for name in loaded):
            loaded = {str(name).removeprefix(prefix): tensor for name, tensor in loaded.items()}
    return loaded


def _checked(state: Any, path: Path) -> dict[str, Tensor]:
    if not isinstance(state, dict) or not state:
        raise InputError(f"the weights file {path} holds no state dict")
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise InputError(f"the weights file {path} holds something other than tensors at {name!r}")
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex():
            raise InputError(f"the weights file {path} holds no dense real tensor at {name!r}")
        if tensor.numel() == 0:
            raise InputError(f"the weights file {path} holds an empty tensor at {name!r}")
        # A tensor with strides of 0 may claim any size; copying it would fill the memory.
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise InputError(f"the weights file {path} claims more values at {name!r} than it holds")
    return state


def _read_torchscript(archive: zipfile.ZipFile) -> dict[str, Tensor]:
    """The parameters and buffers of a TorchScript archive, such as OpenAI's.

    Its data.pkl describes the tree of modules as objects of classes that the archive's own code defines. Here they
    become plain containers, and the code is left alone.
    """
    root = archive.namelist()[0].partition("/")[0]
    with archive.open(f"{root}/data.pkl") as file:
        module = _Unpickler(file, lambda key: archive.read(f"{root}/data/{key}")).load()
    tensors: dict[str, Tensor] = {}
    _collect(module, "", tensors, seen=set())
    return tensors


class _Module:
    """A TorchScript object: its attributes, and nothing that runs."""

    attributes: dict[str, Any]

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.attributes = state


def _collect(module: _Module, prefix: str, tensors: dict[str, Tensor], seen: set[int]) -> None:
    """Add the tensors below `module` under their dotted names."""
    if id(module) in seen:
        raise ValueError("a module is part of itself, or in two places")
    seen.add(id(module))
    for name, value in module.attributes.items():
        if isinstance(value, _Module):
            _collect(value, f"{prefix}{name}.", tensors, seen)
        elif isinstance(value, Tensor):
            tensors[f"{prefix}{name}"] = value


class _Unpickler(pickle.Unpickler):
    """Builds tensors, plain containers and `_Module`s; any other name in the pickle is refused."""

    def __init__(self, file: Any, read_storage: Callable[[str], bytes]) -> None:
        super().__init__(file)
        self._read_storage = read_storage

    def find_class(self, module: str, name: str) -> Any:
        """What a global name in the pickle stands for."""
        if module.split(".")[0] == "__torch__":
            return _Module
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed") from None

    def persistent_load(self, pid: Any) -> Tensor:
        """The storage that a pickle's tensor refers to, as a flat tensor."""
        kind, dtype, key, _, count = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not isinstance(key, str):
            raise pickle.UnpicklingError("the reference is to no storage")
        data = self._read_storage(key)
        if len(data) != count * dtype.itemsize:
            raise ValueError(f"storage {key} has {len(data)} bytes where {count * dtype.itemsize} are due")
        return torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype)


def _tensor(storage: Tensor, offset: int, size: Sequence[int], stride: Sequence[int], *_: Any) -> Tensor:
    return storage.as_strided(tuple(size), tuple(stride), offset)  # raises where that is outside of the storage


def _first(value: Any, *_: Any) -> Any:
    return value


_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_LISTS = ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist")
_ALLOWED: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _first,
    ("torch.jit._pickle", "restore_type_tag"): _first,
    ("collections", "OrderedDict"): OrderedDict,
    **{("torch.jit._pickle", name): list for name in _LISTS},
    **{("torch", name): dtype for name, dtype in _STORAGES.items()},
}
