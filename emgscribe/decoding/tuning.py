"""Search of the beam's two weights on validation emissions: `lm_weight` and `insertion_bonus` by the least CER.

The emissions are computed once and kept; only decoding is repeated. What is found is fixed before any test session is
decoded: it is stored in the model's folder with the language model that it was found with, as `beam.json` and
`language-model-<hash>.arpa.gz`, and no session that it was found on is scored with it.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise, product
from pathlib import Path

from emgscribe.config import from_json, require, to_json
from emgscribe.data.session import Session
from emgscribe.decoding.beam import BeamConfig, BeamDecoder
from emgscribe.decoding.greedy import Emissions, decode
from emgscribe.decoding.language_model import Automaton, LanguageModel
from emgscribe.errors import EmgscribeError
from emgscribe.files import alone, read_json, write_json
from emgscribe.models.ancestry import Ancestry, Seen
from emgscribe.models.model import Model
from emgscribe.scoring import Counts, count, total
from emgscribe.transcription import log_probs

Pair = tuple[float, float]
_FORMAT, _VERSION = "emgscribe-beam", 1
_HINT = "tune again: emgscribe lm tune MODEL SESSIONS"


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
        raise EmgscribeError(what, hint="give the emissions and the labels of at least one session in which was typed")
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


@dataclass(frozen=True)
class Tuned:
    """Settings tuned for one model, the hash of the language model they hold for, and the sessions they come from."""

    config: BeamConfig
    language_model: str
    sessions: tuple[Seen, ...]

    def refuse(self, sessions: Iterable[Session]) -> None:
        """Raise `EmgscribeError` where one of `sessions` is among those that the weights were tuned on."""
        own = {seen.content for seen in self.sessions}
        for session in sessions:
            if session.content in own:
                hint = "score it greedily, or on sessions that the weights were not tuned on"
                raise EmgscribeError("the beam's weights were tuned on this session", where=session.name, hint=hint)


def tune_model(
    folder: Path,
    model: Model,
    sessions: Sequence[Session],
    language_model: LanguageModel,
    config: BeamConfig | None = None,
    *,
    progress: Callable[[Trial], None] | None = None,
) -> Tuning:
    """Tune the beam on sessions that validated the model in `folder`, and store the result there.

    Raises `EmgscribeError` for a session that the model was trained on or, where its ancestry says what validated it,
    any other: that one may be a test. Another one where a process trains or tunes the model.
    """
    _refuse_all_but_validation(model.ancestry, sessions)
    # The run's folder, as in training: the model's own is replaced with every better epoch.
    with alone(folder.resolve().parent, "is training or tuning a model here"):
        emissions = [log_probs(model, session) for session in sessions]
        references = [session.labels.tolist() for session in sessions]
        tuning = tune(emissions, references, language_model.automaton(), config, progress=progress)
        seen = tuple(Seen(session.content, session.name, session.user) for session in sessions)
        _store(folder, Tuned(tuning.config, language_model.digest, seen), language_model)
    return tuning


def _store(folder: Path, tuned: Tuned, language_model: LanguageModel) -> None:
    """Write what was tuned into the model's folder, which nobody else writes to meanwhile."""
    path = _language_model_file(folder, tuned.language_model)
    before = set(folder.glob(_language_model_file(folder, "*").name))
    # The settings come last and name the file: whatever happens between, the folder holds a pair that fits.
    language_model.write(path)
    write_json(folder / "beam.json", {"format": _FORMAT, "version": _VERSION, "tuned": to_json(tuned)})
    for stale in before - {path}:
        stale.unlink(missing_ok=True)


def _refuse_all_but_validation(ancestry: Ancestry, sessions: Iterable[Session]) -> None:
    sessions = list(sessions)
    ancestry.refuse(sessions)
    known = {seen.content: seen.name for seen in ancestry.validated_on}
    for session in sessions:
        if known and session.content not in known:
            raise EmgscribeError(
                "weights are tuned on what validated the model, and this session did not: it may be a test",
                where=session.name,
                hint=f"tune on {', '.join(known.values())}",
            )


def load_tuned(folder: Path) -> Tuned | None:
    """What was tuned for the model in `folder`, None where nothing was; a damaged file is an `EmgscribeError`."""
    path = folder / "beam.json"
    if not path.exists():
        return None
    content = read_json(path)
    if not isinstance(content, dict) or (content.get("format"), content.get("version")) != (_FORMAT, _VERSION):
        raise EmgscribeError(f"is not of format {_FORMAT} version {_VERSION}", where=str(path), hint=_HINT)
    return from_json(Tuned, content.get("tuned"), where=str(path))


def load_tuned_language_model(folder: Path, tuned: Tuned) -> LanguageModel:
    """The language model that was stored with `tuned`; `EmgscribeError` where it is missing, damaged or another."""
    path = _language_model_file(folder, tuned.language_model)
    found = LanguageModel.read(path)
    if found.digest != tuned.language_model:
        raise EmgscribeError("is not the language model that the weights were tuned with", where=str(path), hint=_HINT)
    return found


def _language_model_file(folder: Path, digest: str) -> Path:
    return folder / f"language-model-{digest}.arpa.gz"
