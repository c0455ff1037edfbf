"""The published baseline as a textbook would write it: what `bench.py` measures ours against.

A loader that reads, augments and transforms one window at a time, and the network of Sivakumar et al. 2024
(arXiv 2410.20081) in the layouts of its description. Written from the papers, to be plain and not to be slow: one
obvious torch call for each step, none of them repeated needlessly. Given the same weights (`load_weights`) it computes
the same function as `emgscribe.model.Model` with a `TdsConfig`; a test says so.
"""

from pathlib import Path

import h5py
import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor, nn
from torch.nn import functional as F

from emgscribe.augment import Augmentation
from emgscribe.charset import BLANK, labels_of_text
from emgscribe.encoders.tds import TdsConfig
from emgscribe.model import Model
from emgscribe.session import BANDS, CHANNELS, GROUP, TIMESERIES, Session


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
        with Session(path) as session:
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
    """EMG (T, 2, 16) -> (T - shift, 2, 16): the right band against the left, what overlaps is kept."""
    shift = int(random.integers(-samples, samples + 1))
    if shift > 0:
        return torch.stack([emg[:-shift, 0], emg[shift:, 1]], dim=1)
    if shift < 0:
        return torch.stack([emg[-shift:, 0], emg[:shift, 1]], dim=1)
    return emg


def warp_curve(samples: int, knots: int, sigma: float, random: np.random.Generator) -> np.ndarray:
    """The random curve (samples,) that a window is multiplied by: a cubic spline through factors about 1."""
    times = np.linspace(0, samples - 1, knots + 2)
    return CubicSpline(times, random.normal(1.0, sigma, knots + 2))(np.arange(samples))


def warp_windows(windows: np.ndarray, knots: int, sigma: float, random: np.random.Generator) -> np.ndarray:
    """Windows (N, T, 2, 16), each multiplied by a curve of its own."""
    curves = (warp_curve(len(window), knots, sigma, random) for window in windows)
    return np.stack(
        [window * curve.astype(np.float32)[:, None, None] for window, curve in zip(windows, curves, strict=True)]
    )


def log_spectrogram(emg: Tensor, n_fft: int = 64, hop: int = 16, offset: float = 1e-6) -> Tensor:
    """EMG (T, B, C) -> log10 power (F, B, C, K), by `torch.stft` with a Hann window of unit L2 norm."""
    samples, bands, channels = emg.shape
    window = torch.hann_window(n_fft)
    signals = emg.permute(1, 2, 0).reshape(bands * channels, samples)  # (B*C, T)
    spectrum = torch.stft(signals, n_fft, hop, window=window, center=False, return_complex=True)  # (B*C, K, F)
    logs = torch.log10((spectrum / window.norm()).abs() ** 2 + offset)
    return logs.view(bands, channels, *logs.shape[1:]).permute(3, 0, 1, 2).contiguous()  # (F, B, C, K)


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


class SpectrogramNorm(nn.Module):
    """Batch norm with one mean and variance for each electrode channel."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(BANDS * CHANNELS)

    def forward(self, features: Tensor) -> Tensor:
        """Features (N, F, B, C, K) -> the same shape."""
        items, frames, bands, channels, bins = features.shape
        planes = features.movedim(1, -1).reshape(items, bands * channels, bins, frames)  # (N, B*C, K, F)
        return self.norm(planes).view(items, bands, channels, bins, frames).movedim(-1, 1)


class RotationInvariantMLP(nn.Module):
    """Linear and ReLU over one band's features, averaged over rolls of the electrodes."""

    def __init__(self, bins: int, width: int, offsets: tuple[int, ...] = (-1, 0, 1)) -> None:
        super().__init__()
        self.offsets = offsets
        self.linear = nn.Linear(CHANNELS * bins, width)

    def forward(self, features: Tensor) -> Tensor:
        """Features (N, F, C, K) -> (N, F, width)."""
        rolls = torch.stack([features.roll(offset, dims=2) for offset in self.offsets], dim=2)  # (N, F, rolls, C, K)
        return F.relu(self.linear(rolls.flatten(3))).mean(dim=2)


