"""The next settings by Optuna's tree-structured Parzen estimator (Bergstra et al. 2011)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cliploom.search.space import Settings, Space, draw
from cliploom.settings.search import Span

_RANDOM = 4  # trials before there is something to learn from


def propose(space: Space, seed: int, number: int, known: Sequence[tuple[Settings, float]]) -> Settings:
    """The settings of trial `number`: a function of the arguments, so that nothing but the records is to be kept.

    Args:
        space: searched.
        seed: of the search.
        number: of the trial.
        known: settings and loss of the trials that have ended.
    """
    if len(known) < _RANDOM:
        return draw(space, seed, number)
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {key: _distribution(domain) for key, domain in space.items()}
    seeded = int(np.random.default_rng([seed, number]).integers(2**31))
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(n_startup_trials=_RANDOM, seed=seeded))
    for settings, loss in known:
        study.add_trial(optuna.trial.create_trial(params=settings, distributions=distributions, value=loss))
    return dict(study.ask(distributions).params)


def _distribution(domain: Any) -> Any:
    from optuna import distributions as d

    if not isinstance(domain, Span):
        return d.CategoricalDistribution(domain)
    if domain.whole:
        return d.IntDistribution(int(domain.low), int(domain.high), log=domain.log)
    return d.FloatDistribution(domain.low, domain.high, log=domain.log)
