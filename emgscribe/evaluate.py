"""A model and sessions -> text and its errors, in memory bounded by a block.

`evaluate` follows the paper's protocol: a whole session at once, without windows. The emissions are computed block
by block, each with all the context that the network sees, so they equal those of a single pass.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from emgscribe.charset import text_of_labels
from emgscribe.decode import Decoder, Emissions, Hypothesis, decode_batch
from emgscribe.model import Model
from emgscribe.score import Counts, cer_interval, count, count_units, total
from emgscribe.session import SAMPLE_RATE
from emgscribe.store import Store, StoredSession
from emgscribe.windows import Windows

BLOCK_SECONDS = 60
_UNIT_SAMPLES = 20_000  # the bootstrap resamples stretches of 10 s, longer than errors stay correlated


@dataclass(frozen=True)
class SessionScore:
    """What was read from one session; `units` are the counts of its 10 s stretches (or windows), which add up."""

    session: str
    user: str
    reference: str
    hypothesis: str
    units: tuple[Counts, ...]

    @property
    def counts(self) -> Counts:
        """Counts of the whole session."""
        return total(self.units)


@dataclass(frozen=True)
class Result:
    """Scores of sessions, of one model and decoder. `simulated` where any session was: such rates are not real ones."""

    protocol: str
    unit: str  # what the bootstrap resamples
    simulated: bool
    sessions: tuple[SessionScore, ...]

    @property
    def counts(self) -> Counts:
        """Counts over all sessions."""
        return total([session.counts for session in self.sessions])

    def interval(self) -> tuple[float, float]:
        """95 % bootstrap interval of the total CER in per cent."""
        return cer_interval([unit for session in self.sessions for unit in session.units])

    def to_json(self) -> dict[str, Any]:
        """Counts and texts, ready for JSON; rates are derived from the counts when they are shown."""
        return {
            "protocol": self.protocol,
            "unit": self.unit,
            "simulated": self.simulated,
            "cer": self.counts.cer if self.counts.length else None,
            "cer_interval": list(self.interval()) if self.counts.length else None,
            "sessions": [
                {
                    "session": s.session,
                    "user": s.user,
                    "units": [[u.insertions, u.deletions, u.substitutions, u.length] for u in s.units],
                    "reference": s.reference,
                    "hypothesis": s.hypothesis,
                }
                for s in self.sessions
            ],
        }


def evaluate(
    model: Model,
    sessions: list[StoredSession],
    decoder: Decoder,
    *,
    block_seconds: float = BLOCK_SECONDS,
    progress: Callable[[float], None] | None = None,
) -> Result:
    """Read whole sessions and score them with a model in evaluation mode (as `load_model` returns it).

    `progress` is called with the fraction of all samples done.
    """
    assert not model.training, "a model in training mode would be scored by its batches' statistics"
    scores = []
    samples, done = sum(map(len, sessions)), 0
    for session in sessions:
        decoder.reset()
        for emissions in session_emissions(model, session, block_seconds):
            decoder.feed(emissions)
            done += len(emissions) * model.samples_per_frame
            if progress:
                progress(min(1.0, done / samples))
        scores.append(_score(session, decoder.flush()))
    return Result("whole session", "stretches of 10 s", any(s.simulated for s in sessions), tuple(scores))


def session_emissions(
    model: Model, session: StoredSession, block_seconds: float = BLOCK_SECONDS
) -> Iterator[Emissions]:
    """Emissions (F, V) of a whole session, in order, at most `block_seconds` of signal at a time.

    What lies before and after the session is taken as zero. Any block length gives the same emissions.
    """
    frames = max(1, round(block_seconds * SAMPLE_RATE / model.samples_per_frame))
    length = frames * model.samples_per_frame
    windows = Windows(Store([session]), length, length, *model.context)
    for place in windows.tiling():
        batch = windows.batch([place]).to(model.device)
        with torch.inference_mode():
            emissions = model(batch)[0]  # (F, V)
        yield emissions[: model.frames(int(batch.lengths[0]))].cpu().numpy()


def evaluate_windows(model: Model, sessions: list[StoredSession], decoder: Decoder, length: int = 8000) -> Result:
    """Score windows of `length` samples one by one, as validation does during training."""
    scores = []
    for session in sessions:
        windows = Windows(Store([session]), length, length, *model.context)
        units: list[Counts] = []
        texts: list[str] = []
        for batch in windows.batches(windows.tiling(), 8):
            with torch.inference_mode():
                emissions = model(batch.to(model.device))
            hypotheses = decode_batch(decoder, emissions, model.frames(batch.lengths))
            units += [count(r, h.labels) for r, h in zip(batch.references(), hypotheses, strict=True)]
            texts += [hypothesis.text for hypothesis in hypotheses]
        reference = text_of_labels(session.labels.tolist())
        scores.append(SessionScore(session.name, session.user, reference, "".join(texts), tuple(units)))
    return Result(f"windows of {length} samples", "windows", any(s.simulated for s in sessions), tuple(scores))


def _score(session: StoredSession, hypothesis: Hypothesis) -> SessionScore:
    reference = session.labels.tolist()
    units = -(-len(session) // _UNIT_SAMPLES)
    counts = count_units(reference, hypothesis.labels, np.minimum(session.onsets // _UNIT_SAMPLES, units - 1), units)
    return SessionScore(session.name, session.user, text_of_labels(reference), hypothesis.text, tuple(counts))
