"""A data loader as a textbook would write it, which `bench.py` compares ours with; the networks are in another file.

It reads, augments and transforms one window at a time, as Sivakumar et al. 2024 (arXiv 2410.20081) describe. Written
from the paper to be plain, but not slow: one obvious call for each step, and none repeated needlessly.
"""

from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor, nn

from emgscribe.data.charset import BLANK, labels_of_text
from emgscribe.data.hdf5 import GROUP, TIMESERIES, SessionFile
from emgscribe.models.augment import Augmentation

BANDS, CHANNELS, SAMPLE_RATE = 2, 16, 2000


class WindowDataset(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """Windows of a session file, each read from the file when it is asked for: (features (F, B, C, K), labels (L,)).

    A window is `length` labelled samples from `starts[n]` on, with `left` and `right` samples of context around them.
    Without `augmentation` the features are deterministic.
    """

    def __init__(
        self,
        path: Path,
        starts: list[int],
        *,
        length: int,
        left: int,
        right: int,
        augmentation: Augmentation | None = None,
        seed: int = 0,
    ) -> None:
        self.path, self.starts = path, starts
        self.length, self.left, self.right = length, left, right
        self.augmentation = augmentation
        self.random = np.random.default_rng(seed)
        with SessionFile(path) as session:
            self.samples = len(session)
            self.keystrokes = session.header.labelled_keystrokes()
        self._file: h5py.File | None = None  # opened where it is read: a worker process needs its own

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        emg, labels = self.read(self.starts[index])
        if self.augmentation is None:
            return log_spectrogram(emg), labels
        emg = rotate_bands(emg, self.augmentation.rotation.offsets, self.random)
        emg = jitter_alignment(emg, self.augmentation.jitter.samples, self.random)
        return spec_augment(log_spectrogram(emg), self.augmentation, self.random), labels

    def read(self, start: int) -> tuple[Tensor, Tensor]:
        """The EMG (T, 2, 16) of the window that begins at `start`, zero outside the session, and its labels."""
        if self._file is None:
            self._file = h5py.File(self.path, "r")
        first, last = start - self.left, start + self.length + self.right
        low, high = max(first, 0), min(last, self.samples)
        rows = self._file[GROUP][TIMESERIES][low:high]
        emg = np.stack([rows["emg_left"], rows["emg_right"]], axis=1)
        emg = np.pad(emg, ((low - first, last - high), (0, 0), (0, 0)))
        times = rows["time"][start - low : start - low + self.length]
        typed = [symbol for symbol, time in self.keystrokes if times[0] <= time <= times[-1]]
        return torch.from_numpy(emg), torch.tensor(labels_of_text("".join(typed)), dtype=torch.long)


def collate(items: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """Pad to the longest: features (N, F, B, C, K), labels (N, L), label lengths (N,)."""
    features = nn.utils.rnn.pad_sequence([features for features, _ in items], batch_first=True)
    labels = nn.utils.rnn.pad_sequence([labels for _, labels in items], batch_first=True, padding_value=BLANK)
    return features, labels, torch.tensor([len(labels) for _, labels in items])


def rotate_bands(emg: Tensor, offsets: tuple[int, ...], random: np.random.Generator) -> Tensor:
    """EMG (T, 2, 16) -> the same shape, each band's electrodes rolled by one of `offsets`."""
    return torch.stack([emg[:, band].roll(int(random.choice(offsets)), dims=1) for band in range(BANDS)], dim=1)


def jitter_alignment(emg: Tensor, samples: int, random: np.random.Generator) -> Tensor:
    """EMG (T, 2, 16) -> (T - shift, 2, 16): the right band shifted against the left; only the overlap is kept."""
    shift = int(random.integers(-samples, samples + 1))
    if shift > 0:
        return torch.stack([emg[:-shift, 0], emg[shift:, 1]], dim=1)
    if shift < 0:
        return torch.stack([emg[-shift:, 0], emg[:shift, 1]], dim=1)
    return emg


def warp_curve(samples: int, knots: int, sigma: float, random: np.random.Generator) -> np.ndarray:
    """The random curve (samples,) that a window is multiplied by: a cubic spline through factors around 1."""
    times = np.linspace(0, samples - 1, knots + 2)
    return CubicSpline(times, random.normal(1.0, sigma, knots + 2))(np.arange(samples))


def warp_windows(windows: np.ndarray, knots: int, sigma: float, random: np.random.Generator) -> np.ndarray:
    """Windows (N, T, 2, 16), each multiplied by a curve of its own."""
    curves = (warp_curve(len(window), knots, sigma, random) for window in windows)
    return np.stack(
        [window * curve.astype(np.float32)[:, None, None] for window, curve in zip(windows, curves, strict=True)]
    )


def log_spectrogram(
    emg: Tensor, n_fft: int = 64, hop: int = 16, offset: float = 1e-6, edges: tuple[int, ...] = ()
) -> Tensor:
    """EMG (..., T, B, C) -> log10 power (..., F, B, C, K), by `torch.stft` with a Hann window of unit L2 norm.

    With `edges` K is one fewer: the sums of power from one edge up to the next.
    """
    window = torch.hann_window(n_fft, device=emg.device)
    signals = emg.movedim(-3, -1)  # (..., B, C, T)
    spectrum = torch.stft(signals.flatten(0, -2), n_fft, hop, window=window, center=False, return_complex=True)
    power = (spectrum / window.norm()).abs() ** 2  # (...*B*C, K, F)
    if edges:
        power = torch.stack([power[:, low:high].sum(dim=1) for low, high in pairwise(edges)], dim=1)
    logs = torch.log10(power + offset)
    return logs.view(*signals.shape[:-1], *logs.shape[1:]).movedim(-1, -4).contiguous()  # (..., F, B, C, K)


def spec_augment(features: Tensor, augmentation: Augmentation, random: np.random.Generator) -> Tensor:
    """Features (F, B, C, K) -> the same shape: for each electrode channel, some runs of frames and of bins are 0."""
    masks = augmentation.spec
    features = features.clone()
    array = features.numpy()
    frames, bins = array.shape[0], array.shape[3]
    for band in range(array.shape[1]):
        for channel in range(array.shape[2]):
            for _ in range(random.integers(masks.time_masks + 1)):
                size = random.integers(masks.time_frames + 1)
                start = random.integers(frames - size + 1)
                array[start : start + size, band, channel] = 0
            for _ in range(random.integers(masks.frequency_masks + 1)):
                size = random.integers(masks.frequency_bins + 1)
                start = random.integers(bins - size + 1)
                array[:, band, channel, start : start + size] = 0
    return features
