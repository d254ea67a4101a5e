"""An evaluation with everything in it, on pictures of noise around a colour."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import evaluation_sets as sets
from cliploom.evaluation import features, run, suite
from cliploom.evaluation.features import Pictures
from cliploom.evaluation.model import Model
from cliploom.settings.evaluation import Evaluate, EvaluateOverlap

_SUITE = """
- {dataset: colours, tasks: [zeroshot_classification, linear_probe, few_shot], samples: 61, paper: CIFAR10}
- {dataset: shifted, tasks: [zeroshot_classification], shift_of: colours}
- {dataset: people, tasks: [zeroshot_classification, linear_probe], attributes: [age], metrics: [acc1]}
- {dataset: pairs, tasks: [zeroshot_retrieval], caption_prompt: "a photo of {c}"}
"""


def without_ray(patch: pytest.MonkeyPatch) -> None:
    """Extraction runs its stages one after another in this process."""
    patch.setattr(features, "extract", features.extract_here)


def everything(folder: Path, model: Model) -> run.Outcome:
    """Sets to classify, of which one is a shift of another and one has groups, and one to retrieve from.

    Half of the first one's pictures are in the training shard.
    """
    sets.classification(folder / "colours", samples=60, shards=2)
    sets.classification(folder / "colours", samples=90, shards=2, split="train", first=1000)
    sets.retrieval(folder / "pairs")
    _shifted(folder / "shifted")
    _people(folder / "people")
    (folder / "references.csv").write_text("model,colours/shifted,shifted\na,0.3,0.2\nb,0.5,0.4\nc,0.7,0.55\n")
    pairs = [{f"{n}.png": sets.encoded(sets.picture(n)), f"{n}.txt": b"a picture"} for n in range(30)]
    sets.write_tar(folder / "pairs.tar", {k: v for pair in pairs for k, v in pair.items()})
    (folder / "small.yaml").write_text(_SUITE)
    found = suite.load(str(folder / "small.yaml"))
    overlap = EvaluateOverlap(min_likeness=0.999)  # the pictures are noise: what is alike is the same
    settings = Evaluate(batch_size=16, references=str(folder / "references.csv"), overlap=overlap)
    training = [Pictures(str(folder / "pairs.tar"), "pictures-1")]
    opened = run.open_suite(found, str(folder))
    return run.evaluate(found, opened, model, training, str(folder / "features"), settings, 0.1)


def _shifted(root: Path) -> None:
    files = {}
    for number in range(40):
        files[f"{number}.png"] = sets.encoded(sets.picture(number))
        files[f"{number}.cls"] = b"%d" % (number % 3)
    sets.write_layout(root, [files], names=["red", "green", "other"])
    (root / "base_classnames.txt").write_text("red\ngreen\nblue\twhite\n")


def _people(root: Path) -> None:
    """With one sample that is broken, and a class that is nobody's."""
    for split in ("test", "train"):
        files = {"broken.png": b"no picture", "broken.cls": b"0"} if split == "test" else {}
        for number in range(40):
            files[f"{number}.png"] = sets.encoded(sets.picture(number + 2000))
            files[f"{number}.cls"] = b"%d" % (number % 3)
            files[f"{number}.json"] = json.dumps({"age": "young" if number % 2 else "old"}).encode()
        sets.write_layout(root, [files], names=["red", "green", "blue", "nobody"], split=split)
