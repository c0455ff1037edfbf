"""A model and a session -> emissions -> text, in memory bounded by a block."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from emgscribe.config import require
from emgscribe.data.charset import screen_text, text_of_labels
from emgscribe.data.session import Session
from emgscribe.data.windows import Batch, Store, Windows
from emgscribe.decoding.decoder import Decoder, Emissions
from emgscribe.decoding.greedy import GreedyDecoder
from emgscribe.errors import EmgscribeError
from emgscribe.models.model import Model, evaluating

BLOCK_SECONDS = 60
ONE_PASS_BYTES = 5 << 29  # 2.5 GB, so that the whole process stays below 4 GB
_MARGIN_SECONDS = 10  # of recurrence: many times what a network trained on windows of 5 s can remember
_INSPECT = "look at the recording: emgscribe inspect FILE"
_ATTENTION_SECONDS = 2, 1  # kept, and the margin on each side; together as long as the published window


@dataclass(frozen=True)
class InferencePlan:
    """How a session is read: `kept` samples at a time, each time computing `margin` more on each unbounded side."""

    name: str
    kept: int
    margin: int = 0


@dataclass(frozen=True)
class Transcript:
    """What a model read in a session: `labels`, and for each key the time at which it began (`onsets`, in s)."""

    labels: tuple[int, ...]
    onsets: tuple[float, ...]

    def __repr__(self) -> str:
        return f"<Transcript of {len(self.labels)} keys: {self.text[:40]!r}{'…' * (len(self.labels) > 40)}>"

    @property
    def text(self) -> str:
        """The keystrokes, with ⌫ ⏎ and ⇧ as symbols."""
        return text_of_labels(self.labels)

    @property
    def screen(self) -> str:
        """What a screen shows after them: backspaces applied, shift dropped."""
        return screen_text(self.labels)


def transcribe(model: Model, session: Session, decoder: Decoder | None = None) -> Transcript:
    """Transcribe a whole session with `decoder` (default: greedy)."""
    decoder = decoder or GreedyDecoder()
    decoder.reset()
    for block in emission_blocks(model, session):
        decoder.feed(block)
    hypothesis, seconds = decoder.flush(), model.samples_per_frame / model.shape.rate
    return Transcript(hypothesis.labels, tuple(frame * seconds for frame in hypothesis.frames))


def normalized_to(model: Model, session: Session, share: float = 0.75) -> Model:
    """A copy of the model whose norms expect each electrode at its level in `session`; the keys are not used.

    After another donning, or on another person, the electrodes have other gains. The means of the norms over
    electrode channels move by `share` from those of the training to those of the session; the variances stay (adaptive
    batch normalisation, Li et al. 2016, arXiv 1603.04779, also moves them, which did not help: LOG.md, 2026-11-30).
    Raises `EmgscribeError` where the model has no such norm, and where samples are not finite.
    """
    require(0 <= share <= 1, "share", share, "0 to 1")
    model.require_shape(session)
    moved, store = deepcopy(model), Store([session])
    if len(session) < model.features.span:
        return moved
    sums, counts = defaultdict[nn.BatchNorm1d, Any](float), Counter[nn.BatchNorm1d]()
    blocks = max(1, len(session) // session.shape.samples(BLOCK_SECONDS))
    edges = np.linspace(0, len(session), blocks + 1).astype(int).tolist()
    for begin, end in pairwise(edges):
        emg = store.gather([(0, begin)], end - begin)
        if not emg.isfinite().all():
            raise EmgscribeError("some of its samples are not finite", where=session.name, hint=_INSPECT)
        with evaluating(moved), torch.inference_mode():
            for norm, seen in moved.encoder.norms(moved.features(emg.to(model.device))):  # (n, F, B, C, K)
                levels = seen.float().mean(dim=4)
                sums[norm] += levels.sum(dim=(0, 1)).flatten()
                counts[norm] += levels.shape[0] * levels.shape[1]
    if not counts:
        hint = "a rolling norm follows every session by itself"
        raise EmgscribeError("the model has no norm over electrodes", where=str(model.folder or ""), hint=hint)
    for norm, count in counts.items():
        mean: Any = norm.running_mean
        mean.lerp_(sums[norm] / count, share)
    return moved


def log_probs(model: Model, session: Session) -> Emissions:
    """Emissions (F, 99) of a whole session: natural log-probabilities, one frame every `samples_per_frame` samples."""
    return np.concatenate(list(emission_blocks(model, session)))


def emission_blocks(
    model: Model, session: Session, plan: InferencePlan | None = None, *, block_seconds: float = BLOCK_SECONDS
) -> Iterator[Emissions]:
    """Emissions (F, 99) of a whole session, in order, about `block_seconds` of signal at a time.

    What lies before and after the session is taken as zero. With a finite receptive field any block length gives the
    same emissions.
    """
    model.require_shape(session)
    plan = plan or inference_plan(model, len(session), block_seconds)
    before, after = (plan.margin * side for side in (model.encoder.unbounded_left, model.encoder.unbounded_right))
    windows = Windows(Store([session]), before + plan.kept + after, plan.kept, *model.context)
    starts = [start for _, start in windows.tiling()]
    # No window begins before the session: that would put more silence before it than training windows have.
    places = [(0, max(0, start - before)) for start in starts]
    together = max(1, session.shape.samples(block_seconds) // windows.length)  # short windows make a batch
    for first in range(0, len(places), together):
        batch = windows.batch(places[first : first + together])
        with evaluating(model), torch.inference_mode():
            emissions, lengths = model(batch.to(model.device))
        _check(emissions, batch.emg, session)
        rows = zip(emissions.cpu().numpy(), lengths.tolist(), starts[first:], places[first:], strict=False)
        for row, frames, start, (_, place) in rows:
            margin = model.frames(start - place)
            yield row[margin : min(margin + model.frames(plan.kept), frames)]


def published_blocks(model: Model, session: Session) -> Iterator[Emissions]:
    """Emissions (F, 99) as the published evaluation computes them: frames from sample 0 on, and no padding.

    The frames that lack context at both ends of the session are left out, and the keys in them count as missed
    (Sivakumar et al. 2024). With an unbounded receptive field the whole session is one pass.
    """
    model.require_shape(session)
    features, encoder, store = model.features, model.encoder, Store([session])
    around = encoder.left_context + encoder.right_context
    whole = (features.frames(len(session)) - around) // encoder.stride
    unbounded = encoder.unbounded_left or encoder.unbounded_right
    block = max(whole, 1) if unbounded else model.frames(session.shape.samples(BLOCK_SECONDS))
    for first in range(0, whole, block):
        count, begin = min(block, whole - first) * encoder.stride, first * model.samples_per_frame
        emg = store.gather([(0, begin)], features.samples(around + count)).to(model.device)
        with evaluating(model), torch.inference_mode():
            emissions = model.classify(encoder(features(emg), torch.tensor([count])))
        _check(emissions, emg, session)
        yield emissions[0].cpu().numpy()


def _check(emissions: Tensor, emg: Tensor, session: Session) -> None:
    """Refuse emissions that are NaN. The signal is to blame if it is not finite, else the model."""
    if emissions.isnan().any():
        finite = bool(emg.isfinite().all())
        what = "its samples are finite, so the model is at fault" if finite else "some of its samples are not finite"
        hint = "use another model, or train this one again" if finite else _INSPECT
        raise EmgscribeError(f"emissions are NaN: {what}", where=session.name, hint=hint)


def inference_plan(model: Model, samples: int, block_seconds: float = BLOCK_SECONDS) -> InferencePlan:
    """How a session of `samples` samples is read, which depends on what the encoder declares.

    - A finite receptive field: block by block, each with all the context that the network sees, which equals one pass.
    - Recurrence: one pass where that fits into memory, else long segments with margins that are computed and thrown
      away, across which a recurrent state forgets what lies beyond them.
    - Attention: segments with margins that are together as long as a training window. It has learned no other lengths:
      on whole sessions it has been seen to fail (CER near 100 %) or to run out of memory.
    """
    encoder = model.encoder
    if not (encoder.unbounded_left or encoder.unbounded_right):
        return InferencePlan("blocks", _whole_frames(model, block_seconds))
    if encoder.extrapolates and one_pass_bytes(model, samples) <= ONE_PASS_BYTES:
        return InferencePlan("one pass", model.frames(samples) * model.samples_per_frame)
    kept, margin = (block_seconds, _MARGIN_SECONDS) if encoder.extrapolates else _ATTENTION_SECONDS
    name = f"stitched, {kept:g} s with margins of {margin} s"
    return InferencePlan(name, _whole_frames(model, kept), _whole_frames(model, margin))


def _whole_frames(model: Model, seconds: float) -> int:
    return max(1, round(seconds * model.shape.rate / model.samples_per_frame)) * model.samples_per_frame


def one_pass_bytes(model: Model, samples: int) -> int:
    """Estimate the memory of one pass over `samples` samples: all that modules return for one second, extrapolated.

    Most of it is freed along the way, and what a module needs internally is not counted: the estimate was 0.9 to 3.6
    times the measured memory (LOG.md, 2026-11-22).
    """
    returned: dict[int, Tensor] = {}  # by address: a container returns what its last module did

    def note(_: nn.Module, __: object, output: Any) -> None:
        returned.update({leaf.data_ptr(): leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)})

    (left, right), second, shape = model.context, model.shape.samples(1), model.shape
    emg = torch.zeros(1, left + second + right, *shape.sample, device=model.device)
    none = torch.zeros(1, 0, dtype=torch.int64)
    with evaluating(model), torch.inference_mode(), ExitStack() as hooks:
        for module in model.modules():
            hooks.callback(module.register_forward_hook(note).remove)
        model(Batch(emg, left, right, torch.tensor([second]), none, torch.zeros(1, dtype=torch.int64), none))
    return (2 * emg.nbytes + sum(tensor.nbytes for tensor in returned.values())) * samples // emg.shape[1]
