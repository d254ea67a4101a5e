"""Evaluation data sets, in the WebDataset layout in which the CLIP benchmark's are published.

ROOT/dataset_type.txt                       "classification" (also where the file is missing), "multilabel", "retrieval"
ROOT/classnames.txt                         a class a line (classification)
ROOT/zeroshot_classification_templates.txt  a prompt a line, with {c} for the class (classification)
ROOT/base_classnames.txt                    of a distribution shift whose classes have other names than those of the set
                                            that it is a shift of: for each, that set's names, parted by tabs
ROOT/SPLIT/nshards.txt                      how many shards the split has
ROOT/SPLIT/N.tar                            KEY.{jpg,jpeg,png,webp}, or a video KEY.{mp4,webm,avi,mkv}, with KEY.cls,
                                            KEY.npy (multilabel: a 0 or 1 a class) or KEY.txt: a caption a line; and
                                            KEY.json with what else is known of the sample, for `attributes`
"""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np

from cliploom import storage
from cliploom.errors import InputError, StorageError
from cliploom.evaluation.suite import TRAINED, Entry, Kind

_IMAGES = ("jpg", "jpeg", "png", "webp")
_VIDEOS = ("mp4", "webm", "avi", "mkv")
_KINDS: tuple[Kind, ...] = ("classification", "multilabel", "retrieval")
_MEMBER = re.compile(r"^((?:.*/)?[^/.]+)\.([^/]+)$")  # WebDataset: a key ends at the base name's first dot


class Shard(NamedTuple):
    """One tar of a data set, and how it is read.

    The digest says its kind: `sha256` of all bytes of a local file, `stat` of URI, size and time of change elsewhere.
    Where samples are read in another way than usual, it says that too.
    """

    uri: str
    digest: str
    frames: int = 1  # of a video
    prompt: str = "{c}"  # that captions are put into


class Sample(NamedTuple):
    """One sample as it lies in a shard; what is missing there is None."""

    key: str
    image: bytes | None
    label: bytes | None  # KEY.cls, or the digits of KEY.npy
    captions: bytes | None  # KEY.txt
    video: bytes | None = None
    facts: bytes | None = None  # KEY.json


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
    training: tuple[Shard, ...] = ()  # of the split that probes are trained on
    validation: tuple[Shard, ...] = ()  # of the one that chooses their penalty
    stands_for: tuple[tuple[str, ...], ...] = ()  # of a shift: for each class, those of the other set, if not by name


def open_dataset(entry: Entry, root: str) -> Dataset:
    """Read a data set's description and find its shards.

    Raises:
        InputError: a file of the layout is missing or doesn't say what it should; names it.
    """
    uri = entry.dataset if _is_absolute(entry.dataset) else storage.join(root, entry.dataset)
    uri = storage.absolute(uri)
    shards = tuple(_shards(entry, uri, entry.split))
    trained = set(entry.tasks) & set(TRAINED)
    training = tuple(_shards(entry, uri, entry.train)) if trained else ()
    validation = tuple(_shards(entry, uri, entry.validation)) if trained and entry.validation else ()
    kind = _kind(uri)
    names, templates = ((), ()) if kind == "retrieval" else _classes(uri)
    stands_for = _stands_for(uri, len(names)) if entry.shift_of is not None else ()
    return Dataset(entry.name, uri, entry.split, kind, names, templates, shards, training, validation, stands_for)


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
                image, video = (_first(files, extensions) for extensions in (_IMAGES, _VIDEOS))
                label = _digits(files["npy"]) if "npy" in files else files.get("cls")
                yield Sample(key, image, label, files.get("txt"), video, files.get("json"))
    except FileNotFoundError:
        raise InputError(f"the shard {uri} is gone") from None
    except tarfile.TarError as error:
        raise InputError(f"the shard {uri} is damaged: {error}") from None


def fetch(shard: Shard, numbers: Iterable[int]) -> dict[int, Sample]:
    """The samples at `numbers` of a shard, reading no further than the last of them."""
    wanted, found = set(numbers), {}
    for number, sample in enumerate(samples(shard.uri)):
        if number in wanted:
            found[number] = sample
        if number >= max(wanted, default=-1):
            break
    return found


def _first(files: dict[str, bytes], extensions: tuple[str, ...]) -> bytes | None:
    return next((files[extension] for extension in extensions if extension in files), None)


def _digits(data: bytes) -> bytes:
    """A vector of zeros and ones as digits; what is none is named by a letter, and so no label of any class."""
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError):
        return b"x"
    flat = np.ravel(array)
    return "".join("01"[int(one)] if one in (0, 1) else "x" for one in flat.tolist()).encode()


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
    raise InputError(f"{place} says {text!r}; known are {', '.join(_KINDS)}")


def _classes(uri: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    names = _lines(storage.join(uri, "classnames.txt"), "a class a line")
    place = storage.join(uri, "zeroshot_classification_templates.txt")
    templates = _lines(place, "a prompt a line, with {c} for the class")
    for template in templates:
        if "{c}" not in template:
            raise InputError(f"{place}: the prompt {template!r} has no {{c}} where the class's name belongs")
    return names, templates


def _stands_for(uri: str, classes: int) -> tuple[tuple[str, ...], ...]:
    place = storage.join(uri, "base_classnames.txt")
    if not storage.exists(place):
        return ()
    lines = _lines(place, "the classes that each class stands for")
    if len(lines) != classes:
        raise InputError(f"{place} has {len(lines)} lines, the data set {classes} classes")
    return tuple(tuple(name.strip() for name in line.split("\t")) for line in lines)


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


def _shards(entry: Entry, uri: str, split: str) -> Iterator[Shard]:
    place = storage.join(uri, split, "nshards.txt")
    try:
        text = storage.read(place).decode("utf-8", "replace").strip()
    except FileNotFoundError:
        advice = "check the suite's path and split, and evaluate.root"
        raise InputError(f"data set {entry.name}: there is no {place}; {advice}") from None
    except StorageError as error:
        raise InputError(f"data set {entry.name} can't be read: {error}") from None
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"{place} says {text!r}; it should be the number of shards")
    for number in range(int(text)):
        shard = storage.join(uri, split, f"{number}.tar")
        try:
            yield Shard(shard, _reading(entry) + _digest(shard), entry.frames, entry.caption_prompt)
        except FileNotFoundError:
            raise InputError(f"the shard {shard} is missing: {place} says there are {text}") from None


def _reading(entry: Entry) -> str:
    """What a digest begins with where samples are read in another way than usual."""
    frames = f"{entry.frames}-frames-" if entry.frames > 1 else ""
    if entry.caption_prompt == "{c}":
        return frames
    return f"{frames}prompt-{hashlib.sha256(entry.caption_prompt.encode()).hexdigest()[:16]}-"


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
