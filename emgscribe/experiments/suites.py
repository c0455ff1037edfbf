"""The runs behind each table or figure, at each budget, and the registry of all experiments.

A budget makes a table's rows small and equal in everything but what they differ in, and says which simulated sessions
they are run on where there are no recordings.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from emgscribe.experiments.named import (
    ABLATIONS,
    BASELINE,
    BASELINE_KEYPRESS,
    BENCHMARK,
    BENCHMARK_USERS,
    DEMO,
    GENERIC,
    RECORDS,
    SMALL,
    TABLE1,
    TABLE2,
    Experiment,
)
from emgscribe.models.model import ModelConfig
from emgscribe.training.config import TrainConfig

Budget = Literal["full", "medium", "small"]
"""Full: as the experiments are. Small networks on small's few or medium's many sessions."""


@dataclass(frozen=True)
class Simulated:
    """The sessions that `--data simulated` makes, and the folder among the runs that they go to."""

    folder: str
    users: int
    sessions: int
    minutes: float
    difficulty: float = 1.0


_FIVE_PEOPLE = Simulated("simulated-sessions", users=5, sessions=14, minutes=4.0)
# As many sessions as the seed paper's user has, as long, and so hard that the small baseline's CER is near the paper's.
_ONE_PERSON = Simulated("simulated-sessions-medium", users=1, sessions=18, minutes=16.0, difficulty=2.0)


def simulated_for(suite: str) -> Simulated:
    """The sessions that a suite is run on where there are no recordings."""
    return _ONE_PERSON if suite.startswith("medium/") else _FIVE_PEOPLE


def made_small(base: Experiment, budget: Budget, train: TrainConfig = SMALL.train) -> Experiment:
    """An experiment of the baseline's frame rate as a small network that is trained by `train` on one user.

    All experiments made small share data and key-press loss, and those of a table all of `train`, so that they differ
    in nothing but what their originals differ in; the spectra's step is 48 samples instead of 16, and every length in
    frames a third.
    """
    masks = replace(base.augment.spec, time_frames=round(base.augment.spec.time_frames / 3))
    attention = base.model.attention
    return replace(
        base,
        name=f"{budget}/{base.name}",
        model=ModelConfig(
            SMALL.model.features,
            base.model.encoder.small(),
            attention.small() if attention.layers else attention,
        ),
        windows=SMALL.windows,
        augment=replace(base.augment, spec=masks),
        train=replace(train, seed=base.train.seed),
        data=SMALL.data,
    )


def _seeded(experiments: dict[str, Experiment], *thrice: str) -> tuple[Experiment, ...]:
    """The experiments in order, those named `thrice` with three seeds."""
    seeds = dict.fromkeys(thrice, (1501, 1502, 1503))
    return tuple(
        replace(experiment, train=replace(experiment.train, seed=seed))
        for name, experiment in experiments.items()
        for seed in seeds.get(name, (experiment.train.seed,))
    )


# With a head that begins at the blank recurrent networks leave CTC's all-blank plateau; in small's few steps only at
# half the rate (LOG.md).
_MEDIUM = replace(SMALL.train, epochs=20, blank_prior=0.9)
_TRAINING: dict[Budget, tuple[TrainConfig, TrainConfig]] = {
    "small": (SMALL.train, replace(SMALL.train, lr=1e-3, blank_prior=0.9)),
    "medium": (_MEDIUM, _MEDIUM),
}
_MADE_SMALL = {
    budget: tuple(
        {name: made_small(row, budget, train) for name, row in table.items()}
        for table, train in zip((TABLE1, TABLE2), trains, strict=True)
    )
    for budget, trains in _TRAINING.items()
}
# Rows of Table 2 that the seed paper has in its text alone, or that are another reading of a row.
_NO_PANEL = ("excitation-global", "excitation-finite", "cnn-gru-24-filters", "cnn-transformer-2")


SMALL_ATTENTION = made_small(RECORDS["records/attention"], "small")
"""`small/table1/baseline` with the second head."""


def _tables() -> Iterator[tuple[str, tuple[Experiment, ...]]]:
    thrice1 = ("table1/baseline", "table1/specaugment-4-3")
    thrice2 = ("table2/baseline", "table2/excitation", "table2/bilstm", "table2/cnn-gru")
    tables = {"": (TABLE1, TABLE2)} | {f"{budget}/": tables for budget, tables in _MADE_SMALL.items()}
    for size, (table1, table2) in tables.items():
        yield f"{size}table1", _seeded(table1, *thrice1)
        yield f"{size}table2", _seeded(table2, *thrice2)
        yield f"{size}figure1", tuple(row for row in table2.values() if row.name.rpartition("/")[2] not in _NO_PANEL)


SUITES: dict[str, tuple[Experiment, ...]] = {
    **dict(_tables()),
    "records": tuple(RECORDS.values()),
    **{
        f"benchmark/{user}": tuple(e for e in BENCHMARK.values() if e.data.protocol in (GENERIC.data.protocol, user))
        for user in BENCHMARK_USERS
    },
    "ablation": tuple(ABLATIONS.values()),
}
"""The runs behind one table or figure each, in order, seeds included. Some runs are behind several."""

EXPERIMENTS: dict[str, Experiment] = {
    **{experiment.name: experiment for experiment in (BASELINE, BASELINE_KEYPRESS, DEMO, SMALL_ATTENTION)},
    **TABLE1,
    **TABLE2,
    **RECORDS,
    **BENCHMARK,
    **{row.name: row for tables in _MADE_SMALL.values() for table in tables for row in table.values()},
    **ABLATIONS,
}
"""Every named experiment."""
