"""What the paper says of its tables comes out of them by the code that judges other models."""

from __future__ import annotations

import numpy as np
import pytest

from cliploom.evaluation import paper

_MODEL = "ViT-L/14@336px"


def test_zero_shot_and_probe_go_together_as_the_paper_says() -> None:
    zero, probe = paper.zeroshot()[_MODEL], paper.linear_probe()[_MODEL]
    assert list(zero) == list(probe)
    found = paper.relate(list(zero), list(zero.values()), list(probe.values()))
    assert found.pearson == pytest.approx(0.82, abs=0.01)
    assert 0.93 < found.slope < 1.79
    assert sorted(found.within) == ["CIFAR10", "Caltech101", "Food101", "OxfordPets", "STL10"]


def test_zero_shot_wins_on_16_of_27_data_sets_over_a_probe_on_resnet50() -> None:
    gains = paper.zeroshot_minus_probe()
    assert (sum(gain > 0 for gain in gains.values()), len(gains)) == (16, 27)
    assert set(gains) == set(paper.zeroshot()[_MODEL])


def test_all_nine_models_have_both_results() -> None:
    assert list(paper.zeroshot()) == list(paper.linear_probe())
    assert len(paper.zeroshot()) == 9
    means = {model: np.mean(list(row.values())) for model, row in paper.linear_probe().items()}
    assert max(means, key=lambda model: means[model]) == _MODEL
