"""Search for the beam's two weights, `lm_weight` and `insertion_bonus`, with the lowest CER on validation sessions.

The result is fixed before any test session is decoded. It is stored in the model's folder with its language model, as
`beam.json` and `language-model-<hash>.arpa.gz`, and no session that it was found on is scored with it.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise, product
from pathlib import Path
from typing import Literal

import numpy as np

from emgscribe.config import from_json, require, to_json
from emgscribe.data.session import Session
from emgscribe.decoding.beam import BeamConfig, BeamDecoder
from emgscribe.decoding.decoder import Emissions
from emgscribe.decoding.language_model import LanguageModel
from emgscribe.errors import EmgscribeError
from emgscribe.files import exclusive, read_json, write_json
from emgscribe.machine import cores
from emgscribe.models.ancestry import Ancestry, Seen
from emgscribe.scoring import Counts, count, total

_LANGUAGE_MODEL = "language-model-{}.arpa.gz"
_WEIGHTS, _BONUSES = (0.0, 0.25, 0.5, 1.0, 2.0), (0.0, 1.0, 2.0, 3.0)  # all pairs are tried
_REFINEMENTS = 2  # rounds that then try the best pair's neighbours, each at half the step of the one before


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
        """The trial with the fewest edits; of equal ones the one with the smaller weights."""
        return min(self.trials, key=lambda trial: (trial.counts.edits, trial.lm_weight, abs(trial.insertion_bonus)))


def tune(
    log_probs: Sequence[Emissions],
    references: Sequence[Sequence[int]],
    lm: LanguageModel,
    config: BeamConfig | None = None,
    *,
    progress: Callable[[Trial], None] | None = None,
) -> Tuning:
    """The best pair of weights for sessions' log-probabilities (F, 99) and reference labels, by CER over all of them.

    `config` gives all else; `progress` is called with each trial. Raises `EmgscribeError` if there is nothing to score.
    """
    config = config or BeamConfig()
    if len(log_probs) != len(references) or not any(map(len, references)):
        what = f"{len(log_probs)} sessions and {len(references)} references, {sum(map(len, references))} keys in all"
        raise EmgscribeError(what, hint="give log-probabilities and labels of at least one session with keystrokes")
    sessions = list(zip(log_probs, references, strict=True))
    trials: dict[tuple[float, float], Trial] = {}

    def edits(job: tuple[tuple[float, float], tuple[Emissions, Sequence[int]]]) -> Counts:
        (weight, bonus), (frames, reference) = job
        decoder = BeamDecoder(replace(config, lm_weight=weight, insertion_bonus=bonus), lm)
        return count(list(reference), decoder.decode(frames).labels)

    rows = _WEIGHTS, _BONUSES
    steps = np.array([min((b - a for a, b in pairwise(sorted(row))), default=1.0) for row in rows])
    _ = lm.tables  # made once, before threads ask for them
    with ThreadPoolExecutor(cores()) as pool:
        for halving in range(1, _REFINEMENTS + 2):
            new = [pair for pair in product(*rows) if pair not in trials and pair[0] >= 0]
            counts = pool.map(edits, product(new, sessions))
            for pair in new:
                trials[pair] = Trial(*pair, total([next(counts) for _ in sessions]))
                if progress:
                    progress(trials[pair])
            tuning = Tuning(config, tuple(trials.values()))
            best = tuning.best
            around = np.outer([-1, 0, 1], steps / 2**halving) + np.array([best.lm_weight, best.insertion_bonus])
            rows = around.T.tolist()
    return replace(tuning, config=replace(config, lm_weight=best.lm_weight, insertion_bonus=best.insertion_bonus))


@dataclass(frozen=True)
class Tuned:
    """Settings tuned for one model, the hash of the language model they were tuned with, and the sessions used."""

    config: BeamConfig
    language_model: str
    sessions: tuple[Seen, ...]
    format: Literal["emgscribe-beam"] = "emgscribe-beam"
    version: Literal[1] = 1

    def __post_init__(self) -> None:  # it becomes the name of a file
        require(
            bool(re.fullmatch("[0-9a-f]{16}", self.language_model)), "language_model", self.language_model, "a hash"
        )

    def refuse(self, sessions: Iterable[Session]) -> None:
        """Raise `EmgscribeError` where the weights were tuned on one of `sessions`."""
        for session in sessions:
            if any(seen.matches(session) for seen in self.sessions):
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
    `EmgscribeError` for a session that the model was trained on; for one that did not validate it, where `ancestry`
    names those that did; and where another process trains or tunes the model.
    """
    ancestry.refuse(sessions)
    known = ancestry.validated_on
    for session in sessions:
        if known and not any(seen.matches(session) for seen in known):
            what = "the beam is tuned on sessions that validated the model; this one did not, and may be a test session"
            raise EmgscribeError(what, where=session.name, hint=f"tune on {', '.join(seen.name for seen in known)}")
    folder = Path(folder)
    # The run's folder, as in training: the model's own is replaced with every better epoch.
    with exclusive(folder.resolve().parent, "is training or tuning a model here"):
        references = [session.labels.tolist() for session in sessions]
        tuning = tune(list(log_probs), references, lm, config, progress=progress)
        tuned = Tuned(tuning.config, lm.digest, tuple(map(Seen.of, sessions)))
        path, before = folder / _LANGUAGE_MODEL.format(lm.digest), set(folder.glob(_LANGUAGE_MODEL.format("*")))
        # The settings come last and name the file: whatever happens between, the folder holds a pair that fits.
        lm.write(path)
        write_json(folder / "beam.json", to_json(tuned))
        for stale in before - {path}:
            stale.unlink(missing_ok=True)
    return tuning


def load_tuned(folder: Path | str) -> Tuned | None:
    """What was tuned for the model in `folder`, or None; a damaged file raises `EmgscribeError`."""
    path = Path(folder) / "beam.json"
    return from_json(Tuned, read_json(path), where=str(path)) if path.exists() else None


def load_tuned_language_model(folder: Path | str, tuned: Tuned) -> LanguageModel:
    """The language model stored with `tuned`; `EmgscribeError` where it is missing, damaged or another one."""
    path = Path(folder) / _LANGUAGE_MODEL.format(tuned.language_model)
    found = LanguageModel.read(path)
    if found.digest != tuned.language_model:
        hint = "tune again: emgscribe lm tune MODEL SESSIONS"
        raise EmgscribeError("is not the language model that the weights were tuned with", where=str(path), hint=hint)
    return found
