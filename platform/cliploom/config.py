"""One typed tree of settings for all jobs: a YAML file, dotted overrides, validated, printable."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from cliploom.errors import InputError
from cliploom.settings.base import Section, type_name
from cliploom.settings.cluster import Ray, Run
from cliploom.settings.curation import Curate
from cliploom.settings.data import Data, Index, Ngrams, Prepare, Vocabulary
from cliploom.settings.embedding import Embed, Retrieve
from cliploom.settings.evaluation import Evaluate
from cliploom.settings.registry import Clean, Registry, Review
from cliploom.settings.search import Cost, Tune
from cliploom.settings.training import Model, Objective, Train


class Config(Section):
    """The whole tree."""

    run: Run = Run()
    ray: Ray = Ray()
    data: Data = Data()
    prepare: Prepare = Prepare()
    index: Index = Index()
    curate: Curate = Curate()
    vocabulary: Vocabulary = Vocabulary()
    ngrams: Ngrams = Ngrams()
    model: Model = Model()
    objective: Objective = Objective()
    train: Train = Train()
    registry: Registry = Registry()
    evaluate: Evaluate = Evaluate()
    review: Review = Review()
    clean: Clean = Clean()
    embed: Embed = Embed()
    retrieve: Retrieve = Retrieve()
    tune: Tune = Tune()
    cost: Cost = Cost()


def load(path: str | None = None, overrides: Sequence[str] = ()) -> Config:
    """The tree from the YAML file `path` and `section.key=value` overrides, which win.

    Raises:
        InputError: the file is not there or not a mapping, a key is unknown, a value is of the wrong type.
    """
    tree = _read(path) if path else {}
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator:
            raise InputError(f"'{override}' is no setting: write section.key=value")
        _set(tree, key.strip(), _parse(key, value))
    return _validated(tree, path)


def replaced(config: Config, settings: Mapping[str, Any]) -> Config:
    """`config` with other values of some dotted keys.

    Raises:
        InputError: a key is unknown, a value is of the wrong type.
    """
    tree = config.model_dump()
    for key, value in settings.items():
        _set(tree, key, value)
    return _validated(tree, None)


def dump(config: Config) -> str:
    """The resolved tree as YAML, in a form that `load` reads back to an equal tree."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def keys(section: type[BaseModel] = Config, prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    """Every key as (dotted key, type, default, description)."""
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from keys(kind, f"{prefix}{name}.")
        else:
            default = "none" if field.default is None else yaml.safe_dump(field.default, default_flow_style=True)
            default = default.removesuffix("\n").removesuffix("\n...")
            yield prefix + name, type_name(kind), default, field.description or ""


def require(config: Config, *names: str) -> None:
    """Check that the dotted keys `names` have values.

    Raises:
        InputError: names the first key that has none.
    """
    for name in names:
        value: Any = config
        for part in name.split("."):
            value = getattr(value, part)
        if value is None:
            raise InputError(f"{name} is not set: give it in the config file or as {name}=VALUE")


def check_same(what: str, begun: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Check that `what` goes on with the settings, by dotted key, that it was begun with.

    Raises:
        InputError: it doesn't; names the first key that differs.
    """
    for key, value in begun.items():
        if now.get(key) != value:
            raise InputError(
                f"{what} was begun with {key}={value}, not {now.get(key)}: set that again, or give a new run.name"
            )


def _validated(tree: dict[str, Any], path: str | None) -> Config:
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise InputError(_explain(error, path)) from None


def _read(path: str) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"no config file at {path}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"the config file {path} can't be read: {reason}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise InputError(f"the config file {path} holds no mapping of sections")
    return tree


def _parse(key: str, value: str) -> Any:
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError:
        raise InputError(f"the value of {key} is no valid YAML: {value}") from None
    if isinstance(parsed, str | list | dict) or parsed is None:
        return parsed
    is_text = any(name == key and kind.split("|")[0] == "str" for name, kind, *_ in keys())
    return value.strip() if is_text else parsed  # run.name=2024 is a name, though YAML sees a number


def _set(tree: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        if tree.get(section) is None:
            tree[section] = {}
        inner = tree[section]
        if not isinstance(inner, dict):
            raise InputError(f"'{key}' is no key: {section} is a value, not a section")
        tree = inner
    tree[last] = value


def _explain(error: ValidationError, path: str | None) -> str:
    """The first fault as one line."""
    fault = error.errors()[0]
    key = ".".join(str(part) for part in fault["loc"])
    types = {name: kind for name, kind, *_ in keys()}
    where = f" (config file {path})" if path else ""
    if fault["type"] == "extra_forbidden":
        return f"unknown key {key}{where}{nearest(key, [*types, *Config.model_fields])}"
    for name in types:
        if key.startswith(f"{name}.") and "|" in types[name]:  # pydantic tells each alternative's fault
            return f"{name}: should be {types[name]}, but it is {fault['input']!r}{where}"
    return f"{key}: {fault['msg'][:1].lower()}{fault['msg'][1:]}, but it is {fault['input']!r}{where}"


def nearest(word: str, known: Sequence[str]) -> str:
    """`; did you mean X?` with the known word nearest to `word`, or nothing where none is near."""
    found = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {found[0]}?" if found else ""
