"""The folder of a registered model: what a stock MLflow client needs to load it and predict, without pickles.

It holds the weights (safetensors + JSON), the part of cliploom's source that predicting needs (so that it need not be
installed), the file that MLflow executes (`model.py`), a signature, an example, and the pinned requirements.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import io
import shutil
import tempfile
from pathlib import Path
from typing import Any

import cliploom
from cliploom.data import vocabulary

WEIGHTS = "weights.safetensors"
FILES = (WEIGHTS, "config.json", vocabulary.NAME)  # the last where the model has a vocabulary of its own
FOLDER = "artifacts"  # where MLflow puts them in the model
TEMPLATE = "a photo of a {c}."  # of zero-shot prompts, unless others are asked for
_SOURCE = Path(cliploom.__file__).parent
_CODE = (
    "__init__.py",
    "errors.py",
    "s3.py",
    "storage.py",
    "aside.py",
    "retrying.py",
    "models",
    "data/__init__.py",
    "data/faults.py",
    "data/pieces.py",
    "data/remote.py",
    "data/tokenizer.py",
    "data/transforms.py",
    "data/vocabulary.py",
    "data/clip_vocabulary.bpe",
)
# What that code imports; everything else that cliploom depends on stays out of a server's image.
_REQUIREMENTS = (
    "cykooz.resizer",
    "ftfy",
    "mlflow",
    "numpy",
    "pandas",
    "pillow",
    "regex",
    "safetensors",
    "simplejpeg",
    "tokenizers",
    "torch",
)


def write(
    to: Path, export: Path, run_id: str | None = None, model_id: str | None = None, location: str | None = None
) -> None:
    """Write the MLflow model folder `to`.

    Args:
        to: must not be there.
        export: folder with FILES.
        run_id: the run that trained it.
        model_id: of MLflow's logged model that the folder is for.
        location: URI that the folder will be uploaded to.
    """
    from mlflow import pyfunc
    from mlflow.models import Model

    with tempfile.TemporaryDirectory() as temporary:
        pyfunc.save_model(
            path=str(to),
            mlflow_model=Model(artifact_path=location, run_id=run_id, model_uuid=model_id, model_id=model_id),
            python_model=str(Path(__file__).with_name("model.py")),
            artifacts={name: str(export / name) for name in digests(export)},
            model_config={"digests": digests(export)},
            code_paths=[str(_copy_code(Path(temporary)))],
            signature=_signature(),
            input_example=(_example(), {"normalize": True}),
            pip_requirements=requirements(),
        )
    # MLflow executes the model once, which leaves compiled files behind.
    for folder in to.rglob("__pycache__"):
        shutil.rmtree(folder)


def digests(export: Path) -> dict[str, str]:
    """The SHA-256 of each of FILES that is there, as hexadecimal digits."""
    found = {}
    for name in FILES:
        if (export / name).exists():
            with (export / name).open("rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def requirements() -> list[str]:
    """The packages that the model imports, pinned to what is installed; without the build (`+cpu`) of a version."""
    return [f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in _REQUIREMENTS]


def _copy_code(to: Path) -> Path:
    """Copy what the model runs below `to`; returns the package's folder."""
    for name in _CODE:
        source, target = _SOURCE / name, to / _SOURCE.name / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, target)
    return to / _SOURCE.name


def _signature() -> Any:
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec

    rows = Schema([ColSpec(DataType.string, name, required=False) for name in ("image", "text")])
    embeddings = Schema([TensorSpec(np.dtype("float32"), (-1, -1))])
    params = [
        ParamSpec("normalize", DataType.boolean, default=False),
        ParamSpec("classes", DataType.string, default=[], shape=(-1,)),
        ParamSpec("templates", DataType.string, default=[TEMPLATE], shape=(-1,)),
    ]
    return ModelSignature(rows, embeddings, ParamSchema(params))


def _example() -> Any:
    """A frame with an image and a text."""
    import pandas as pd
    from PIL import Image

    picture = io.BytesIO()
    Image.new("RGB", (32, 32), (200, 30, 30)).save(picture, "PNG")
    return pd.DataFrame(
        {"image": [base64.b64encode(picture.getvalue()).decode(), None], "text": [None, "a red square"]}
    )
