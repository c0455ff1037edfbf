"""Transcripts and references -> scores of a model on whole sessions, with intervals; how a score is stored.

`evaluate` follows the paper's protocol: a whole session at once, without windows. An attention decoder has no
emissions: `evaluate_attention` reads windows as long as those of training, one by one.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from functools import cached_property
from math import isnan
from reprlib import repr as shortened
from typing import Any, Literal, get_args

import numpy as np
import torch
from rapidfuzz.distance import Levenshtein

from emgscribe.config import from_json, require
from emgscribe.data.charset import text_of_labels
from emgscribe.data.hdf5 import kind_of
from emgscribe.data.session import Session, how_simulated
from emgscribe.data.windows import Store, Windows
from emgscribe.decoding.decoder import Decoder, Emissions, decode_batch
from emgscribe.decoding.registry import make_decoder
from emgscribe.errors import EmgscribeError
from emgscribe.models.attention import search
from emgscribe.models.model import Model, evaluating
from emgscribe.scoring import Counts, cer_difference, cer_interval, count, count_units, interval_text, total
from emgscribe.transcription import BLOCK_SECONDS, emission_blocks, inference_plan, normalized_to, published_blocks

_UNIT, _UNIT_SECONDS = "segments of 10 s", 10  # for the bootstrap: longer than errors stay correlated
_WINDOW = 4.0  # s, of the published windows
_ABOUT = ("protocol", "passes", "unit", "simulated")  # the fields of an Evaluation that are stored as they are
_FLAGS = {"seen", "real_keys"}  # and those that are stored where they are true
_AGAIN = "score the model again"
# Limits on an untrusted result file, so that checking it takes only seconds:
_MAX_STEPS, _MAX_UNITS = 5 * 10**10, 200_000  # steps of the alignments; units, as many as in 555 hours

Protocol = Literal["sessions", "published", "windows"]
Decoders = Mapping[str, Decoder]  # by their names in a result
Progress = Callable[[float], None]


@dataclass(frozen=True)
class SessionScore:
    """What a decoder read in one session; `units` are the counts of its 10 s segments (or windows), which add up."""

    session: str
    user: str
    reference: str
    hypothesis: str
    units: tuple[Counts, ...]

    @property
    def counts(self) -> Counts:
        return total(self.units)


@dataclass(frozen=True, repr=False)
class Evaluation:
    """Scores of sessions by one model and decoder.

    `simulated` is true if any session was: then the scores say nothing about recordings. `passes` says how the
    emissions were computed (see `transcription`), `unit` what the bootstrap resamples, `seen` whether sessions were
    scored although the model was trained on them, and `real_keys` whether people pressed the keys of all that were
    simulated.
    """

    protocol: str
    passes: str
    unit: str
    simulated: bool
    sessions: tuple[SessionScore, ...]
    seen: bool = False
    real_keys: bool = False

    def __repr__(self) -> str:
        many = f"{len(self.sessions)} session{'s' * (len(self.sessions) != 1)}, {self.kind}"
        return f"<Evaluation of {many}: CER {self.cer:.2f} % ({interval_text(self.interval)})>"

    @property
    def kind(self) -> str:
        """The sessions in words: recorded, simulated, or simulated EMG, real keys."""
        return kind_of(simulated=self.simulated, real_keys=self.real_keys)

    @property
    def counts(self) -> Counts:
        """Counts over all sessions."""
        return total([session.counts for session in self.sessions])

    @property
    def units(self) -> list[Counts]:
        """Counts of each unit of all sessions, in order."""
        return [unit for session in self.sessions for unit in session.units]

    @property
    def cer(self) -> float:
        """Character error rate over all sessions in per cent; NaN where nothing was typed."""
        return self.counts.cer

    @cached_property  # a bootstrap
    def interval(self) -> tuple[float, float]:
        """95 % bootstrap interval of the CER in per cent; NaN where one segment has all the keys."""
        return cer_interval(self.units)

    def minus(self, other: "Evaluation") -> tuple[float, float, float]:
        """This CER minus that of `other` on the same sessions, in points, with its paired 95 % bootstrap interval.

        Raises `EmgscribeError` where the sessions are not the same, or were cut into different units.
        """
        ours, theirs = ([(s.session, s.reference, len(s.units)) for s in each.sessions] for each in (self, other))
        if ours != theirs or self.unit != other.unit:
            raise EmgscribeError("the evaluations differ in sessions", hint="evaluate both on the same sessions")
        return cer_difference(self.units, other.units)

    def to_json(self) -> dict[str, Any]:
        """Counts and texts, ready for JSON; rates are derived from the counts when they are shown."""
        typed = self.counts.length > 0
        return {
            **{name: getattr(self, name) for name in _ABOUT},
            **{name: True for name in _FLAGS if getattr(self, name)},
            "cer": self.cer if typed else None,
            "cer_interval": None if isnan(self.interval[0]) else list(self.interval),
            "sessions": [{**vars(s), "units": [list(astuple(unit)) for unit in s.units]} for s in self.sessions],
        }

    @classmethod
    def from_json(cls, content: Any) -> "Evaluation":
        """Read what `to_json` wrote. A missing or wrong field, or numbers that disagree, raise `EmgscribeError`."""
        try:
            units = [tuple(map(_counts, entry["units"])) for entry in content["sessions"]]
            own = {name: content[name] for name in (*_ABOUT, *content.keys() & _FLAGS)}
            own["sessions"] = [entry | {"units": []} for entry in content["sessions"]]
            cer = content["cer"]
        except (KeyError, TypeError, AttributeError) as error:
            fault = f"{error} is missing" if isinstance(error, KeyError) else f"a field has the wrong type ({error})"
            raise EmgscribeError(fault, hint=_AGAIN) from error
        empty = from_json(cls, own, where="")
        pairs = zip(empty.sessions, units, strict=True)
        found = replace(empty, sessions=tuple(replace(score, units=part) for score, part in pairs))
        if fault := _contradiction(found, cer):
            raise EmgscribeError(fault, hint=_AGAIN)
        return found


def _contradiction(found: Evaluation, cer: Any) -> str:
    """What is contradictory in a stored evaluation; empty where nothing is."""
    steps = sum(len(score.reference) * len(score.hypothesis) for score in found.sessions)
    if steps > _MAX_STEPS or len(found.units) > _MAX_UNITS:
        return "it is longer than all sessions in existence"
    for score in found.sessions:
        # Windows, aligned one by one, may need more edits than the whole text.
        fewest = Levenshtein.distance(score.reference, score.hypothesis)
        if score.counts.length != len(score.reference) or score.counts.edits < fewest:
            return f"the counts of {score.session} do not fit its texts"
    if found.counts.length and not (isinstance(cer, float) and abs(found.cer - cer) < 1e-6):
        return f"its CER is {shortened(cer)}, but its counts give {found.cer}"
    return ""


def _counts(row: Any) -> Counts:
    valid = isinstance(row, list) and len(row) == 4 and all(type(n) is int and 0 <= n < 1 << 32 for n in row)
    require(valid, "a unit", row, "4 counts")
    return Counts(*row)


def evaluate(
    model: Model,
    sessions: Sequence[Session],
    decoder: Decoder | str = "greedy",
    *,
    protocol: Protocol = "sessions",
    own_norm: float = 0.0,
    allow_seen: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """Transcribe sessions with one decoder and score them; see `evaluate_all`.

    A name stands for the decoder that `make_decoder` returns, with the weights that were tuned for the model. If none
    were, the beam's language model is made without the prompts of these sessions.
    """
    if isinstance(decoder, str):
        decoder = make_decoder(decoder, folder=model.folder, scored=sessions)
    return evaluate_all(
        model, sessions, {"": decoder}, protocol=protocol, own_norm=own_norm, allow_seen=allow_seen, progress=progress
    )[""]


def evaluate_all(
    model: Model,
    sessions: Sequence[Session],
    decoders: Decoders,
    *,
    protocol: Protocol = "sessions",
    own_norm: float = 0.0,
    allow_seen: bool = False,
    progress: Progress | None = None,
) -> dict[str, Evaluation]:
    """Score sessions with several decoders, all fed with the same emissions; the network runs once.

    The protocol "sessions" reads whole ones. "published" has no padding and counts the keys at both ends that have no
    frame as missed, as published numbers do. "windows" reads windows of 4 s one by one, as validation does in training.
    With `own_norm` each session is read by the model `normalized_to` it by that share, which uses the signal of the
    test session, but none of its keys. `progress` is called with the fraction of all samples done. Raises
    `EmgscribeError` where a session is given twice, and where the model, or one that it was made from, was
    trained on one of the sessions. With `allow_seen` such a session is scored, and the result says so.
    """
    require(protocol in get_args(Protocol), "protocol", protocol, ", ".join(get_args(Protocol)))
    windowed = protocol == "windows"
    require(not (windowed and own_norm), "own_norm", own_norm, "0 with windows: it is for whole sessions")
    seen = _check(model, sessions, allow_seen=allow_seen)
    scores: dict[str, list[SessionScore]] = {name: [] for name in decoders}
    passes: dict[str, None] = {}  # a set that keeps its order
    samples, done = sum(map(len, sessions)), 0

    def advance(read: int) -> None:
        if progress:
            progress(min(1.0, (done + read) / samples))

    for session in sessions:
        reader = normalized_to(model, session, own_norm) if own_norm else model
        if windowed:
            passes["windows"], found = None, _read_windows(reader, session, decoders, advance)
        elif protocol == "published":
            passes["no padding"], blocks = None, published_blocks(reader, session)
            found = _read_whole(reader, session, blocks, decoders, advance)
        else:
            plan = inference_plan(reader, len(session))
            passes[plan.name], blocks = None, emission_blocks(reader, session, plan)
            found = _read_whole(reader, session, blocks, decoders, advance)
        for name, score in found.items():
            scores[name].append(score)
        done += len(session)
    how = f"windows of {_WINDOW:g} s" if windowed else "whole session" + ", published" * (protocol == "published")
    how += f", norm moved by {own_norm:g}" * (own_norm > 0)
    about, (simulated, real_keys) = (how, ", ".join(passes), "windows" if windowed else _UNIT), how_simulated(sessions)
    return {name: Evaluation(*about, simulated, tuple(own), seen, real_keys) for name, own in scores.items()}


def _read_whole(
    model: Model, session: Session, blocks: Iterable[Emissions], decoders: Decoders, advance: Callable[[int], None]
) -> dict[str, SessionScore]:
    """The score of each decoder on all blocks of a session; `advance` gets the samples done."""
    for decoder in decoders.values():
        decoder.reset()
    frames = 0
    for block in blocks:
        for decoder in decoders.values():
            decoder.feed(block)
        frames += len(block)
        advance(frames * model.samples_per_frame)
    return {name: _score(session, decoder.flush().labels) for name, decoder in decoders.items()}


def _read_windows(
    model: Model, session: Session, decoders: Decoders, advance: Callable[[int], None]
) -> dict[str, SessionScore]:
    """The score of each decoder on windows that tile a session, each of which is a unit."""
    model.require_shape(session)
    length = session.shape.samples(_WINDOW)
    windows = Windows(Store([session]), length, length, *model.context)
    units: dict[str, list[Counts]] = {name: [] for name in decoders}
    texts, read = dict.fromkeys(decoders, ""), 0
    for batch in windows.batches(windows.tiling(), 8):
        with evaluating(model), torch.inference_mode():
            emissions, frames = model(batch.to(model.device))
        for name, decoder in decoders.items():
            hypotheses = decode_batch(decoder, emissions, frames)
            pairs = zip(batch.references(), hypotheses, strict=True)
            units[name] += [count(reference, hypothesis.labels) for reference, hypothesis in pairs]
            texts[name] += "".join(hypothesis.text for hypothesis in hypotheses)
        read += len(batch) * length
        advance(read)
    about = session.name, session.user, session.text
    return {name: SessionScore(*about, texts[name], tuple(units[name])) for name in decoders}


def evaluate_attention(
    model: Model, sessions: Sequence[Session], *, seconds: float = _WINDOW, ctc_weight: float = 0.5
) -> Evaluation:
    """Score whole sessions as the attention decoder reads them (see `attention_texts`); otherwise like `evaluate`."""
    _check(model, sessions)
    scores = [
        _score(session, [label for text in attention_texts(model, session, seconds, ctc_weight) for label in text])
        for session in sessions
    ]
    passes = f"windows of {seconds:g} s, CTC weight {ctc_weight:g}"
    simulated, real_keys = how_simulated(sessions)
    return Evaluation("whole session", passes, _UNIT, simulated, tuple(scores), real_keys=real_keys)


def attention_texts(
    model: Model, session: Session, seconds: float = _WINDOW, ctc_weight: float = 0.5
) -> Iterator[list[int]]:
    """What the attention decoder reads in a session: the labels of each window, in order.

    Windows of `seconds`, which should be as long as those of training, tile the session, each with the model's context.
    Both heads rank the texts, CTC with a `ctc_weight` below 1 (`attention.search`). Raises `EmgscribeError` where the
    model has no attention decoder.
    """
    if model.attention is None:
        hint = "use greedy or beam, or train a model that has one: --model.attention.layers 2"
        raise EmgscribeError("the model has no attention decoder", hint=hint)
    model.require_shape(session)
    length = session.shape.samples(seconds)
    windows = Windows(Store([session]), length, length, *model.context)
    for batch in windows.batches(windows.tiling(), max(1, round(BLOCK_SECONDS / seconds))):
        with evaluating(model), torch.inference_mode():
            frames = model.encode(model.featurize(batch.to(model.device)), batch.lengths)  # (N, F, D)
            emissions = model.classify(frames)
            texts = search(model.attention, frames, model.frames(batch.lengths), emissions, ctc_weight=ctc_weight)
        yield from texts


def _check(model: Model, sessions: Sequence[Session], *, allow_seen: bool = False) -> bool:
    """Whether the model was trained on a session, refused unless allowed; a session given twice is refused too."""
    known: dict[str, str] = {}
    for session in sessions:
        if first := known.get(session.content):
            other = f", also under the name {first}" if first != session.name else ""
            raise EmgscribeError(f"is given twice{other}", where=session.name, hint="name each session once")
        known[session.content] = session.name
    if not allow_seen:
        model.ancestry.refuse(sessions)
    return any(model.ancestry.seen(session) for session in sessions)


def _score(session: Session, labels: Sequence[int]) -> SessionScore:
    samples = session.shape.samples(_UNIT_SECONDS)
    units = -(-len(session) // samples)
    unit = np.minimum(session.onsets // samples, units - 1)
    counts = count_units(session.labels.tolist(), labels, unit, units)
    return SessionScore(session.name, session.user, session.text, text_of_labels(labels), tuple(counts))
