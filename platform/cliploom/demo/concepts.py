"""What the pictures show: emoji names and tags (emojibase), and which of them training never sees."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

HELD_OUT_SHARE = 0.1
SEED = "cliploom"
# Words that tell variants of one concept apart: with these replaced, the variants' labels are equal.
_PERSONS = {
    **dict.fromkeys(["man", "woman", "men", "women", "people", "mx", "mr", "mrs"], "person"),
    **dict.fromkeys(["boy", "girl"], "child"),
    **dict.fromkeys(["prince", "princess"], "royal"),
    **dict.fromkeys(["mermaid", "merman"], "merperson"),
    "older": "old",
    "santa": "person",
}
_GROUPS = re.compile(r"^(?:(family|kiss|couple with heart)|.*(holding hands))(:.*)?$")  # of any people
_TONES = re.compile(r"\b(light|medium-light|medium|medium-dark|dark) skin tone\b,?")


@dataclass(frozen=True)
class Concept:
    """A named thing that is drawn; skin tones and genders are concepts of the same family."""

    label: str
    tags: tuple[str, ...]
    group: str
    subgroup: str

    @property
    def family(self) -> str:
        """What is the same for all variants (skin tone, gender, direction) of a concept."""
        label = _GROUPS.sub(r"\1\2", self.label.lower())
        label = _TONES.sub("", label).removesuffix(" facing right")
        words = [_PERSONS.get(word, word) for word in re.findall(r"[^\W_]+", label)]
        return " ".join(word for word in words if word != "person") or "person"


class Names:
    """Finds the concept that a picture set's code point or file name stands for."""

    def __init__(self, emoji: list[dict[str, Any]], groups: dict[str, Any], unicode_names: dict[str, str]) -> None:
        """From emojibase's data.json, meta/groups.json and meta/unicode-names.json."""
        self._by_code: dict[str, Concept] = {}
        self._by_word: dict[str, set[Concept]] = defaultdict(set)
        for entry in emoji:
            if "subgroup" not in entry:
                continue  # a letter or a skin tone by itself
            for variant in (entry, *entry.get("skins", [])):
                concept = Concept(
                    variant["label"],
                    tuple(entry.get("tags", [])),
                    groups["groups"][str(entry["group"])],
                    groups["subgroups"][str(entry["subgroup"])],
                )
                self._by_code[_code(variant["hexcode"])] = concept
                self._by_word[_word(variant["label"])].add(concept)
        for code, name in unicode_names.items():
            self.add_name(code, name)

    def add_name(self, code: str, name: str) -> None:
        """Learn one more name of the concept with this code point, unless it is a concept's own label."""
        concept = self._by_code.get(_code(code))
        word = _word(name)
        if concept and not any(_word(known.label) == word for known in self._by_word[word]):
            self._by_word[word].add(concept)

    @property
    def concepts(self) -> list[Concept]:
        """All that are known, each once."""
        return list(dict.fromkeys(self._by_code.values()))

    def of_code(self, code: str) -> Concept | None:
        """The concept of a sequence of code points, as `1f468-200d-2695-fe0f`."""
        return self._by_code.get(_code(code))

    def of_name(self, name: str) -> Concept | None:
        """The concept of a file name, where that is clear."""
        found = self._by_word.get(_word(name), set()) or self._by_word.get(
            _word(re.sub(r"-\d$", "", name.replace("flag-for-", "flag-"))), set()
        )
        return next(iter(found)) if len(found) == 1 else None


def held_out(concepts: Iterable[Concept]) -> set[str]:
    """The families that training never sees: HELD_OUT_SHARE of each subgroup's, chosen by hash.

    A subgroup keeps at least one family for training, and gives none where it has fewer than four.
    """
    subgroups: dict[str, set[str]] = defaultdict(set)
    for concept in concepts:
        subgroups[concept.subgroup].add(concept.family)
    chosen: set[str] = set()
    owed = 0.0
    for _, families in sorted(subgroups.items()):
        owed += HELD_OUT_SHARE * len(families)
        count = min(int(owed), len(families) // 4)
        chosen.update(sorted(families, key=_rank)[:count])
        owed -= count
    return chosen


def captions(concept: Concept) -> list[str]:
    """The label first, then sentences with what else is known."""
    texts = [concept.label, f"an emoji of {concept.label}"]
    tags = [tag for tag in concept.tags if tag not in concept.label.lower()]
    if tags:
        texts.append(f"{concept.label}: {', '.join(tags)}")
    return texts


def _rank(family: str) -> bytes:
    return hashlib.sha256(f"{SEED}:{family}".encode()).digest()


def _code(code: str) -> str:
    return "-".join(part for part in code.lower().split("-") if part != "fe0f").lstrip("0")


def _word(name: str) -> str:
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]", "", plain.replace("&", "and"))
