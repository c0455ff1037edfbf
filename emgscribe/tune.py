"""Search of the beam's two weights on validation emissions: `lm_weight` and `insertion_bonus` by the least CER.

The emissions are computed once and kept; only decoding is repeated. What is found here is fixed before any test
session is decoded.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise, product

from emgscribe.beam import BeamConfig, BeamDecoder
from emgscribe.config import require
from emgscribe.decode import Emissions, decode
from emgscribe.errors import EmgscribeError
from emgscribe.language_model import Automaton
from emgscribe.score import Counts, count, total

Pair = tuple[float, float]


@dataclass(frozen=True)
class Grid:
    """Where to look: all pairs of the two rows, then `refinements` times all around the best, at half the step.

    The first refinement's step is half the smallest step of the row.
    """

    lm_weights: tuple[float, ...] = (0.0, 0.25, 0.5, 1.0, 2.0)
    insertion_bonuses: tuple[float, ...] = (0.0, 1.0, 2.0, 3.0)
    refinements: int = 2

    def __post_init__(self) -> None:
        for field in ("lm_weights", "insertion_bonuses"):
            row = getattr(self, field)
            require(len(set(row)) == len(row) > 0, field, row, "one or more different numbers")
        require(self.refinements >= 0, "refinements", self.refinements, "0 or more")

    def step(self, row: Sequence[float]) -> float:
        """The smallest step of a row; 1 for a row of one number."""
        ordered = sorted(row)
        return min((b - a for a, b in pairwise(ordered)), default=1.0)


@dataclass(frozen=True)
class Trial:
    """A pair of weights and what it made of the validation sessions."""

    lm_weight: float
    insertion_bonus: float
    counts: Counts


@dataclass(frozen=True)
class Tuning:
    """The settings with the best pair, and every pair that was tried, in order."""

    config: BeamConfig
    trials: tuple[Trial, ...]

    @property
    def best(self) -> Trial:
        """The trial with the fewest edits; of equals the one with the smaller weights."""
        return _best(self.trials)


def _best(trials: Iterable[Trial]) -> Trial:
    return min(trials, key=lambda trial: (trial.counts.edits, trial.lm_weight, abs(trial.insertion_bonus)))


def tune(
    emissions: Sequence[Emissions],
    references: Sequence[Sequence[int]],
    language_model: Automaton,
    config: BeamConfig | None = None,
    *,
    grid: Grid | None = None,
    threads: int | None = None,
    progress: Callable[[Trial], None] | None = None,
) -> Tuning:
    """The best pair of weights for sessions' emissions (F, 99) and their reference labels, by CER over all of them.

    All else is taken from `config`, its convention too. Sessions are decoded on `threads` threads (by default one a
    core); `progress` is called with each trial. Raises `EmgscribeError` where there is nothing to score.
    """
    config, grid = config or BeamConfig(), grid or Grid()
    require(threads is None or threads >= 1, "threads", threads, "1 or more")
    if len(emissions) != len(references) or not any(map(len, references)):
        what = f"{len(emissions)} sessions and {len(references)} references, {sum(map(len, references))} keys in all"
        raise EmgscribeError(what, mend="give the emissions and the labels of at least one session in which was typed")
    sessions = list(zip(emissions, references, strict=True))
    trials: dict[Pair, Trial] = {}

    def read(job: tuple[Pair, tuple[Emissions, Sequence[int]]]) -> Counts:
        (weight, bonus), (frames, reference) = job
        decoder = BeamDecoder(replace(config, lm_weight=weight, insertion_bonus=bonus), language_model)
        return count(list(reference), decode(decoder, frames).labels)

    def try_all(pairs: Iterable[Pair]) -> None:
        new = [pair for pair in pairs if pair not in trials]
        counts = pool.map(read, product(new, sessions))
        for pair in new:
            trials[pair] = Trial(*pair, total([next(counts) for _ in sessions]))
            if progress:
                progress(trials[pair])

    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        try_all(product(grid.lm_weights, grid.insertion_bonuses))
        steps = grid.step(grid.lm_weights), grid.step(grid.insertion_bonuses)
        for halving in range(1, grid.refinements + 1):
            try_all(_around(_best(trials.values()), steps[0] / 2**halving, steps[1] / 2**halving))
    best = _best(trials.values())
    tuned = replace(config, lm_weight=best.lm_weight, insertion_bonus=best.insertion_bonus)
    return Tuning(tuned, tuple(trials.values()))


def _around(trial: Trial, weight_step: float, bonus_step: float) -> list[Pair]:
    """The eight neighbours, without negative weights of the language model."""
    weights = [weight for step in (-1, 0, 1) if (weight := trial.lm_weight + step * weight_step) >= 0]
    return list(product(weights, [trial.insertion_bonus + step * bonus_step for step in (-1, 0, 1)]))
