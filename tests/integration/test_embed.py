"""The jobs `embed` and `retrieve` on a real Ray cluster."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jobs import embed, retrieve
from torch.nn import functional as F

import pairs
from cliploom import job
from cliploom.data.transforms import Preprocess, open_image
from cliploom.embedding import search, store
from cliploom.models import weights

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray")]


@pytest.fixture
def run(model: Path) -> Callable[..., int]:
    def start(source: str | Path, output: str | Path, **settings: Any) -> int:
        given = {"embed.model": model, "embed.source": source, "embed.output": output, "embed.batch_size": 8}
        given |= {"embed.cpus_per_worker": 0.7} | {key.replace("__", "."): value for key, value in settings.items()}
        return job.run(embed.main, argv=[f"{key}={value}" for key, value in given.items()])

    return start


def plain(model: Path, pictures: list[bytes]) -> np.ndarray:
    """What a plain loop makes of pictures."""
    network, preprocess = weights.load(model).eval(), Preprocess(32)
    with torch.inference_mode():
        rows = [network.encode_image(preprocess(open_image(picture))[None])[0] for picture in pictures]
        return F.normalize(torch.stack(rows), dim=-1).numpy()


def test_a_manifest_becomes_embeddings_and_goes_on(
    run: Callable[..., int], model: Path, s3: Callable[[], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri, output = pairs.write(tmp_path / "shards", shards=3, samples=20), tmp_path / "embeddings"
    assert run(uri, output) == 0
    assert "embedded 60 images, 60 of them now" in capsys.readouterr().out
    found = store.load(str(output))
    kinds = [(colour, shape) for colour in pairs.COLOURS for shape in pairs.SHAPES]
    drawn = [pairs.draw(*kinds[number % len(kinds)], 48 + number % 20 % 5) for number in range(60)]
    order = [found.keys.index(f"{number // 20:05d}{number % 20:04d}") for number in range(60)]
    np.testing.assert_allclose(found.vectors[order], plain(model, drawn), atol=1e-5)

    parts = sorted(output.glob("part-*"))
    times = {part: part.stat().st_mtime_ns for part in parts}
    parts[1].unlink()  # as if the job had been killed before
    (output / store.MANIFEST).unlink()
    assert run(uri, output) == 0
    assert "embedded 60 images, 20 of them now" in capsys.readouterr().out
    assert [part for part in parts if part.stat().st_mtime_ns != times[part]] == [parts[1]]

    page = tmp_path / "sheet.html"
    (tmp_path / "asked.png").write_bytes(drawn[7])
    arguments = ["--image", str(tmp_path / "asked.png"), "--html", str(page), "retrieve.count=3"]
    arguments.append(f"retrieve.embeddings={output}")
    assert job.run(retrieve.main, retrieve.USAGE, arguments, retrieve.OPTIONS) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:2] == ["1", "1.000"]
    assert page.read_text().count("data:image/webp") == 4
    hit = search.nearest(found.vectors, search.embed_query(found, "a red ellipse", None), 1)[0]
    assert -1 <= hit.cosine <= 1

    assert job.run(retrieve.main, retrieve.USAGE, [f"retrieve.embeddings={output}"], retrieve.OPTIONS) == 2
    file = output / "model" / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x7f")
    arguments = ["a", "cat", f"retrieve.embeddings={output}"]
    assert job.run(retrieve.main, retrieve.USAGE, arguments, retrieve.OPTIONS) == 2
    assert "is not the model that made the embeddings" in capsys.readouterr().err


def test_a_folder_of_files_to_s3_with_a_broken_one(
    run: Callable[..., int], model: Path, s3: Callable[[], str], tmp_path: Path
) -> None:
    drawn = [pairs.draw(colour, "ellipse", 50) for colour in pairs.COLOURS]
    (tmp_path / "files").mkdir()
    for number, data in enumerate(drawn):
        (tmp_path / "files" / f"{number}.png").write_bytes(data)
    (tmp_path / "files" / "broken.jpg").write_bytes(b"no picture")
    output = f"{s3()}/embeddings"
    assert run(tmp_path / "files", output) == 0
    found = store.load(output)
    assert [Path(key).name for key in found.keys] == [f"{number}.png" for number in range(8)]
    np.testing.assert_allclose(found.vectors, plain(model, drawn), atol=1e-5)
    told = json.loads(store.storage.read(f"{output}/embeddings.json"))
    assert [Path(key).name for key, _ in told["parts"][0]["broken"]] == ["broken.jpg"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"embed__workers": 64}, "embed.workers=64 and a decoding task need 45.3 CPUs, the Ray cluster has"),
        ({"embed__model": "nowhere.pt"}, "embed.model: there is no nowhere.pt"),
        ({"embed__source": "nowhere"}, "there is no manifest at"),
    ],
)
def test_wrong_input_is_answered_in_one_line(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], settings: dict[str, Any], message: str
) -> None:
    uri = pairs.write(tmp_path / "shards", shards=1, samples=2)
    assert run(uri, tmp_path / "embeddings", **settings) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
