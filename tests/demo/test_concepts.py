from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest

from cliploom.demo.concepts import Concept, Names, captions, held_out

TONE = "medium-dark skin tone"


def concept(label: str, subgroup: str = "person-sport", tags: tuple[str, ...] = ()) -> Concept:
    return Concept(label, tags, "people-body", subgroup)


@pytest.mark.parametrize(
    "variants",
    [
        ["person running", "man running", f"woman running: {TONE}", f"man running: {TONE}, facing right"],
        ["teacher", "man teacher", f"woman teacher: {TONE}"],
        ["kiss", "kiss: woman, man", f"kiss: person, person, {TONE}, light skin tone"],
        ["people holding hands", "women holding hands", f"woman and man holding hands: {TONE}"],
        ["family", "family: man, woman, girl, boy"],
        ["Santa Claus", "Mrs. Claus", f"Mx Claus: {TONE}"],
        ["man: beard", f"woman: {TONE}, beard"],
        ["old man", "older person", f"old woman: {TONE}"],
        ["merperson", "mermaid", "merman"],
        ["person", "man", f"woman: {TONE}"],
    ],
)
def test_variants_of_a_concept_are_one_family(variants: list[str]) -> None:
    assert len({concept(label).family for label in variants}) == 1


def test_what_differs_in_more_is_another_family() -> None:
    labels = [
        "flag: Chad",
        "flag: Romania",
        "kiss",
        "kiss mark",
        "keycap: 1",
        "keycap: 2",
        "man",
        "boy",
        "person running",
    ]
    assert len({concept(label).family for label in labels}) == len(labels)


def test_names_are_found_by_code_point_label_and_other_names() -> None:
    emoji: list[dict[str, Any]] = [
        {"label": "regional indicator A", "hexcode": "1F1E6"},
        {"label": "flag: Côte d’Ivoire", "hexcode": "1F1E8-1F1EE", "group": 9, "subgroup": 98, "tags": ["CI"]},
        {
            "label": "waving hand",
            "hexcode": "1F44B",
            "group": 1,
            "subgroup": 16,
            "tags": ["hello"],
            "skins": [{"label": "waving hand: dark skin tone", "hexcode": "1F44B-1F3FF"}],
        },
        {"label": "spade suit", "hexcode": "2660", "group": 6, "subgroup": 63},
    ]
    groups = {"groups": {"9": "flags", "1": "people", "6": "games"}, "subgroups": {"98": "f", "16": "h", "63": "g"}}
    names = Names(emoji, groups, {"2660": "BLACK SPADE SUIT"})
    assert len(names.concepts) == 4
    hand = Concept("waving hand", ("hello",), "people", "h")
    assert names.of_code("1f44b-fe0f") == names.of_name("waving-hand") == names.of_name("waving-hand-2") == hand
    dark = names.of_code("1f44b-1f3ff")
    assert dark is not None
    assert (dark.label, dark.tags) == ("waving hand: dark skin tone", ("hello",))
    assert names.of_name("waving-hand-dark-skin-tone") == dark
    assert names.of_name("flag-for-cote-d-ivoire") == names.of_code("1f1e8-1f1ee")
    assert names.of_name("blackspadesuit") == names.of_code("2660")
    assert names.of_name("regional-indicator-a") is None
    names.add_name("2660", "waving-hand")  # a label is nobody else's name
    assert names.of_name("waving-hand") == hand
    names.add_name("2660", "card")
    names.add_name("1f44b", "card")
    assert names.of_name("card") is None  # not clear


def test_held_out_is_a_tenth_of_the_families_and_leaves_each_subgroup_most() -> None:
    concepts = [concept(f"thing {i}-{j}", f"subgroup {i}") for i in range(40) for j in range(1 + i)]
    tones = [concept(f"{one.label}: {TONE}", one.subgroup) for one in concepts]
    chosen = held_out(concepts)
    assert chosen == held_out(reversed(concepts + tones))
    assert len(chosen) == pytest.approx(0.1 * len(concepts), abs=2)
    of_subgroup = defaultdict(list)
    for one in concepts:
        of_subgroup[one.subgroup].append(one.family in chosen)
    assert all(sum(flags) <= len(flags) / 4 for flags in of_subgroup.values())
    assert all(sum(flags) >= 1 for flags in of_subgroup.values() if len(flags) >= 20)


def test_captions_begin_with_the_label_and_tell_what_it_does_not() -> None:
    texts = captions(concept("grinning face", tags=("face", "happy", "smile")))
    assert texts == ["grinning face", "an emoji of grinning face", "grinning face: happy, smile"]
    assert captions(concept("dog", tags=("dog",))) == ["dog", "an emoji of dog"]
