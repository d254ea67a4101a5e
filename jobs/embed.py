"""Embed many images by a registered model."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from cliploom import job
from cliploom.config import Config, require


def main(config: Config, _: list[str]) -> None:
    """Embed every image of embed.source by embed.model, and keep the embeddings below embed.output as parquet.

    The source is a manifest (or shards' tars), or a folder of image files. A job that was stopped goes on with the
    shards that are missing; so does one whose source has grown.
    """
    require(config, "embed.model", "embed.source", "embed.output")
    from cliploom import storage
    from cliploom.cluster import connect
    from cliploom.embedding import sources
    from cliploom.embedding.store import MODEL, EmbeddingStore
    from cliploom.evaluation import features
    from cliploom.evaluation import model as models
    from cliploom.progress import Progress

    source, output = storage.absolute(str(config.embed.source)), storage.absolute(str(config.embed.output))
    found = sources.find(source)
    storage.check(output, "embed.output")
    with tempfile.TemporaryDirectory() as temporary:
        weights, name, version, tracking = _weights(config, Path(temporary))
        job.header(config.run.name or storage.name(output), output, tracking)
        # First aside: another model's embeddings that are there must keep theirs.
        model = models.publish(weights, str(Path(temporary, "aside")), name, version)
        store = EmbeddingStore(output, model, {one.digest: sources.place(one) for one in found})
        model = models.publish(weights, storage.join(output, MODEL), name, version)
    with connect(config.ray), Progress("shards", len(found)) as progress:
        done = features.extract(
            found, store, model, config.embed, lambda done: progress.update(done.sources, f"{done.images:,} images")
        )
    parts = store.finish(source, [one.digest for one in found])
    print(f"embedded {sum(part.rows for part in parts):,} images, {done.images:,} of them now")
    print(f"broken   {sum(len(part.broken) for part in parts):,} images")


def _weights(config: Config, folder: Path) -> tuple[Path, str, int | None, str]:
    """Where the weights are, the model's name and version, and its MLflow run for the header."""
    from cliploom import registry
    from cliploom.errors import InputError

    model = str(config.embed.model)
    if not model.startswith("models:/"):
        if not Path(model).exists():
            raise InputError(f"embed.model: there is no {model}: write models:/NAME@ALIAS or a path of weights")
        return Path(model), Path(model).stem, None, "none, the model is a file"
    uri = registry.store_uri(config)
    registry.check(uri)
    version = registry.resolve(uri, model)
    tracking = registry.Tracker.attach(uri, version.run_id).url
    return registry.download(uri, version, folder), version.name, version.version, tracking


if __name__ == "__main__":
    sys.exit(job.run(main))
