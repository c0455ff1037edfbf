"""A model and sessions -> text and its errors, in memory bounded by a block.

`evaluate` follows the paper's protocol: a whole session at once, without windows. How the emissions are computed is
decided by `reading`, from what the encoder declares, and recorded in the result:

- A finite receptive field: block by block, each with all the context that the network sees, which equals one pass.
- Recurrence: one pass where that fits into memory, else long stretches with margins that are computed and thrown away,
  within which a recurrent state has forgotten what it did not see.
- Attention: stretches with margins that are together as long as a window of training. It knows no other lengths: on
  whole sessions others saw it fail (CER near 100 %) or run out of memory.

An attention decoder has no emissions: `evaluate_attention` reads windows as long as those of training, one by one.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from emgscribe.attention import search
from emgscribe.charset import text_of_labels
from emgscribe.decode import Decoder, Emissions, Hypothesis, decode_batch
from emgscribe.emissions import kept_emissions, model_hash
from emgscribe.errors import EmgscribeError
from emgscribe.model import Model
from emgscribe.score import Counts, cer_interval, count, count_units, total
from emgscribe.session import BANDS, CHANNELS, SAMPLE_RATE
from emgscribe.store import Store, StoredSession
from emgscribe.windows import Batch, Windows

BLOCK_SECONDS = 60
ONE_PASS_BYTES = 5 << 29  # 2.5 GB, so that all of a process stays below 4
_MARGIN_SECONDS = 10  # of recurrence: many times what a network trained on windows of 5 s can remember
_ATTENTION_SECONDS = 2, 1  # kept, and the margin on both sides: with both as long as the published window
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
    """Scores of sessions, of one model and decoder. `simulated` where any session was: such rates are not real ones.

    `passes` says how the emissions of the sessions were computed: in blocks, in one pass, or stitched.
    """

    protocol: str
    passes: str
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
            "passes": self.passes,
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

    `progress` is called with the fraction of all samples done. Raises `EmgscribeError` where the model, or one that it
    was trained from, was trained on one of the sessions, and where one is given twice.
    """
    _check(model, sessions)
    scores = []
    passes: dict[str, None] = {}  # a set that keeps its order
    samples, done = sum(map(len, sessions)), 0
    for session in sessions:
        way = reading(model, len(session), block_seconds)
        passes[way.name] = None

        def told(fraction: float, done: int = done, length: int = len(session)) -> None:
            if progress:
                progress((done + fraction * length) / samples)

        hypothesis = read(model, session, decoder, way, block_seconds=block_seconds, progress=told)
        scores.append(_score(session, hypothesis.labels))
        done += len(session)
    simulated = any(session.simulated for session in sessions)
    return Result("whole session", ", ".join(passes), "stretches of 10 s", simulated, tuple(scores))


@dataclass(frozen=True)
class Reading:
    """How a session is read: `kept` samples at a time, each time computing `margin` more on each unbounded side."""

    name: str
    kept: int
    margin: int = 0


def reading(model: Model, samples: int, block_seconds: float = BLOCK_SECONDS) -> Reading:
    """The way to read a session of so many samples that the model's encoder allows and memory bears."""
    encoder = model.encoder
    block = _whole_frames(model, block_seconds)
    if not encoder.unbounded_left and not encoder.unbounded_right:
        return Reading("blocks", block)
    if not encoder.extrapolates:
        kept, margin = _ATTENTION_SECONDS
        name = f"stitched, {kept} s with margins of {margin} s"
        return Reading(name, _whole_frames(model, kept), _whole_frames(model, margin))
    if one_pass_bytes(model, samples) <= ONE_PASS_BYTES:
        return Reading("one pass", model.frames(samples) * model.samples_per_frame)
    name = f"stitched, {block_seconds:g} s with margins of {_MARGIN_SECONDS} s"
    return Reading(name, block, _whole_frames(model, _MARGIN_SECONDS))


