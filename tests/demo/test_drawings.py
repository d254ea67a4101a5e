from __future__ import annotations

import numpy as np
import pytest

from cliploom.demo import drawings

CIRCLE = '<circle cx="8" cy="8" r="6" fill="{}"/>'


def render(body: str, **size: float) -> np.ndarray:
    icons = {"icons": {"x": {"body": body, **size}}, "width": 16, "height": 16}
    [png] = drawings.draw([drawings.svg(icons, "x")])
    return drawings.pixels(png)


def test_an_icon_is_drawn_on_white_and_in_its_colours() -> None:
    image = render(CIRCLE.format("#1060c0"))
    assert image.shape == (drawings.SIZE, drawings.SIZE, 3)
    assert image[0, 0].tolist() == [255, 255, 255]
    assert image[32, 32].tolist() == [0x10, 0x60, 0xC0]


def test_an_oblong_icon_is_centred_and_keeps_its_proportions() -> None:
    image = render('<path fill="#000" d="M0 0h16v8H0z"/>', height=8)
    rows = np.flatnonzero((image[:, 32] == 0).all(axis=1))
    assert (rows.min(), rows.max()) == (16, 47)


def test_difference_hash_is_the_sign_of_neighbours_in_a_thumbnail() -> None:
    ramp = np.linspace(255, 0, 72).astype(np.uint8)
    falling = np.broadcast_to(ramp[None, :, None], (64, 72, 3)).copy()
    assert drawings.difference_hash(falling) == 2**64 - 1
    assert drawings.difference_hash(falling[:, ::-1].copy()) == 0


def pairs(one: np.ndarray, other: np.ndarray) -> list[tuple[int, int]]:
    return sorted(set(drawings.same_drawings(one[None], other[None])))


def test_small_changes_leave_a_drawing_the_same() -> None:
    image = render(CIRCLE.format("#d02020"))
    shifted = render('<circle cx="8.1" cy="8" r="5.9" fill="#d42424"/>')
    noisy = np.clip(image + np.random.default_rng(0).normal(0, 4, image.shape), 0, 255).astype(np.uint8)
    assert pairs(image, image) == pairs(image, shifted) == pairs(image, noisy) == [(0, 0)]


def test_the_same_shape_in_another_colour_is_the_same_drawing() -> None:
    assert pairs(render(CIRCLE.format("#d02020")), render(CIRCLE.format("#2020d0"))) == [(0, 0)]


def test_other_drawings_are_others() -> None:
    square = '<path fill="#d02020" d="M2 2h5v12H2z"/>'
    assert pairs(render(CIRCLE.format("#d02020")), render(square)) == []


@pytest.mark.parametrize("seed", range(3))
def test_the_shortcut_by_averages_misses_nothing(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawings, "NEAR_BITS", 64)  # all are candidates
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 256, (3, drawings.SIZE, drawings.SIZE, 3))
    noise = rng.normal(0, 1, (12, *base.shape[1:])) * rng.uniform(0, 20, (12, 1, 1, 1))
    others = np.clip(base[rng.integers(0, 3, 12)] + noise, 0, 255).astype(np.uint8)
    these = base.astype(np.uint8)
    expected = {
        (i, j)
        for i, one in enumerate(these)
        for j, other in enumerate(others)
        if drawings.difference(one, other) < drawings.NEAR_DIFFERENCE
        or drawings.difference_hash(one) == drawings.difference_hash(other)
    }
    assert 0 < len(expected) < 36
    assert set(drawings.same_drawings(these, others)) == expected
