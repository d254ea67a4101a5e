"""Which part may import which: the rules that keep the stages apart."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "platform" / "cliploom"
FILES = sorted(PACKAGE.rglob("*.py"))

# A stage may import those before it, never those after it; what stands in one tuple, not each other.
STAGES = [
    ("data",),
    ("models",),
    ("objectives",),
    ("training",),
    ("registry",),
    ("evaluation",),
    ("embedding",),
    ("search",),
    ("planning",),
    ("demo",),
]
RANK = {name: rank for rank, names in enumerate(STAGES) for name in names}

# Who alone imports these packages, at the top or inside of functions.
ONLY_IN = {
    "ray": {
        "cluster.py",
        "pools.py",
        "data/executor.py",
        "data/runner.py",
        "data/stream.py",
        "training/trainer.py",
        "training/exporter.py",
        "evaluation/checks.py",
        "search/tuner.py",
        "evaluation/features.py",
    },
    "deepspeed": {"training/engine.py"},
    "mlflow": {"registry"},
    "boto3": {"s3.py"},
    "botocore": {"s3.py"},
    "pyarrow.fs": {"storage.py"},
    "optuna": {"search/tpe.py"},
    "pyarrow.dataset": set[str](),
    "jinja2": {"pages.py"},
    "tokenizers": {"data/tokenizer.py", "data/vocabulary.py"},
    "PIL": {"data", "embedding", "evaluation", "demo", "registry/package.py", "registry/model.py"},
}

# What runs without Ray, MLflow or a cluster.
TORCH_ALONE = {"models", "objectives", "training/step.py"}
BESIDE_TORCH = {"torch", "numpy", "safetensors"}


def name(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def stage(path: Path) -> str:
    return name(path).split("/")[0]


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, at its top or inside of functions; not those for the type checker alone."""
    todo: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            todo += node.orelse
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        todo += ast.iter_child_nodes(node)


def imported_stage(module: str) -> str:
    return module.split(".")[1] if module.startswith("cliploom.") else ""


def is_in(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def test_imports_are_found_wherever_they_stand(tmp_path: Path) -> None:
    (tmp_path / "file.py").write_text(
        "from typing import TYPE_CHECKING\nimport a.b\nif TYPE_CHECKING:\n    import c\n"
        "def f():\n    from d import e\n    if f:\n        import g as h\n"
    )
    assert set(imports(tmp_path / "file.py")) == {"typing.TYPE_CHECKING", "a.b", "d.e", "g"}


def test_heavy_packages_have_their_place() -> None:
    wrong = [
        f"{name(path)} imports {module}"
        for path in FILES
        for module in imports(path)
        for package, places in ONLY_IN.items()
        if is_in(module, package) and not {name(path), stage(path)} & places
    ]
    assert wrong == []


def test_no_stage_imports_a_later_one() -> None:
    wrong = []
    for path in FILES:
        for module in imports(path):
            own, other = stage(path), imported_stage(module)
            if own in RANK and other in RANK and own != other and RANK[other] >= RANK[own]:
                wrong.append(f"{name(path)} imports {module}")
    assert wrong == []


def test_the_foundation_imports_no_stage() -> None:
    foundation = ("errors.py", "allocator.py", "config.py", "s3.py", "storage.py", "job.py", "cluster.py", "pools.py")
    for path in (*(PACKAGE / name for name in foundation), *(PACKAGE / "settings").glob("*.py")):
        assert [module for module in imports(path) if imported_stage(module) in RANK] == []


def test_models_objectives_and_the_step_run_on_torch_alone() -> None:
    for path in (path for path in FILES if {name(path), stage(path)} & TORCH_ALONE):
        roots = {module.split(".")[0] for module in imports(path)} - sys.stdlib_module_names - {"cliploom"}
        assert roots <= BESIDE_TORCH, f"{name(path)} imports {roots - BESIDE_TORCH}"


def test_loading_a_model_imports_no_cluster() -> None:
    """The rule above, with what is imported by way of other modules."""
    code = "import sys, cliploom.models, cliploom.objectives, cliploom.training.step; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "torch" in loaded
    assert not {"ray", "mlflow", "deepspeed", "boto3", "pyarrow"} & set(loaded)


def test_platform_is_no_package() -> None:
    """It would take the place of Python's own module `platform`, and break Ray, pip and pytest."""
    assert not (ROOT / "platform" / "__init__.py").exists()


def test_files_stay_short() -> None:
    paths = [*FILES, *(path for folder in ("jobs", "tests", "cluster") for path in (ROOT / folder).rglob("*.py"))]
    assert [str(path) for path in paths if len(path.read_text(encoding="utf-8").splitlines()) > 400] == []


def test_every_module_says_what_it_is_for() -> None:
    assert [name(path) for path in FILES if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))] == []
