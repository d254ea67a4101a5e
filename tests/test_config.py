from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from cliploom import config
from cliploom.config import Config
from cliploom.errors import InputError

ROWS = list(config.keys())
KEYS = [key for key, *_ in ROWS]
TEXT = st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]))  # YAML has no way to write some of the rest


@pytest.fixture
def file(tmp_path: Path) -> Any:
    """Writes a config file, and gives its path."""

    def write(text: str | bytes) -> str:
        path = tmp_path / "job.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write


def test_without_a_file_everything_is_default() -> None:
    assert config.load() == Config()


def test_overrides_win_over_the_file_and_it_over_defaults(file: Any) -> None:
    path = file("train: {workers: 2, zero_stage: 2}\nrun: {name: first}\n")
    tree = config.load(path, ["train.workers=4", "model.name=RN50"])
    assert (tree.train.workers, tree.train.zero_stage, tree.run.name, tree.model.name) == (4, 2, "first", "RN50")
    assert tree.train.seed == Config().train.seed


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("train.workers=3", 3),
        ("train.workers=[1, 3]", (1, 3)),
        ("train.learning_rate=5e-4", 5e-4),
        ("train.max_gradient_norm=none", None),
        ("train.samples=", None),
        ("run.name=2026", "2026"),
        ("run.name=2026-11-23", "2026-11-23"),
        ("run.name=on", "on"),
        ("run.storage=s3://bucket/a=b", "s3://bucket/a=b"),
        ("run.storage= with space ", "with space"),
        ("data.crop_scale=[0.5, 1]", (0.5, 1.0)),
        ("evaluate.gates.floors.twemoji/acc1=0.15", {"twemoji/acc1": 0.15}),
        ("evaluate.gates.floors={a/b: 1, c/d: 0}", {"a/b": 1.0, "c/d": 0.0}),
    ],
)
def test_values_of_overrides(setting: str, value: Any) -> None:
    found: Any = config.load(None, [setting.replace("none", "null")])
    for part in setting.partition("=")[0].split(".")[:3]:
        found = getattr(found, part, found)
    assert found == value


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train.worker=1", "unknown key train.worker; did you mean train.workers?"),
        ("tran.workers=1", "unknown key tran; did you mean train?"),
        ("data.manifst=x", "unknown key data.manifst; did you mean data.manifest?"),
        ("zzz.qqq=1", "unknown key zzz"),
        ("workers", "'workers' is no setting: write section.key=value"),
        ("train.workers=many", "train.workers: should be int|[int, int], but it is 'many'"),
        ("train.workers=[0, 2]", "train.workers: should be int|[int, int], but it is [0, 2]"),
        (
            "train.workers=[3, 1]",
            "train.workers: value error, the first number must not be above the second, but it is [3, 1]",
        ),
        (
            "data.crop_scale=[1, 0.5]",
            "data.crop_scale: value error, the first number must not be above the second, but it is [1, 0.5]",
        ),
        ("train.samples=0", "train.samples: input should be greater than or equal to 1, but it is 0"),
        ("train.learning_rate=inf", "train.learning_rate: input should be a finite number, but it is 'inf'"),
        ("train.precision=fp16", "train.precision: input should be 'fp32' or 'bf16', but it is 'fp16'"),
        ("data.max_bad_fraction=2", "data.max_bad_fraction: input should be less than or equal to 1, but it is 2"),
        ("train=5", "train: input should be a valid dictionary or instance of Train, but it is 5"),
        ("run.name={", "the value of run.name is no valid YAML: {"),
    ],
)
def test_wrong_settings_are_said_in_one_line(setting: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        config.load(None, [setting])
    assert str(caught.value) == message


def test_a_key_below_a_value_is_refused(file: Any) -> None:
    with pytest.raises(InputError, match=r"'run\.name\.x' is no key: name is a value, not a section"):
        config.load(file("run: {name: first}"), ["run.name.x=1"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "train: {wrokers: 1}",
            r"^unknown key train\.wrokers \(config file .*job\.yaml\); did you mean train\.workers\?$",
        ),
        ("train: {seed: x}", r"^train\.seed: [^\n]*, but it is 'x' \(config file .*job\.yaml\)$"),
        ("- a\n- b", "holds no mapping of sections$"),
        ("a: [", r"^the config file .*job\.yaml can't be read: [^\n]+$"),
        ("\tx", r"^the config file .*job\.yaml can't be read: [^\n]+$"),
        (b"\xff\xfe", r"^the config file .*job\.yaml can't be read: [^\n]+$"),
        ("1: 2", r"^1: [^\n]*\(config file .*job\.yaml\)$"),
    ],
)
def test_wrong_files_are_said_in_one_line(file: Any, text: str | bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        config.load(file(text))


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^no config file at .*/none\.yaml$"):
        config.load(str(tmp_path / "none.yaml"))
    with pytest.raises(InputError, match=r"^the config file [^\n]* can't be read: [^\n]+$"):
        config.load(str(tmp_path))


@pytest.mark.parametrize("text", ["", "train:\n", "train:\n  # workers: 2\nevaluate:\n  gates:\n"])
def test_empty_files_and_sections_are_defaults(file: Any, text: str) -> None:
    assert config.load(file(text)) == Config()
    assert config.load(file(text), ["train.workers=2"]).train.workers == 2


@given(
    settings=st.fixed_dictionaries(
        {},
        optional={
            "run.name": st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]*\Z"),
            "run.storage": TEXT,
            "train.workers": st.integers(1, 9) | st.tuples(st.integers(1, 3), st.integers(3, 9)).map(list),
            "train.learning_rate": st.floats(0, 1, exclude_min=True),
            "train.samples": st.none() | st.integers(1, 10**15),
            "data.crop_scale": st.lists(st.floats(0, 1), min_size=2, max_size=2).map(sorted),
            "evaluate.gates": st.dictionaries(TEXT, st.floats(0, 1)).map(lambda floors: {"floors": floors}),
        },
    )
)
def test_what_is_dumped_loads_to_an_equal_tree(tmp_path_factory: pytest.TempPathFactory, settings: Any) -> None:
    tree: dict[str, Any] = {}
    for key, value in settings.items():
        section, name = key.split(".")
        tree.setdefault(section, {})[name] = value
    whole = Config.model_validate(tree)
    path = tmp_path_factory.getbasetemp() / "dumped.yaml"
    path.write_text(config.dump(whole), encoding="utf-8")
    assert config.load(str(path)) == whole