def _whole_frames(model: Model, seconds: float) -> int:
    return max(1, round(seconds * SAMPLE_RATE / model.samples_per_frame)) * model.samples_per_frame


def one_pass_bytes(model: Model, samples: int) -> int:
    """An estimate of what one pass over so many samples takes: all that modules return on a second, extrapolated.

    Most is freed along the way, while what a module needs inside is not counted: measured, 0.9 to 3.6 times the truth.
    """
    returned: dict[int, Tensor] = {}  # by address: a container returns what its last module did

    def note(_: nn.Module, __: object, output: Any) -> None:
        tensor = output[0] if isinstance(output, tuple) else output  # recurrent cells return their state too
        returned[tensor.data_ptr()] = tensor

    hooks = [module.register_forward_hook(note) for module in model.modules()]
    left, right = model.context
    emg = torch.zeros(1, left + SAMPLE_RATE + right, BANDS, CHANNELS, device=model.device)
    none = torch.zeros(1, 0, dtype=torch.int64)
    batch = Batch(emg, left, right, torch.tensor([SAMPLE_RATE]), none, torch.zeros(1, dtype=torch.int64), none)
    with torch.inference_mode():
        model(batch)
    for hook in hooks:
        hook.remove()
    return (2 * emg.nbytes + sum(tensor.nbytes for tensor in returned.values())) * samples // emg.shape[1]


def read(
    model: Model,
    session: StoredSession,
    decoder: Decoder,
    way: Reading | None = None,
    *,
    block_seconds: float = BLOCK_SECONDS,
    progress: Callable[[float], None] | None = None,
) -> Hypothesis:
    """What a decoder reads in a whole session, fed block by block; `progress` is called with the fraction done."""
    emissions = stored_emissions(model, session, way, block_seconds=block_seconds, progress=progress)
    decoder.reset()
    block = _whole_frames(model, block_seconds) // model.samples_per_frame
    for start in range(0, len(emissions), block):
        decoder.feed(emissions[start : start + block])
    return decoder.flush()


def stored_emissions(
    model: Model,
    session: StoredSession,
    way: Reading | None = None,
    *,
    block_seconds: float = BLOCK_SECONDS,
    progress: Callable[[float], None] | None = None,
) -> Emissions:
    """What `session_emissions` gives, as one memory map (F, V), computed once and then taken from the cache folder.

    Raises `EmgscribeError` where the cache cannot be written.
    """
    way = way or reading(model, len(session), block_seconds)
    frames = model.frames(len(session))

    def computed() -> Iterator[Emissions]:
        done = 0
        for emissions in _emissions(model, session, way, block_seconds):
            done += len(emissions)
            if progress:
                progress(done / frames)
            yield emissions

    return kept_emissions((model_hash(model), model.device.type, session.content, way), frames, computed())


def session_emissions(
    model: Model, session: StoredSession, block_seconds: float = BLOCK_SECONDS
) -> Iterator[Emissions]:
    """Emissions (F, V) of a whole session, in order, some `block_seconds` of signal at a time (see `reading`).

    What lies before and after the session is taken as zero. With a finite receptive field any block length gives the
    same emissions.
    """
    return _emissions(model, session, reading(model, len(session), block_seconds), block_seconds)


