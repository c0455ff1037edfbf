"""Small and medium budgets: the rows of a table as small networks, which differ only where the originals do."""

from dataclasses import replace
from typing import Literal

from emgscribe.experiments.recipes.ablation import SMALL, with_fewer_sessions, with_less_augmentation
from emgscribe.experiments.recipes.course import TABLE1, TABLE2, course_suites
from emgscribe.experiments.recipes.experiment import FIVE_PEOPLE, Experiment, Simulated, Suite, by_name
from emgscribe.experiments.recipes.records import RECORDS
from emgscribe.models.model import ModelConfig
from emgscribe.training.config import TrainConfig

Budget = Literal["full", "medium", "small"]
"""Full: experiments as published. Medium and small: small networks, on many or few simulated sessions."""

# As many sessions to train on as the user of Borthakur et al. has, equally long, and four to test on instead of one.
ONE_PERSON = Simulated("simulated-sessions-medium", users=1, sessions=21, minutes=16.0)
_TESTED: dict[Budget, int] = {"small": SMALL.data.test_sessions, "medium": 4}


def made_small(base: Experiment, budget: Budget, train: TrainConfig = SMALL.train) -> Experiment:
    """An experiment at the baseline's frame rate as a small network, trained with `train` on one user.

    Small experiments share data and key-press loss, and those of one table share `train`, so they differ only where
    their originals do. The hop is 48 samples instead of 16, and every length in frames is a third.
    """
    masks = replace(base.augment.spec, time_frames=round(base.augment.spec.time_frames / 3))
    attention = base.model.attention.small() if base.model.attention.layers else base.model.attention
    return replace(
        base,
        name=f"{budget}/{base.name}",
        model=ModelConfig(SMALL.model.features, base.model.encoder.small(), attention),
        windows=SMALL.windows,
        augment=replace(base.augment, spec=masks),
        train=replace(train, seed=base.train.seed),
        data=replace(SMALL.data, test_sessions=_TESTED[budget]),
    )


# A head that starts at the blank leads recurrent networks past CTC's all-blank plateau. In the few steps of the small
# budget it does so only at half the learning rate (LOG.md).
_MEDIUM = replace(SMALL.train, epochs=20, blank_prior=0.9)
_TRAINING: dict[Budget, tuple[TrainConfig, TrainConfig]] = {
    "small": (SMALL.train, replace(SMALL.train, lr=1e-3, blank_prior=0.9)),
    "medium": (_MEDIUM, _MEDIUM),
}
SESSIONS: dict[Budget, Simulated] = {"small": FIVE_PEOPLE, "medium": ONE_PERSON}
_TABLES = {
    budget: tuple(
        {name: made_small(row, budget, train) for name, row in table.items()}
        for table, train in zip((TABLE1, TABLE2), trains, strict=True)
    )
    for budget, trains in _TRAINING.items()
}
SMALL_ATTENTION = made_small(RECORDS["records/attention"], "small")
"""`small/table1/baseline` with the second head."""

BUDGETS = {budget: by_name(row for table in tables for row in table.values()) for budget, tables in _TABLES.items()}
_TDS, _CNN_GRU = (BUDGETS["medium"][f"medium/table2/{name}"] for name in ("baseline", "cnn-gru"))
_FEWER = with_fewer_sessions(_TDS, "medium/ablation/", of=16)
_LESS = tuple(with_less_augmentation(_CNN_GRU, "medium/ablation/"))
BUDGETS["medium"] |= by_name((*_FEWER, *_LESS))
BUDGET_SUITES = (
    *(
        suite
        for budget, tables in _TABLES.items()
        for suite in course_suites(*tables, size=f"{budget}/", simulated=SESSIONS[budget])
    ),
    Suite(
        "medium/ablation",
        "TDS with fewer sessions, and convolutions and a GRU without each augmentation, at the medium budget",
        (_TDS, *_FEWER, _CNN_GRU, *_LESS),
        simulated=SESSIONS["medium"],
    ),
)
