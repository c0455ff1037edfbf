"""A model and samples as they come -> text as it is typed, in bounded memory and with bounded work per second."""

from collections import deque
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from emgscribe.config import require
from emgscribe.data.charset import NUM_CLASSES
from emgscribe.data.hdf5 import Emg, Times
from emgscribe.decoding.decoder import Decoder, Emissions, Hypothesis
from emgscribe.decoding.greedy import GreedyDecoder
from emgscribe.models.model import Model
from emgscribe.models.onnx import OnnxModel
from emgscribe.models.steps import Chain, Sliding, Step
from emgscribe.transcription import Transcript

_PART_SECONDS = 2  # of a long chunk, computed at a time
_SETTLE_SECONDS = 0.1  # from one settling of keys to the next
_SLIDE_SECONDS = 0.25  # by which windows move on


@dataclass(frozen=True, eq=False)
class Update:
    """What a stream read in one chunk.

    `committed` are keys that will never change, each given once; `tentative` are the keys after them as they look now.
    Their `onsets` are in seconds, on the clock of the times that were fed, or else from the start of the stream.
    `emissions` (F, 99) are natural log-probabilities of the frames that the chunk completed. `seconds` is the time up
    to which the signal has been read, `lag` how many seconds were fed but still wait for what comes after them.
    """

    committed: Transcript
    tentative: Transcript
    emissions: Emissions = field(repr=False)
    seconds: float
    lag: float


class Stream:
    """Reads EMG chunk by chunk: `feed` samples (T, B, C) in µV as they come, and `flush` at the end.

    Any division into chunks gives the same emissions as the whole recording, and the same text. Text is committed when
    all of the decoder's hypotheses share it, or `settle_after` seconds after it was typed, in the version of the best
    one at that time: only where a beam is in doubt for longer may the text differ from that of the whole recording. The
    model is put into evaluation mode.

    `delay` is how many seconds after its last sample a frame can be computed: the model's lookahead, and half the
    overlap of its features. A model that needs the whole recording raises `EmgscribeError`, except with `window`:
    then windows of that many seconds slide over the signal, and each is read up to `lookahead` seconds before its end.
    """

    def __init__(
        self,
        model: Model | OnnxModel,
        decoder: Decoder | None = None,
        *,
        settle_after: float = 2.0,
        window: float | None = None,
        lookahead: float = 0.5,
    ) -> None:
        require(settle_after > 0, "settle_after", settle_after, "more than 0 seconds")
        self.model, self.decoder, self._spf = model, decoder or GreedyDecoder(), model.samples_per_frame
        self._steps: Step
        if isinstance(model, Model):
            model.eval()
        if window is None or isinstance(model, OnnxModel):
            require(window is None, "window", window, "none for an exported step, which streams as it is")
            self._steps, self._slide, (self._before, self._after) = model.streamed(), 0, model.context
        else:
            require(
                0 < lookahead < window, "lookahead", lookahead, f"more than 0 and less than the window's {window} s"
            )
            after, self._slide = self._frames(lookahead), self._frames(_SLIDE_SECONDS)
            before = self._frames(window) - self._slide - after
            require(before > 0, "window", window, f"more than {lookahead + _SLIDE_SECONDS} s")
            self._steps = sliding(model, before, self._slide, after)
            self._before, self._after = (
                side + own * self._spf for side, own in zip(model.context, (before, after), strict=True)
            )
        self.delay = (self._after + self._slide * self._spf) / model.shape.rate
        self._every, self._old = self._frames(_SETTLE_SECONDS), self._frames(settle_after)
        self.reset()

    def _frames(self, seconds: float) -> int:
        return max(1, round(seconds * self.model.shape.rate / self._spf))

    def reset(self) -> None:
        """Forget the signal so far: what comes next is another recording."""
        self.decoder.reset()
        self._state: object = None
        self._fed = self._read = 0  # samples, frames
        self._tentative, self._clock = Hypothesis(), _Clock(self.model.shape.rate)
        self._compute(self._silence(self._before))

    def _silence(self, samples: int) -> Emg:
        return np.zeros((samples, *self.model.shape.sample), np.float32)

    def feed(self, samples: Emg, times: Times | None = None) -> Update:
        """Read samples (T, B, C) in µV that follow those fed before; `times` (T,) are their times in seconds.

        Samples of another shape, or that are not finite, raise `EmgscribeError`; none of them is read.
        """
        samples = self.model.shape.checked(samples)
        if times is not None and len(times):
            self._clock.set(self._fed, float(times[0]))
        self._fed += len(samples)
        return self._decode(self._compute(samples), final=False)

    def flush(self) -> Update:
        """Read to the end, as if silence followed, and commit all text. Call `reset` before you feed again."""
        wanted = self.model.frames(self._fed)
        missing = (wanted + self._slide) * self._spf - self._fed
        return self._decode(self._compute(self._silence(self._after + missing))[: wanted - self._read], final=True)

    def _compute(self, samples: Emg) -> Emissions:
        found, size = [np.empty((0, NUM_CLASSES), np.float32)], self._frames(_PART_SECONDS) * self._spf
        with torch.inference_mode():
            for at in range(0, len(samples), size):
                emg = torch.from_numpy(samples[None, at : at + size]).to(self.model.device)  # (1, n, B, C)
                made, self._state = self._steps(emg, self._state)
                if made is not None:
                    found.append(made[0].cpu().numpy())
        return np.concatenate(found)

    def _decode(self, emissions: Emissions, *, final: bool) -> Update:
        """Keys are settled after fixed numbers of frames, whatever the chunks are."""
        settled, at = list[Hypothesis](), 0
        while at < len(emissions):
            end = min(at + self._every - self._read % self._every, len(emissions))
            best = self.decoder.feed(emissions[at:end])
            self._read, at = self._read + end - at, end
            if self._read % self._every == 0:
                settled.append(self.decoder.settle(self._read - self._old))
                taken = len(settled[-1].labels)
                best = Hypothesis(best.labels[taken:], best.frames[taken:])
            self._tentative = best
        if final:
            settled.append(self.decoder.flush())
            self._tentative = Hypothesis()
            self.decoder.reset()
        committed, tentative = self._timed(*settled), self._timed(self._tentative)
        self._clock.forget(min((*self._tentative.frames, self._read)) * self._spf)
        read = self._read * self._spf
        lag = max(0, self._fed - read) / self.model.shape.rate
        return Update(committed, tentative, emissions, self._clock.at(read), lag)

    def _timed(self, *found: Hypothesis) -> Transcript:
        onsets = (self._clock.at(frame * self._spf) for one in found for frame in one.frames)
        return Transcript(tuple(label for one in found for label in one.labels), tuple(onsets))


