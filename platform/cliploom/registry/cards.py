"""The model card: what a reviewer reads first about a version, as Markdown; MLflow shows it as its description.

After Mitchell et al. 2019, *Model Cards for Model Reporting*.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from cliploom.config import Config

LIMIT = 5000  # characters of a description in MLflow's schema
_RESULTS = "## Results\n"
_ROOM = 1000  # characters kept for results
_INTENDED = """\
Embeddings of images and English texts in one space: retrieval, zero-shot classification and further training.
Not evaluated for decisions about people; what the training pairs lack or distort, the model does too."""


def card(config: Config, tags: Mapping[str, str], results: Sequence[Mapping[str, Any]] = ()) -> str:
    """The card of a version, at most `LIMIT` characters.

    Args:
        config: that it was trained with.
        tags: of the version, from `version_tags`.
        results: rows of its evaluation.
    """
    recipe = {name: getattr(config, name).model_dump(mode="json") for name in ("model", "objective", "data", "train")}
    set_ = {name: {key: value for key, value in part.items() if value is not None} for name, part in recipe.items()}
    stack = ", ".join(
        f"{key.removeprefix('stack.')} {value}" for key, value in tags.items() if key.startswith("stack.")
    )
    text = "\n".join(
        [
            f"# {config.registry.model_name or config.run.name or config.model.name}",
            "",
            f"{config.model.name}, trained with the {config.objective.name} objective "
            f"on {int(tags['samples_seen']):,} image-text pairs (repeats counted).",
            "",
            "## Intended use",
            _INTENDED,
            "",
            "## Provenance",
            f"- data: `{config.data.manifest}`, fingerprint `{tags['data_fingerprint']}`",
            f"- licences of the data: {config.data.licences or 'not stated'}",
            f"- code: commit `{tags['git_commit']}`",
            f"- stack: {stack}",
            "",
            "## Recipe",
            "```yaml",
            yaml.safe_dump(set_, sort_keys=False, default_flow_style=None, width=60).rstrip(),
            "```",
            "",
            _RESULTS,
        ]
    )
    return with_results(text, results)


def with_results(text: str, results: Sequence[Mapping[str, Any]], outcome: str = "") -> str:
    """The card `text` with the section of results made anew, cut to `LIMIT`.

    Args:
        text: a card, or any description; a section of results in it is replaced.
        results: rows {dataset, metric, value, low, high, chance, samples, ...}, shares of 1.
        outcome: a sentence on top of the table.
    """
    head = text.partition(_RESULTS)[0].rstrip()[: LIMIT - _ROOM] + "\n\n" + _RESULTS
    lines = [outcome, ""] if outcome else []
    if results:
        lines += ["| dataset | metric | % [95 %] | chance | samples |", "|---|---|---|---|---|"]
        lines += [_row(row) for row in results]
    return _cut(head, lines or ["None yet."])


def _row(row: Mapping[str, Any]) -> str:
    share = f"{100 * row['value']:.1f} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"
    chance = f"{100 * row['chance']:.2g}" if "chance" in row else ""
    return f"| {row['dataset']} | {row['metric']} | {share} | {chance} | {row['samples']:,} |"


def _cut(head: str, lines: Iterable[str]) -> str:
    """`head` and as many lines as fit, with a word where some don't."""
    note = "\n\nMore in results.json of the run."
    for line in lines:
        if len(head) + 1 + len(line) + len(note) > LIMIT:
            return head + note
        head += "\n" + line
    return head