class TdsConv(nn.Module):
    """Convolution over time of (N, channels, width, time), ReLU, the last frames of the input added, layer norm."""

    def __init__(self, channels: int, width: int, kernel: int) -> None:
        super().__init__()
        self.channels, self.width = channels, width
        self.conv = nn.Conv2d(channels, channels, (1, kernel))
        self.norm = nn.LayerNorm(channels * width)

    def forward(self, frames: Tensor) -> Tensor:
        """Frames (N, F, channels * width) -> (N, F - kernel + 1, channels * width)."""
        items, count, _ = frames.shape
        planes = frames.movedim(1, -1).reshape(items, self.channels, self.width, count)
        convolved = F.relu(self.conv(planes))  # (N, channels, width, F - kernel + 1)
        convolved = convolved.reshape(items, self.channels * self.width, -1).movedim(-1, 1)
        return self.norm(convolved + frames[:, -convolved.shape[1] :])


class TdsFeedForward(nn.Module):
    """Linear, ReLU, linear, the input added, layer norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        self.norm = nn.LayerNorm(width)

    def forward(self, frames: Tensor) -> Tensor:
        """Frames (N, F, width) -> the same shape."""
        return self.norm(frames + self.layers(frames))


class Network(nn.Module):
    """Features (N, left_context + F + right_context, B, C, K) -> log-probabilities (N, F, classes)."""

    def __init__(self, config: TdsConfig, *, bins: int, classes: int) -> None:
        super().__init__()
        width = BANDS * config.mlp_features
        self.norm = SpectrogramNorm()
        self.mlps = nn.ModuleList(RotationInvariantMLP(bins, config.mlp_features) for _ in range(BANDS))
        self.blocks = nn.Sequential()
        for _ in range(config.blocks):
            self.blocks.append(TdsConv(config.channels, width // config.channels, config.kernel))
            self.blocks.append(TdsFeedForward(width))
        self.head = nn.Linear(width, classes)

    def forward(self, features: Tensor) -> Tensor:
        """See the class."""
        features = self.norm(features)
        frames = torch.cat([mlp(features[:, :, band]) for band, mlp in enumerate(self.mlps)], dim=-1)
        return F.log_softmax(self.head(self.blocks(frames)).float(), dim=-1)


def network_like(model: Model) -> Network:
    """The textbook network of the same sizes as our `model`, with the same weights, in the same mode and place."""
    config = model.config.encoder
    assert isinstance(config, TdsConfig), "the textbook only has the baseline"
    network = Network(config, bins=model.features.bins, classes=model.head.out_features)
    load_weights(network, model)
    return network.to(model.head.weight.device).train(model.training)


def load_weights(network: Network, model: Model) -> None:
    """Copy our weights, from our order of features (channels innermost) to the textbook's (channels outermost)."""
    config = model.config.encoder
    assert isinstance(config, TdsConfig)
    ours = model.encoder.state_dict()
    in_band = torch.arange(config.mlp_features).view(-1, config.channels // BANDS).T.flatten()
    order = torch.arange(BANDS * config.mlp_features).view(-1, config.channels).T.flatten()
    state = {name: value for name, value in ours.items() if name.startswith("norm.")}
    for band in range(BANDS):
        for part in ("weight", "bias"):
            state[f"mlps.{band}.linear.{part}"] = ours[f"mlp.layers.{band}.{part}"][in_band]
    for index in range(2 * config.blocks):
        block = f"blocks.{index}"
        for part in ("weight", "bias"):
            state[f"{block}.norm.{part}"] = ours[f"{block}.norm.{part}"][order]
        if index % 2 == 0:
            state[f"{block}.conv.weight"] = ours[f"{block}.conv.weight"].transpose(2, 3)
            state[f"{block}.conv.bias"] = ours[f"{block}.conv.bias"]
            continue
        for name, layer in (("inner", 0), ("outer", 2)):
            state[f"{block}.layers.{layer}.weight"] = ours[f"{block}.{name}.weight"][order][:, order]
            state[f"{block}.layers.{layer}.bias"] = ours[f"{block}.{name}.bias"][order]
    state["head.weight"], state["head.bias"] = model.head.weight[:, order], model.head.bias
    network.load_state_dict(state)