class _Clock:
    """The time of each sample, counted from the last known start of a chunk before it."""

    def __init__(self, rate: float) -> None:
        self.rate, self._known = rate, deque([(0, 0.0)])  # samples, and their times in s

    def set(self, sample: int, time: float) -> None:
        if sample == 0:
            self._known.clear()
        if not self._known or abs(self.at(sample) - time) > 0.5 / self.rate:
            self._known.append((sample, time))

    def at(self, sample: int) -> float:
        first, time = next((known for known in reversed(self._known) if known[0] <= sample), self._known[0])
        return time + (sample - first) / self.rate

    def forget(self, before: int) -> None:
        """Forget what only samples before `before` need."""
        while len(self._known) > 1 and self._known[1][0] <= before:
            self._known.popleft()


def sliding(model: Model, before: int, kept: int, after: int) -> Chain:
    """The steps of windows that slide over the EMG: each gives `kept` frames, between `before` and `after` others."""
    frames, stride = before + kept + after, kept * model.samples_per_frame
    span = frames * model.samples_per_frame + sum(model.context)

    def read(emg: Tensor) -> Tensor:
        windows = emg[0].unfold(0, span, stride).permute(0, 3, 1, 2)  # (windows, span, B, C)
        labelled = torch.full((len(windows),), frames * model.samples_per_frame)
        hidden = model.encode(model.features(windows), labelled)[:, before : before + kept]
        return model.classify(hidden).flatten(0, 1)[None]

    return Chain([Sliding(read, span, stride)])
