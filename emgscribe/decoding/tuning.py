"""Search of the beam's two weights on validation sessions: `lm_weight` and `insertion_bonus` with the lowest CER.

The result is fixed before any test session is decoded. It is stored in the model's folder with its language model, as
`beam.json` and `language-model-<hash>.arpa.gz`, and no session that it was found on is scored with it.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise, product
from pathlib import Path
from typing import Annotated

import numpy as np

from emgscribe.config import Range, Settings, Whole, from_json, require, to_json
from emgscribe.data.session import Session
from emgscribe.decoding.beam import BeamConfig, BeamDecoder
from emgscribe.decoding.greedy import Emissions
from emgscribe.decoding.language_model import Automaton, LanguageModel
from emgscribe.errors import EmgscribeError
from emgscribe.files import alone, read_json, write_json
from emgscribe.models.ancestry import Ancestry, Seen
from emgscribe.scoring import Counts, count, total

_FORMAT, _VERSION, _LANGUAGE_MODEL = "emgscribe-beam", 1, "language-model-{}.arpa.gz"
_HINT = "tune again: emgscribe lm tune MODEL SESSIONS"


@dataclass(frozen=True)
class Grid(Settings):
    """Where to look: all pairs of weights and bonuses, then closer and closer around the best pair."""

    section = "grid"

    # Values of lm_weight to begin with.
    lm_weights: tuple[Annotated[float, Range(0, 1000)], ...] = (0.0, 0.25, 0.5, 1.0, 2.0)
    # Values of insertion_bonus to begin with.
    insertion_bonuses: tuple[Annotated[float, Range(-1000, 1000)], ...] = (0.0, 1.0, 2.0, 3.0)
    refinements: Whole = 2  # times that the best pair's neighbours are tried, each time at half the smallest step

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("lm_weights", "insertion_bonuses"):
            row = getattr(self, field)
            require(len(set(row)) == len(row) > 0, f"grid.{field}", row, "one or more different numbers")


@dataclass(frozen=True)
class Trial:
    """A pair of weights, and the edits that it leaves in the validation sessions."""

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
        return min(self.trials, key=lambda trial: (trial.counts.edits, trial.lm_weight, abs(trial.insertion_bonus)))


def tune(
    log_probs: Sequence[Emissions],
    references: Sequence[Sequence[int]],
    lm: LanguageModel | Automaton,
    config: BeamConfig | None = None,
    *,
    grid: Grid | None = None,
    threads: int | None = None,
    progress: Callable[[Trial], None] | None = None,
) -> Tuning:
    """The best pair of weights for sessions' log-probabilities (F, 99) and reference labels, by CER over all of them.

    `config` gives everything but the two weights. Sessions are decoded on `threads` threads (default: one per core);
    `progress` is called with each trial. Raises `EmgscribeError` where there is nothing to score.
    """
    config, grid = config or BeamConfig(), grid or Grid()
    require(threads is None or threads >= 1, "threads", threads, "1 or more")
    if len(log_probs) != len(references) or not any(map(len, references)):
        what = f"{len(log_probs)} sessions and {len(references)} references, {sum(map(len, references))} keys in all"
        raise EmgscribeError(what, hint="give log-probabilities and labels of at least one session with keystrokes")
    tables = lm.automaton() if isinstance(lm, LanguageModel) else lm
    sessions = list(zip(log_probs, references, strict=True))
    trials: dict[tuple[float, float], Trial] = {}

    def edits(job: tuple[tuple[float, float], tuple[Emissions, Sequence[int]]]) -> Counts:
        (weight, bonus), (frames, reference) = job
        decoder = BeamDecoder(replace(config, lm_weight=weight, insertion_bonus=bonus), tables)
        return count(list(reference), decoder.decode(frames).labels)

    def best_with(weights: Iterable[float], bonuses: Iterable[float]) -> Trial:
        new = [pair for pair in product(weights, bonuses) if pair not in trials and pair[0] >= 0]
        counts = pool.map(edits, product(new, sessions))
        for pair in new:
            trials[pair] = Trial(*pair, total([next(counts) for _ in sessions]))
            if progress:
                progress(trials[pair])
        return Tuning(config, tuple(trials.values())).best

    rows = grid.lm_weights, grid.insertion_bonuses
    steps = np.array([min((b - a for a, b in pairwise(sorted(row))), default=1.0) for row in rows])
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        best = best_with(*rows)
        for halving in range(1, grid.refinements + 1):
            centre = np.array([best.lm_weight, best.insertion_bonus])
            best = best_with(*(centre + np.outer([-1, 0, 1], steps / 2**halving)).T.tolist())
    tuned = replace(config, lm_weight=best.lm_weight, insertion_bonus=best.insertion_bonus)
    return Tuning(tuned, tuple(trials.values()))


@dataclass(frozen=True)
class Tuned:
    """Settings tuned for one model, the hash of the language model they were tuned with, and the sessions used."""

    config: BeamConfig
    language_model: str
    sessions: tuple[Seen, ...]

    def refuse(self, sessions: Iterable[Session]) -> None:
        """Raise `EmgscribeError` where the weights were tuned on one of `sessions`."""
        own = {seen.content for seen in self.sessions}
        for session in sessions:
            if session.content in own:
                hint = "score it greedily, or on sessions that the weights were not tuned on"
                raise EmgscribeError("the beam's weights were tuned on this session", where=session.name, hint=hint)


def tune_model(
    folder: Path | str,
    ancestry: Ancestry,
    sessions: Sequence[Session],
    log_probs: Iterable[Emissions],
    lm: LanguageModel,
    config: BeamConfig | None = None,
    *,
    progress: Callable[[Trial], None] | None = None,
) -> Tuning:
    """Tune the beam on sessions that validated the model in `folder`, and store the result there.

    `log_probs` has one array (F, 99) per session; a generator is not run before the sessions are accepted. Raises
    `EmgscribeError` for a session that the model was trained on and, where `ancestry` names those that validated it,
    for any other: it may be a test session. Also where another process trains or tunes the model.
    """
    ancestry.refuse(sessions)
    known = {seen.content: seen.name for seen in ancestry.validated_on}
    for session in sessions:
        if known and session.content not in known:
            what = "the beam is tuned on sessions that validated the model; this one did not, and may be a test session"
            raise EmgscribeError(what, where=session.name, hint=f"tune on {', '.join(known.values())}")
    folder = Path(folder)
    # The run's folder, as in training: the model's own is replaced with every better epoch.
    with alone(folder.resolve().parent, "is training or tuning a model here"):
        references = [session.labels.tolist() for session in sessions]
        tuning = tune(list(log_probs), references, lm, config, progress=progress)
        tuned = Tuned(tuning.config, lm.digest, tuple(Seen(each.content, each.name, each.user) for each in sessions))
        path, before = folder / _LANGUAGE_MODEL.format(lm.digest), set(folder.glob(_LANGUAGE_MODEL.format("*")))
        # The settings come last and name the file: whatever happens between, the folder holds a pair that fits.
        lm.write(path)
        write_json(folder / "beam.json", {"format": _FORMAT, "version": _VERSION, "tuned": to_json(tuned)})
        for stale in before - {path}:
            stale.unlink(missing_ok=True)
    return tuning


def load_tuned(folder: Path | str) -> Tuned | None:
    """What was tuned for the model in `folder`, or None; a damaged file is an `EmgscribeError`."""
    path = Path(folder) / "beam.json"
    if not path.exists():
        return None
    content = read_json(path)
    if not isinstance(content, dict) or (content.get("format"), content.get("version")) != (_FORMAT, _VERSION):
        raise EmgscribeError(f"is not of format {_FORMAT} version {_VERSION}", where=str(path), hint=_HINT)
    return from_json(Tuned, content.get("tuned"), where=str(path))


def load_tuned_language_model(folder: Path | str, tuned: Tuned) -> LanguageModel:
    """The language model stored with `tuned`; `EmgscribeError` where it is missing, damaged or another one."""
    path = Path(folder) / _LANGUAGE_MODEL.format(tuned.language_model)
    found = LanguageModel.read(path)
    if found.digest != tuned.language_model:
        raise EmgscribeError("is not the language model that the weights were tuned with", where=str(path), hint=_HINT)
    return found
