"""Decide which version of the model is used."""

from __future__ import annotations

import getpass
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cliploom import job
from cliploom.config import Config, require
from cliploom.errors import InputError

if TYPE_CHECKING:
    from cliploom.registry.viewing import View

USAGE = (
    "list | show VERSION | compare VERSION VERSION | history | "
    "approve VERSION [WHY ...] | reject VERSION [WHY ...] | rollback WHY ..."
)
OPTIONS = {"--override": "review.override", "--html": "review.html"}


def main(config: Config, words: list[str]) -> None:
    """Review the versions of registry.model_name: list, show and compare them, approve or reject one, or roll back.

    VERSION is a number or an alias (candidate, champion, previous). `list` puts each version's metrics beside the
    champion's: a difference with `~` is within overlapping 95 % intervals. `approve` makes a version the champion, and
    the champion before it `previous`; one that has not passed its evaluation needs --override and a reason. `rollback`
    makes `previous` the champion again. `history` shows who decided what, when and why. --html FILE writes a page in
    place of a table.
    """
    require(config, "registry.model_name")
    from cliploom import registry
    from cliploom.registry import viewing

    uri, name = registry.store_uri(config), str(config.registry.model_name)
    registry.check(uri)
    registry.check_model(uri, name)
    match words:
        case ["list"]:
            _present(config, viewing.listing(uri, name))
        case ["show", word]:
            _present(config, viewing.showing(uri, name, word))
        case ["compare", word, other]:
            _present(config, viewing.comparing(uri, name, word, other))
        case ["history"]:
            _present(config, viewing.telling(uri, name))
        case ["approve" | "reject", _, *_] | ["rollback", *_]:
            _decide(config, uri, name, words)
        case _:
            raise InputError(f"'{' '.join(words)}' is no review: write {USAGE}")


def _present(config: Config, view: View) -> None:
    """Print what was asked for, or write it as a page."""
    from rich.console import Console

    if config.review.html is None:
        Console(soft_wrap=False).print(view.terminal())
        return
    Path(config.review.html).write_text(view.page(), encoding="utf-8")
    print(f"page     {config.review.html}")


def _decide(config: Config, uri: str, name: str, words: list[str]) -> None:
    from cliploom.registry import history, review, viewing

    seen = history.read(uri, name)
    by = config.review.by or getpass.getuser()
    verb, *rest = words
    if verb == "rollback":
        back = review.rollback(uri, name, by, " ".join(rest) or config.review.why, seen)
        print(f"{back.uri} is the champion again")
        return
    one, why = viewing.find(uri, name, rest[0]), " ".join(rest[1:]) or config.review.why
    if verb == "approve":
        review.approve(uri, one, by, why, config.review.override, seen)
        print(f"{one.uri} is the champion now")
    else:
        review.reject(uri, one, by, why, seen)
        print(f"{one.uri} is rejected")


if __name__ == "__main__":
    sys.exit(job.run(main, USAGE, options=OPTIONS))
