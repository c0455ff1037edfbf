"""Which windows of which sessions, and their labels: sessions -> batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from emgscribe.charset import BLANK
from emgscribe.store import Store

Places = Sequence[tuple[int, int]]  # windows, each (session, first labelled sample)


@dataclass(frozen=True)
class Batch:
    """N windows: labelled samples with unlabelled context on both sides.

    `emg` is (N, left + T + right, 2, 16); `lengths` (N,) says how many of the T labelled samples lie inside the
    session. `labels` (N, L) is padded with the blank to the longest item, `label_lengths` (N,) counts the real ones,
    and `onsets` (N, L) is when each key went down, in samples after the first labelled one (padding: -1). Both lengths
    stay on the CPU, where CTC wants them.
    """

    emg: Tensor
    left: int
    right: int
    lengths: Tensor
    labels: Tensor
    label_lengths: Tensor
    onsets: Tensor
    share: float = 1.0  # the weight of its loss, where it is one of the parts of a batch

    @property
    def labelled(self) -> int:
        """T, the labelled samples of a window."""
        return self.emg.shape[1] - self.left - self.right

    def __len__(self) -> int:
        return len(self.emg)

    def references(self) -> list[list[int]]:
        """The labels of each item without the padding."""
        return [row[:length] for row, length in zip(self.labels.tolist(), self.label_lengths.tolist(), strict=True)]

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""
        moved = ("emg", "labels", "onsets")
        return replace(self, **{name: getattr(self, name).to(device, non_blocking=True) for name in moved})


@dataclass(frozen=True)
class Windows:
    """Windows of `length` labelled samples, `stride` apart, with `left` and `right` samples of context (all 2 kHz)."""

    store: Store
    length: int
    stride: int
    left: int
    right: int

    def tiling(self) -> Places:
        """(session, first labelled sample) of windows that tile every session; the last one may reach past its end."""
        lengths = map(len, self.store.sessions)
        return [(s, start) for s, length in enumerate(lengths) for start in range(0, length, self.stride)]

    def shuffled(self, generator: torch.Generator) -> Places:
        """The windows of one epoch, in random order: as many as tile the sessions at `stride`.

        Each begins anywhere in its own equal part of the places where a window fits, anew each epoch, so that no sample
        is favoured. A session shorter than a window gives one, from its start.
        """
        places = []
        for s, session in enumerate(self.store.sessions):
            fitting = max(len(session) - self.length, 0) + 1
            count = -(-fitting // self.stride)
            starts = (
                (torch.arange(count) + torch.rand(count, generator=generator, dtype=torch.float64)) * fitting / count
            )
            places += [(s, int(start)) for start in starts.tolist()]
        order = torch.randperm(len(places), generator=generator)
        return [places[i] for i in order.tolist()]

    def batches(self, places: Places, batch_size: int, *, part: int = 0, parts: int = 1) -> Iterator[Batch]:
        """Batches of `batch_size` windows at `places`; the last one may be smaller.

        Of `parts` that make each batch together, part number `part`; the shares say what each counts in their mean. A
        part that gets nothing of a small last batch is given a window that counts nothing.
        """
        for first in range(0, len(places), batch_size):
            whole = places[first : first + batch_size]
            own = whole[part::parts]
            yield replace(self.batch(own or whole[:1]), share=len(own) * parts / len(whole))

    def batch(self, places: Places) -> Batch:
        """One batch of the windows at `places`, each (session, first labelled sample)."""
        sessions, starts = zip(*places, strict=True)
        span = self.left + self.length + self.right
        typed = [self.store.sessions[s].typed(start, start + self.length) for s, start in places]
        longest = max(1, *(keys.stop - keys.start for keys in typed))
        labels = np.full((len(places), longest), BLANK)
        onsets = np.full((len(places), longest), -1)
        for row, (s, start), keys in zip(range(len(places)), places, typed, strict=True):
            count = keys.stop - keys.start
            labels[row, :count] = self.store.sessions[s].labels[keys]
            onsets[row, :count] = self.store.sessions[s].onsets[keys] - start
        lengths = [min(self.length, len(self.store.sessions[s]) - start) for s, start in places]
        return Batch(
            emg=self.store.gather(sessions, [start - self.left for start in starts], span),
            left=self.left,
            right=self.right,
            lengths=torch.tensor(lengths),
            labels=torch.from_numpy(labels),
            label_lengths=torch.tensor([keys.stop - keys.start for keys in typed]),
            onsets=torch.from_numpy(onsets),
        ).to(self.store.device)