@pytest.mark.parametrize(("key", "kind", "default", "text"), ROWS, ids=KEYS)
def test_every_key_is_described(key: str, kind: str, default: str, text: str) -> None:
    assert text
    assert "\n" not in text + kind + default
    assert "typing" not in kind
    assert "Annotated" not in kind


def test_every_value_of_the_tree_has_a_key() -> None:
    def names(value: BaseModel, prefix: str = "") -> list[str]:
        found = []
        for name, inner in value:
            found += names(inner, f"{prefix}{name}.") if isinstance(inner, BaseModel) else [prefix + name]
        return found

    assert names(Config()) == KEYS


def test_every_section_says_what_it_is() -> None:
    for name, field in Config.model_fields.items():
        assert isinstance(field.annotation, type)
        assert field.annotation.__doc__, name


def test_a_tree_does_not_change() -> None:
    with pytest.raises(ValidationError):
        Config().run.name = "other"  # type: ignore[misc]


def test_what_is_required_is_named() -> None:
    tree = config.load(None, ["run.name=x"])
    config.require(tree, "run.name", "run.storage", "evaluate.gates.max_regression")
    with pytest.raises(InputError, match=r"^data\.manifest is not set: .*data\.manifest=VALUE$"):
        config.require(tree, "run.name", "data.manifest", "evaluate.model")


def test_the_nearest_word() -> None:
    assert config.nearest("ViT-B32", ["RN50", "ViT-B-32"]) == "; did you mean ViT-B-32?"
    assert config.nearest("zzz", ["RN50", "ViT-B-32"]) == ""
