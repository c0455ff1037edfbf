"""Our recipe for one user: from CNN + GRU of Table 2, step by step, to one network and an average of five."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from emgscribe.experiments.recipes.budgets import BUDGETS, SESSIONS, Budget
from emgscribe.experiments.recipes.experiment import Experiment, Suite, by_name
from emgscribe.experiments.recipes.records import RECORDS
from emgscribe.models.augment import SpecAugment
from emgscribe.models.encoders import RecurrentConfig, ResidualCnnConfig
from emgscribe.models.features import StridedConvConfig

_SEEDS = range(1501, 1506)


def _best() -> Iterator[Experiment]:
    """At full size: the best public front end on the raw EMG, convolutions, a BiGRU, and averaged weights.

    `best-causal`, for live use, looks three frames of 24 ms ahead.
    """
    base = RECORDS["records/raw-bigru"]
    cnn = ResidualCnnConfig(widths=(256, 256), kernel=5, lookahead=2, dropout=0.2)
    encoder = RecurrentConfig(base=cnn, hidden=384, dropout=0.5, left=32, right=0)
    train = replace(base.train, epochs=150, ema=0.999, keypress_weight=1.0, blank_prior=0.9)
    single = replace(base, name="best", model=replace(base.model, encoder=encoder), train=train)
    yield single
    yield replace(single, name="best-ensemble", start="best", ensemble=len(_SEEDS))
    causal = replace(encoder.streaming(), base=replace(cnn, lookahead=1), right=1)
    yield replace(single, name="best-causal", model=replace(base.model, encoder=causal))


def _steps(budget: Budget) -> Iterator[Experiment]:
    """Small networks, from one change to the next. The last two both start from averaged weights.

    Strides of 6, 4 and 2 train in about half the time of 3, 4 and 4 (LOG.md, 2026-12-01).
    """
    step = BUDGETS[budget][f"{budget}/table2/cnn-gru"]

    def named(name: str, **changes: Any) -> Experiment:
        return replace(step, name=f"{budget}/best/{name}", **changes)

    yield (step := named("raw-emg", model=replace(step.model, features=StridedConvConfig(strides=(6, 4, 2)))))
    yield (step := named("average", train=replace(step.train, ema=0.999)))
    encoder = step.model.encoder
    assert isinstance(encoder, RecurrentConfig)
    network, unmasked = replace(step.model, encoder=replace(encoder, dropout=0.5)), SpecAugment(0, 0, 0, 0)
    yield named("dropout", model=network, augment=replace(step.augment, spec=unmasked))
    causal = replace(encoder.streaming(), right=1)  # with the convolutions, three frames of 24 ms
    yield named("causal", model=replace(step.model, encoder=causal))


BEST = by_name(_best())
BEST_STEPS = {budget: by_name(_steps(budget)) for budget in SESSIONS}


def _suites() -> Iterator[Suite]:
    single, average, causal = BEST.values()
    seeds = (replace(single, train=replace(single.train, seed=seed)) for seed in _SEEDS)
    about = "our recipe for one user: five seeds, their average, and a causal version"
    yield Suite("best", about, (*seeds, average, causal), "course")
    for budget, sessions in SESSIONS.items():
        about = f"from CNN + GRU of Table 2 to our recipe, step by step, at the {budget} budget"
        yield Suite(f"{budget}/best", about, tuple(BEST_STEPS[budget].values()), simulated=sessions)


BEST_SUITES = tuple(_suites())
