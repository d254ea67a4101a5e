"""Evaluation data sets, in the WebDataset layout in which the CLIP benchmark's are published.

ROOT/dataset_type.txt                       "classification" (also where the file is missing) or "retrieval"
ROOT/classnames.txt                         a class a line (classification)
ROOT/zeroshot_classification_templates.txt  a prompt a line, with {c} for the class (classification)
ROOT/SPLIT/nshards.txt                      how many shards the split has
ROOT/SPLIT/N.tar                            KEY.{jpg,jpeg,png,webp} with KEY.cls, or KEY.txt: a caption a line
"""

from __future__ import annotations

import hashlib
import re
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from cliploom import storage
from cliploom.errors import InputError
from cliploom.evaluation.suite import Entry, Kind

_IMAGES = ("jpg", "jpeg", "png", "webp")
_KINDS: tuple[Kind, ...] = ("classification", "retrieval")
_MEMBER = re.compile(r"^((?:.*/)?[^/.]+)\.([^/]+)$")  # WebDataset: a key ends at the base name's first dot


class Shard(NamedTuple):
    """One tar of a data set.

    The digest says its kind: `sha256` of all bytes of a local file, `stat` of URI, size and time of change elsewhere.
    """

    uri: str
    digest: str


class Sample(NamedTuple):
    """One sample as it lies in a shard; what is missing there is None."""

    key: str
    image: bytes | None
    label: bytes | None  # KEY.cls
    captions: bytes | None  # KEY.txt


@dataclass(frozen=True)
class Dataset:
    """A split of a data set: its classes and prompts, and where its samples are. Made by `open_dataset`."""

    name: str
    uri: str
    split: str
    kind: Kind
    classnames: tuple[str, ...]  # empty for retrieval
    templates: tuple[str, ...]  # with {c}; empty for retrieval
    shards: tuple[Shard, ...]


def open_dataset(entry: Entry, root: str) -> Dataset:
    """Read a data set's description and find its shards.

    Raises:
        InputError: a file of the layout is missing or doesn't say what it should; names it.
    """
    uri = entry.dataset if _is_absolute(entry.dataset) else storage.join(root, entry.dataset)
    uri = storage.absolute(uri)
    try:
        storage.size(storage.join(uri, entry.split, "nshards.txt"))
    except FileNotFoundError:
        raise InputError(
            f"data set {entry.name}: there is no {storage.join(uri, entry.split, 'nshards.txt')}; "
            "check the suite's path and split, and evaluate.root"
        ) from None
    except storage.StorageError as error:
        raise InputError(f"data set {entry.name} can't be read: {error}") from None
    kind = _kind(uri)
    names, templates = (_classes(uri)) if kind == "classification" else ((), ())
    return Dataset(entry.name, uri, entry.split, kind, names, templates, tuple(_shards(uri, entry.split)))


def samples(uri: str) -> Iterator[Sample]:
    """The samples of a tar in their order, read as a stream.

    Files of one key stand beside each other; those of other kinds than image, label and captions are passed over.

    Raises:
        InputError: the tar is gone, no tar, or damaged.
    """
    system, path = storage.filesystem(uri)
    try:
        with system.open_input_stream(path) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
            for key, members in groupby(_members(tar), key=lambda member: member[0]):
                files = {extension: data for _, extension, data in members}
                image = next((files[extension] for extension in _IMAGES if extension in files), None)
                yield Sample(key, image, files.get("cls"), files.get("txt"))
    except FileNotFoundError:
        raise InputError(f"the shard {uri} is gone") from None
    except tarfile.TarError as error:
        raise InputError(f"the shard {uri} is damaged: {error}") from None


def images(shard: Shard, numbers: Iterable[int]) -> dict[int, bytes]:
    """The encoded images of the samples at `numbers` of a shard, reading no further than the last of them."""
    wanted, found = set(numbers), {}
    for number, sample in enumerate(samples(shard.uri)):
        if number in wanted and sample.image is not None:
            found[number] = sample.image
        if number >= max(wanted, default=-1):
            break
    return found


def _members(tar: tarfile.TarFile) -> Iterator[tuple[str, str, bytes]]:
    for member in tar:
        match = _MEMBER.match(member.name)
        file = tar.extractfile(member) if match else None
        if match and file:
            yield match[1], match[2].lower(), file.read()
        tar.members = []  # type: ignore[attr-defined]  # it would keep every header


def _is_absolute(uri: str) -> bool:
    return "://" in uri or uri.startswith("/")


def _kind(uri: str) -> Kind:
    place = storage.join(uri, "dataset_type.txt")
    try:
        text = storage.read(place).decode().strip().lower()
    except FileNotFoundError:
        return "classification"
    for kind in _KINDS:
        if text == kind:
            return kind
    raise InputError(f"{place} says {text!r}; known are {' and '.join(_KINDS)}")


def _classes(uri: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    names = _lines(storage.join(uri, "classnames.txt"), "a class a line")
    place = storage.join(uri, "zeroshot_classification_templates.txt")
    templates = _lines(place, "a prompt a line, with {c} for the class")
    for template in templates:
        if "{c}" not in template:
            raise InputError(f"{place}: the prompt {template!r} has no {{c}} where the class's name belongs")
    return names, templates


def _lines(place: str, content: str) -> tuple[str, ...]:
    try:
        lines = tuple(line.strip() for line in storage.read(place).decode("utf-8").rstrip().splitlines())
    except FileNotFoundError:
        raise InputError(f"there is no {place}: a classification data set needs it, with {content}") from None
    except UnicodeDecodeError:
        raise InputError(f"{place} is not UTF-8") from None
    if not lines:
        raise InputError(f"{place} is empty: it should have {content}")
    if "" in lines:
        raise InputError(f"{place} has an empty line {lines.index('') + 1}: it should have {content}")
    return lines


def _shards(uri: str, split: str) -> Iterator[Shard]:
    place = storage.join(uri, split, "nshards.txt")
    text = storage.read(place).decode("utf-8", "replace").strip()
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"{place} says {text!r}; it should be the number of shards")
    for number in range(int(text)):
        shard = storage.join(uri, split, f"{number}.tar")
        try:
            yield Shard(shard, _digest(shard))
        except FileNotFoundError:
            raise InputError(f"the shard {shard} is missing: {place} says there are {text}") from None


def _digest(uri: str) -> str:
    if not storage.is_s3(uri):
        with storage.local(uri).open("rb") as file:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    system, path = storage.filesystem(uri)
    info = system.get_file_info(path)
    if not info.is_file:
        raise FileNotFoundError(uri)
    text = f"{uri}\n{info.size}\n{info.mtime_ns}"
    return f"stat:{hashlib.sha256(text.encode()).hexdigest()}"
