"""Windows of sessions, and their labels: sessions -> batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from emgscribe.config import SAMPLES, Range, Settings
from emgscribe.data.charset import BLANK
from emgscribe.data.session import Session
from emgscribe.data.shape import PUBLISHED_RATE, Shape
from emgscribe.errors import EmgscribeError

Places = Sequence[tuple[int, int]]  # each (session, sample); of a window its first labelled one
_NO_ONSET = -1
_TEN_MINUTES = 1_200_000  # samples in ten minutes: 154 MB of EMG a window
_Length = Annotated[int, Range(1, _TEN_MINUTES), SAMPLES]
_Context = Annotated[int, Range(0, _TEN_MINUTES), SAMPLES]


@dataclass(frozen=True)
class WindowConfig(Settings):
    """How sessions are cut for training and validation, in samples at 2 kHz (published: 4 s, 900 ms and 100 ms).

    At another sampling rate training scales them, so that the durations stay.
    """

    section = "windows"
    length: _Length = 8000  # labelled samples of a window
    stride: _Length = 8000  # samples from one training window to the next
    left: _Context = 1800  # unlabelled samples of context before a window; an encoder that needs more gets more
    right: _Context = 200  # unlabelled samples of context after a window


def shape_of(sessions: Sequence[Session]) -> Shape:
    """The shape that all `sessions` have; `EmgscribeError` where they differ."""
    for session in sessions:
        if session.shape != sessions[0].shape:
            what = f"has {session.shape}, but {sessions[0].name} has {sessions[0].shape}"
            raise EmgscribeError(what, where=session.name, hint="use sessions of one shape together")
    return sessions[0].shape


class Store:
    """Sessions whose samples are gathered in batches on `device`.

    On a CPU the samples stay on disk, mapped into memory. A GPU gets a copy of them once. If the GPU has no room, the
    store stays on the CPU, and the caller moves each batch.
    """

    def __init__(self, sessions: Sequence[Session], device: torch.device | str = "cpu") -> None:
        self.sessions = tuple(sessions)
        self.device = torch.device(device)
        size = sum(session.emg.nbytes for session in self.sessions)
        if self.device.type == "cuda" and size > 0.4 * torch.cuda.mem_get_info(device)[0]:  # the network needs the rest
            self.device = torch.device("cpu")
        self._emg = [torch.from_numpy(session.emg).to(self.device) for session in self.sessions]

    def __reduce__(self) -> tuple[object, ...]:
        return Store, (self.sessions, self.device)  # another process maps the same files

    def gather(self, places: Places, length: int) -> Tensor:
        """EMG (N, length, B, C) from each of N places (session, first sample) on; zero outside a session."""
        out = torch.empty(len(places), length, *self._emg[0].shape[1:], device=self.device)
        for window, (session, start) in zip(out, places, strict=True):
            emg = self._emg[session]
            low, high = (min(max(at, 0), len(emg)) for at in (start, start + length))
            first = max(-start, 0)
            last = first + high - low
            window[:first].zero_()
            window[first:last] = emg[low:high]
            window[last:].zero_()
        return out


@dataclass(frozen=True, repr=False, eq=False)
class Batch:
    """N windows: labelled samples with unlabelled context on both sides.

    `emg` is (N, left + T + right, B, C); `lengths` (N,) is how many of the T labelled samples lie inside the session.
    `labels` (N, L) is padded with the blank, `label_lengths` (N,) counts the real ones, and `onsets` (N, L) is when
    each key went down, in samples after the first labelled one (padding: -1).
    """

    emg: Tensor
    left: int
    right: int
    lengths: Tensor
    labels: Tensor
    label_lengths: Tensor
    onsets: Tensor
    share: float = 1.0  # weight of its loss where several devices each get a part of a batch

    def __repr__(self) -> str:
        keys = int(self.label_lengths.sum())
        return f"<Batch of {len(self)} windows: {self.left} + {self.labelled} + {self.right} samples, {keys} keys>"

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
        """The batch with `emg` and `labels` on another device; CTC and augmentation want the rest on the CPU."""
        emg, labels = (tensor.to(device, non_blocking=True) for tensor in (self.emg, self.labels))
        return replace(self, emg=emg, labels=labels)


@dataclass(frozen=True)
class Windows:
    """Windows of `length` labelled samples, `stride` apart, with `left` and `right` samples of context."""

    store: Store
    length: int
    stride: int
    left: int
    right: int

    def tiling(self) -> Places:
        """Windows that tile every session; the last one of a session may reach past its end."""
        lengths = map(len, self.store.sessions)
        return [(s, start) for s, length in enumerate(lengths) for start in range(0, length, self.stride)]

    def shuffled(self, generator: torch.Generator) -> Places:
        """The windows of one epoch, in random order: as many as tile the sessions at `stride`.

        The places where a window fits into a session are divided equally among its windows; each begins at a random
        place in its part. A session shorter than a window gives one, from its start.
        """
        places = []
        for s, session in enumerate(self.store.sessions):
            fitting = max(len(session) - self.length, 0) + 1
            count = -(-fitting // self.stride)
            offsets = torch.rand(count, generator=generator, dtype=torch.float64)
            places += [(s, int(start)) for start in ((torch.arange(count) + offsets) * fitting / count).tolist()]
        return [places[i] for i in torch.randperm(len(places), generator=generator).tolist()]

    def batches(self, places: Places, batch_size: int, *, part: int = 0, parts: int = 1) -> Iterator[Batch]:
        """Batches of `batch_size` windows at `places`, the last one smaller; of each, part number `part` of `parts`.

        With the `share` as loss weight, the mean over the parts is the mean over the batch. A part that a small last
        batch leaves empty gets one window with weight 0.
        """
        for first in range(0, len(places), batch_size):
            whole = places[first : first + batch_size]
            own = whole[part::parts]
            yield replace(self.batch(own or whole[:1]), share=len(own) * parts / len(whole))

    def batch(self, places: Places) -> Batch:
        """One batch of the windows at `places`."""
        labels, onsets, lengths = list[Tensor](), list[Tensor](), list[int]()
        for number, start in places:
            session = self.store.sessions[number]
            typed = session.typed(start, start + self.length)
            labels.append(torch.from_numpy(session.labels[typed]))
            onsets.append(torch.from_numpy(session.onsets[typed] - start))
            lengths.append(min(self.length, len(session) - start))
        around = [(number, start - self.left) for number, start in places]
        emg = self.store.gather(around, self.left + self.length + self.right)
        keys, counts = _padded(labels, BLANK), torch.tensor(list(map(len, labels)))
        batch = Batch(emg, self.left, self.right, torch.tensor(lengths), keys, counts, _padded(onsets, _NO_ONSET))
        return batch.to(self.store.device)


def _padded(rows: Sequence[Tensor], padding: int) -> Tensor:
    """Rows of any lengths -> (N, L), L at least 1."""
    one = torch.zeros(1, dtype=torch.int64)
    return pad_sequence([*rows, one], batch_first=True, padding_value=padding)[:-1]


class WindowDataset(Dataset[Batch]):
    """Windows that tile sessions, for a plain `DataLoader(dataset, batch_size, collate_fn=dataset.collate)`.

    Each item is a `Batch` of one window. `windows` (default: the published ones) keep their durations at the sessions'
    rate. `context` (left, right) in samples of the sessions, such as `Model.context`, replaces theirs. emgscribe's own
    training draws new places each epoch instead (`Windows.shuffled`).
    """

    def __init__(
        self, sessions: Sequence[Session], windows: WindowConfig | None = None, context: tuple[int, int] | None = None
    ) -> None:
        config = (windows or WindowConfig()).at_rate(shape_of(sessions).rate / PUBLISHED_RATE)
        left, right = context or (config.left, config.right)
        self.windows = Windows(Store(sessions), config.length, config.stride, left, right)
        self.places = self.windows.tiling()

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        return self.windows.batch([self.places[index] for index in indices])

    @staticmethod
    def collate(batch: Batch) -> Batch:
        """The batch itself: there is nothing to collate."""
        return batch