def _emissions(model: Model, session: StoredSession, way: Reading, block_seconds: float) -> Iterator[Emissions]:
    before, after = (way.margin * side for side in (model.encoder.unbounded_left, model.encoder.unbounded_right))
    windows = Windows(Store([session]), before + way.kept + after, way.kept, *model.context)
    # No window begins before the session does: its silence would be more than the context that training knows.
    starts = [start for _, start in windows.tiling()]
    places = [(0, max(0, start - before)) for start in starts]
    kept = model.frames(way.kept)
    together = max(1, round(block_seconds * SAMPLE_RATE) // windows.length)  # short windows make a batch
    for first in range(0, len(places), together):
        batch = windows.batch(places[first : first + together]).to(model.device)
        with torch.inference_mode():
            emissions = model(batch).cpu().numpy()  # (N, F, V)
        for row, frames, start, (_, place) in zip(
            emissions, model.frames(batch.lengths).tolist(), starts[first:], places[first:], strict=False
        ):
            margin = model.frames(start - place)
            yield row[margin : min(margin + kept, frames)]


def evaluate_windows(model: Model, sessions: list[StoredSession], decoder: Decoder, length: int = 8000) -> Result:
    """Score windows of `length` samples one by one, as validation does in training; refuses what `evaluate` refuses."""
    _check(model, sessions)
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
    return Result(
        f"windows of {length} samples", "windows", "windows", any(s.simulated for s in sessions), tuple(scores)
    )


def evaluate_attention(
    model: Model,
    sessions: list[StoredSession],
    *,
    length: int = 8000,
    ctc_weight: float = 0.5,
    progress: Callable[[float], None] | None = None,
) -> Result:
    """Score whole sessions as the attention decoder reads them (see `attention_texts`), like `evaluate` otherwise."""
    _check(model, sessions)
    scores = []
    samples, done = sum(map(len, sessions)), 0
    for session in sessions:
        labels: list[int] = []
        for texts in attention_texts(model, session, length, ctc_weight):
            labels += [label for text in texts for label in text]
            done += len(texts) * length
            if progress:
                progress(min(1.0, done / samples))
        scores.append(_score(session, labels))
    passes = f"windows of {length / SAMPLE_RATE:g} s, the share of CTC {ctc_weight:g}"
    simulated = any(session.simulated for session in sessions)
    return Result("whole session", passes, "stretches of 10 s", simulated, tuple(scores))


def attention_texts(
    model: Model, session: StoredSession, length: int = 8000, ctc_weight: float = 0.5
) -> Iterator[list[list[int]]]:
    """What the attention decoder reads in a session: the labels of some windows at a time, in order.

    Windows of `length` samples, which should be those of training, tile the session and bring the model's context
    along; together their texts are the session's. They are ranked by both heads, CTC having the share `ctc_weight`,
    below 1 (`attention.search`). Raises `EmgscribeError` where the model has no attention decoder.
    """
    if model.attention is None:
        mend = "read it by its emissions, or train one that has: --model.attention.layers 2"
        raise EmgscribeError("the model has no attention decoder", mend=mend)
    windows = Windows(Store([session]), length, length, *model.context)
    together = max(1, BLOCK_SECONDS * SAMPLE_RATE // length)
    for batch in windows.batches(windows.tiling(), together):
        with torch.inference_mode():
            frames = model.encode(model.featurize(batch.to(model.device)), batch.lengths)  # (N, F, D)
            emissions = model.classify(frames)
        yield search(model.attention, frames, model.frames(batch.lengths), emissions, ctc_weight=ctc_weight)


def _check(model: Model, sessions: Sequence[StoredSession]) -> None:
    """Refuse sessions that the model has learned from, and one that is given twice: its stretches are not new ones."""
    assert not model.training, "a model in training mode would be scored by its batches' statistics"
    model.ancestry.refuse(sessions)
    seen: dict[str, str] = {}
    for session in sessions:
        if session.content in seen:
            other = f", there called {seen[session.content]}" if seen[session.content] != session.name else ""
            raise EmgscribeError(f"is given twice{other}", where=session.name, mend="name each session once")
        seen[session.content] = session.name


def _score(session: StoredSession, labels: Sequence[int]) -> SessionScore:
    reference = session.labels.tolist()
    units = -(-len(session) // _UNIT_SAMPLES)
    counts = count_units(reference, labels, np.minimum(session.onsets // _UNIT_SAMPLES, units - 1), units)
    return SessionScore(session.name, session.user, text_of_labels(reference), text_of_labels(labels), tuple(counts))
