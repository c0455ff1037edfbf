"""Windows of sessions, and their labels: sessions -> batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from emgscribe.config import Count, Settings, Whole
from emgscribe.data.charset import BLANK
from emgscribe.data.hdf5 import BANDS, CHANNELS
from emgscribe.data.session import Session

Places = Sequence[tuple[int, int]]  # windows, each (session, first labelled sample)


@dataclass(frozen=True)
class WindowConfig(Settings):
    """How sessions are cut for training and validation, in samples at 2 kHz (published: 4 s, 900 ms and 100 ms)."""

    section = "windows"

    length: Count = 8000  # labelled samples of a window
    stride: Count = 8000  # samples from one training window to the next
    left: Whole = 1800  # unlabelled samples of context before a window; an encoder that needs more gets more
    right: Whole = 200  # unlabelled samples of context after a window


class Store:
    """Sessions from which windows are gathered, as a batch, on `device`.

    On a CPU the samples stay on disk, mapped into memory. Another device is given a copy of them once, if it has room;
    if not, the store stays on the CPU, and whoever gathers moves the batch.
    """

    def __init__(self, sessions: Sequence[Session], device: torch.device | str = "cpu") -> None:
        self.sessions = tuple(sessions)
        size = sum(session.emg.nbytes for session in self.sessions)
        self.device = torch.device(device) if _has_room(torch.device(device), size) else torch.device("cpu")
        self._emg = [torch.from_numpy(session.emg).to(self.device) for session in self.sessions]

    def gather(self, sessions: Sequence[int], starts: Sequence[int], length: int) -> torch.Tensor:
        """EMG (N, length, 2, 16) of windows that begin at sample `starts[n]` of session number `sessions[n]`.

        What lies before a session's first sample or after its last one is zero.
        """
        out = torch.empty(len(starts), length, BANDS, CHANNELS, device=self.device)
        for window, session, start in zip(out, sessions, starts, strict=True):
            emg = self._emg[session]
            low, high = max(start, 0), min(start + length, len(emg))
            if high <= low:
                window.zero_()
                continue
            window[: low - start].zero_()
            window[low - start : high - start] = emg[low:high]
            window[high - start :].zero_()
        return out


def _has_room(device: torch.device, size: int) -> bool:
    """Whether `size` bytes leave the larger part of the device's memory to the network."""
    return device.type != "cuda" or size < 0.4 * torch.cuda.mem_get_info(device)[0]


@dataclass(frozen=True)
class Batch:
    """N windows: labelled samples with unlabelled context on both sides.

    `emg` is (N, left + T + right, 2, 16); `lengths` (N,) says how many of the T labelled samples lie inside the
    session. `labels` (N, L) is padded with the blank to the longest item, `label_lengths` (N,) counts the real ones,
    and `onsets` (N, L) is when each key went down, in samples after the first labelled one (padding: -1). Both lengths
    and the onsets stay on the CPU, where CTC and augmentation want them.
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
        moved = ("emg", "labels")
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
