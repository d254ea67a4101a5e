"""Decide which version of the model is used."""

from __future__ import annotations

import getpass
import sys

from cliploom import job
from cliploom.config import Config, require
from cliploom.errors import InputError

USAGE = "list | show VERSION | compare VERSION VERSION | approve VERSION [WHY ...] | reject VERSION [WHY ...]"


def main(config: Config, words: list[str]) -> None:
    """Review the versions of registry.model_name: list, show and compare them, approve or reject one.

    VERSION is a number or an alias (candidate, champion, previous). `list` puts each version's metrics beside the
    champion's: a difference with `~` is within overlapping 95 % intervals. `approve` makes a version the champion, and
    the champion before it `previous`; one that has not passed its evaluation needs review.override=true and a reason.
    """
    require(config, "registry.model_name")
    from rich.console import Console

    from cliploom import registry
    from cliploom.registry import review, tables

    uri, name = registry.store_uri(config), str(config.registry.model_name)

    def version(word: str) -> registry.Version:
        return registry.resolve(uri, f"models:/{name}/{word}" if word.isdigit() else f"models:/{name}@{word}")

    registry.check(uri)
    console = Console(soft_wrap=False)
    by = config.review.by or getpass.getuser()
    match words:
        case ["list"]:
            known = registry.versions(uri, name)
            results = {v.version: registry.results(uri, v) for v in known}
            console.print(tables.version_list(known, results, registry.champion(uri, name)))
        case ["show", word]:
            one, champion = version(word), registry.champion(uri, name)
            reference = registry.results(uri, champion) if champion else []
            console.print(tables.version_page(one, registry.results(uri, one), champion, reference))
        case ["compare", word, other]:
            first, second = version(word), version(other)
            compared = review.compare(registry.results(uri, first), registry.results(uri, second))
            console.print(tables.comparison(first, second, compared))
        case ["approve", word, *why]:
            one = version(word)
            review.approve(uri, one, by, " ".join(why) or config.review.why, config.review.override)
            console.print(f"{one.uri} is the champion now")
        case ["reject", word, *why]:
            one = version(word)
            review.reject(uri, one, by, " ".join(why) or config.review.why)
            console.print(f"{one.uri} is rejected")
        case _:
            raise InputError(f"'{' '.join(words)}' is no review: write {USAGE}")


if __name__ == "__main__":
    sys.exit(job.run(main, USAGE))
