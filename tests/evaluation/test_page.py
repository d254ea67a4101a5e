"""The report in a real browser, light and dark, wide and narrow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import browser
import protocols
from cliploom.evaluation import gates, output, report
from cliploom.evaluation.model import Model
from cliploom.settings.registry import Gates

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(browser.CHROMIUM is None, reason="there is no Chromium: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def page(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with every section that there is."""
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        protocols.without_ray(patch)
        outcome = protocols.everything(folder, model)
    rows = [{**row, "value": 0.5, "low": 0.4, "high": 0.6} for row in outcome.rows]
    champion = report.Champion("mu version 2", rows)
    output.write(outcome, gates.judge(outcome.rows, Gates(), rows), champion, folder)
    return folder / "report.html"


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_and_can_be_read(page: Path, width: int, scheme: browser.Scheme) -> None:
    found = browser.measure(page, width, scheme)
    assert found["width"] == width
    assert found["dark"] == (scheme == "dark")
    assert found["console"] == []
    assert found["overflow"] <= 0, found["wide"]
    assert found["wide"] == [], "what is wider than the page scrolls by itself"
    assert found["images"] > 20
    assert found["broken"] == 0
    assert found["unnamed"] == 0
    assert found["figures"] >= 4
    assert found["contrasts"][0][0] >= 4.5, found["contrasts"]


def test_light_is_light_and_dark_is_dark(page: Path, tmp_path: Path) -> None:
    means = {}
    for scheme in ("light", "dark"):
        to = tmp_path / f"{scheme}.png"
        browser.screenshot(page, to, 800, 900, scheme)
        with Image.open(to) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 100, "something is drawn"
        means[scheme] = pixels.mean()
    assert means["light"] > 200
    assert means["dark"] < 60
