"""Every network as a textbook would write it, to compare ours with.

Written from the papers that `emgscribe.models.encoders` names, to be plain, but not slow: one obvious torch call for
each step, none repeated needlessly, images and signals in torch's natural layout, each roll of the electrodes a copy of
the input, and no padded windows. Parameters have the same names as ours, so `network_like` loads our weights as they
are; a test checks that both compute the same function.
"""

import torch
from textbook import BANDS, log_spectrogram
from textbook_layers import (
    ConformerBlock,
    LinearRecurrenceBlock,
    ResidualConv,
    RollingNorm,
    RotationInvariantMLP,
    SpectrogramNorm,
    SqueezeExcitation,
    TdsConv,
    TdsFeedForward,
    TransformerBlock,
)
from torch import Tensor, nn
from torch.nn import functional as F

from emgscribe.data.charset import NUM_CLASSES
from emgscribe.models.encoders import (
    ConformerConfig,
    EncoderConfig,
    LinearRecurrenceConfig,
    MlpConfig,
    RecurrentConfig,
    ResidualCnnConfig,
    SplitShareConfig,
    TdsConfig,
    TransformerConfig,
)
from emgscribe.models.features import FeaturesConfig, SpectrogramConfig, StridedConvConfig
from emgscribe.models.model import Model, ModelConfig


class Network(nn.Module):
    """EMG (N, left context + T + right context, 2, 16) -> log-probabilities (N, F, classes) of the T samples."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.features, bins = make_features(config.features)
        self.encoder = make_encoder(config.encoder, BANDS, bins)
        self.head = nn.Linear(self.encoder.width, NUM_CLASSES)

    def emit(self, features: Tensor) -> Tensor:
        """Features (N, left_context + F * stride + right_context, B, C, K) -> log-probabilities (N, F, classes)."""
        return F.log_softmax(self.head(self.encoder(features)).float(), dim=-1)

    def forward(self, emg: Tensor) -> Tensor:
        """See the class docstring."""
        return self.emit(self.features(emg))


def network_like(model: Model) -> Network:
    """The textbook network of the same sizes as our `model`, with the same weights, in the same mode and place."""
    network = Network(model.config)
    # A TDS convolution is ours along the first axis of an image, and the textbook's along the last one.
    state = {name: value.transpose(2, 3) if value.ndim == 4 else value for name, value in model.state_dict().items()}
    network.load_state_dict(state)
    return network.to(model.device).train(model.training)


def make_features(config: FeaturesConfig) -> tuple[nn.Module, int]:
    """The layer that computes features, and their number per electrode."""
    if isinstance(config, SpectrogramConfig):
        assert config.decimation == 1, "the textbook has the full sampling rate only"
        return Spectrogram(config), len(config.edges) - 1 if config.edges else config.n_fft // 2 + 1
    assert isinstance(config, StridedConvConfig)
    return StridedConv(config), config.bins


class Spectrogram(nn.Module):
    """EMG (N, T, B, C) -> log-spectrogram (N, F, B, C, K)."""

    def __init__(self, config: SpectrogramConfig) -> None:
        super().__init__()
        self.settings = {name: getattr(config, name) for name in ("n_fft", "hop", "offset", "edges")}

    def forward(self, emg: Tensor) -> Tensor:
        """See the class docstring."""
        return log_spectrogram(emg, **self.settings)


class StridedConv(nn.Module):
    """EMG (N, T, B, C) -> learned features (N, F, B, C, K) of every electrode's own signal."""

    def __init__(self, config: StridedConvConfig) -> None:
        super().__init__()
        self.layers, before = nn.Sequential(), 1
        for after, stride in zip((*config.filters, config.bins), config.strides, strict=True):
            conv = nn.Conv1d(before, after, config.overlap * stride, stride, bias=False)
            self.layers.append(nn.Sequential(conv, nn.BatchNorm1d(after), nn.ReLU()))
            before = after

    def forward(self, emg: Tensor) -> Tensor:
        """See the class docstring."""
        items, samples, bands, channels = emg.shape
        signals = emg.permute(0, 2, 3, 1).reshape(-1, 1, samples)  # (N*B*C, 1, T)
        features = torch.log1p(self.layers(signals))  # (N*B*C, K, F)
        return features.view(items, bands, channels, *features.shape[1:]).permute(0, 4, 1, 2, 3)


class Mlp(nn.Module):
    """Features (N, F, B, C, K) -> frames (N, F, width)."""

    def __init__(self, config: MlpConfig | TdsConfig | ResidualCnnConfig, bands: int, bins: int) -> None:
        super().__init__()
        rolling = getattr(config, "rolling", 0)
        self.norm = RollingNorm(rolling) if rolling else SpectrogramNorm(bands)
        self.mlp = RotationInvariantMLP(bands, bins, config.mlp_features)
        self.width = bands * config.mlp_features

    def forward(self, features: Tensor) -> Tensor:
        """See the class docstring."""
        return self.mlp(self.norm(features))


class Tds(Mlp):
    """Convolutions of `channels` x width over time, each followed by a feed-forward."""

    def __init__(self, config: TdsConfig, bands: int, bins: int) -> None:
        super().__init__(config, bands, bins)
        assert config.excitation in ("none", "sliding")
        assert not config.reduction
        self.bands, self.channels = bands, config.channels
        self.blocks = nn.Sequential()
        for _ in range(config.blocks):
            self.blocks.append(TdsConv(config.channels, self.width, config))
            if config.excitation == "sliding":
                self.blocks.append(SqueezeExcitation(config.channels, config.squeeze))
            self.blocks.append(TdsFeedForward(self.width, config.dropout))

    def forward(self, features: Tensor) -> Tensor:
        """See the class docstring."""
        frames = super().forward(features)  # (N, F, width)
        # The order in which ours takes the features, the channels innermost and half of them of either band.
        columns = frames.unflatten(2, (self.bands, -1, self.channels // self.bands))  # (N, F, B, W, channels / B)
        return self.blocks(columns.transpose(2, 3).flatten(2))


class ResidualCnn(Mlp):
    """Residual convolutions over time."""

    def __init__(self, config: ResidualCnnConfig, bands: int, bins: int) -> None:
        super().__init__(config, bands, bins)
        assert not config.strides
        self.projection = nn.Linear(self.width, config.projection) if config.projection else nn.Identity()
        self.width = config.projection or self.width
        self.blocks = nn.Sequential()
        for width in config.widths:
            self.blocks.append(ResidualConv(self.width, width, config))
            self.width = width

    def forward(self, features: Tensor) -> Tensor:
        """See the class docstring."""
        return self.blocks(self.projection(super().forward(features)))


class Stacked(nn.Module):
    """Transforms the frames of the base encoder: it needs `left` and `right` frames more than it returns."""

    def __init__(self, base: nn.Module, left: int, right: int, *, delay: bool = False) -> None:
        super().__init__()
        self.base, self.first, self.surplus = base, left + right if delay else left, left + right

    def forward(self, features: Tensor) -> Tensor:
        """Features (N, F, B, C, K) -> frames (N, F, width)."""
        frames = self.base(features)
        return self.transform(frames)[:, self.first : self.first + frames.shape[1] - self.surplus]


class Recurrence(Stacked):
    """LSTM or GRU, and an optional linear layer."""

    def __init__(self, config: RecurrentConfig, base: nn.Module) -> None:
        both, dropout = config.bidirectional, config.dropout
        super().__init__(base, config.left, config.right, delay=not both)
        sizes = base.width, config.hidden, config.layers
        kind = {"gru": nn.GRU, "lstm": nn.LSTM}[config.cell]
        cells = kind(*sizes, batch_first=True, bidirectional=both, dropout=dropout)
        self.cells = cells
        self.width = config.hidden * (2 if both else 1)
        self.output = nn.Sequential()
        if config.output:
            self.output.extend([nn.Linear(self.width, config.output), nn.Dropout(dropout)])
            self.width = config.output

    def transform(self, frames: Tensor) -> Tensor:
        """Frames (N, F, base.width) -> (N, F, width)."""
        return self.output(self.cells(frames)[0])


class Blocks(Stacked):
    """Blocks of one kind between a linear layer to their width, where that differs, and a layer norm."""

    def __init__(self, config: TransformerConfig | LinearRecurrenceConfig, base: nn.Module) -> None:
        left, right = config.left, config.right
        if isinstance(config, TransformerConfig) and config.past >= 0:
            # Banded attention needs as much context as it sees.
            left, right = config.layers * config.past, config.layers * config.future
        super().__init__(base, left, right, delay=not getattr(config, "bidirectional", True))
        self.width = config.width or base.width
        self.projection = nn.Linear(base.width, config.width) if config.width else nn.Identity()
        block = BLOCKS[type(config)]
        self.blocks = nn.Sequential(*(block(config, self.width) for _ in range(config.layers)))
        self.norm = nn.LayerNorm(self.width)

    def transform(self, frames: Tensor) -> Tensor:
        """Frames (N, F, base.width) -> (N, F, width)."""
        return self.norm(self.blocks(self.projection(frames)))


BLOCKS = {
    TransformerConfig: TransformerBlock,
    ConformerConfig: ConformerBlock,
    LinearRecurrenceConfig: LinearRecurrenceBlock,
}


class SplitShare(nn.Module):
    """One hand's features through the base encoder, then the other's, side by side."""

    def __init__(self, config: SplitShareConfig, base: nn.Module) -> None:
        super().__init__()
        self.base, self.width = base, BANDS * base.width

    def forward(self, features: Tensor) -> Tensor:
        """Features (N, F, B, C, K) -> frames (N, F, width)."""
        left, right = features[:, :, :1], features[:, :, 1:].flip(3)
        return torch.cat([self.base(left), self.base(right)], dim=2)


def make_encoder(config: EncoderConfig, bands: int, bins: int) -> nn.Module:
    """The encoder that `config` describes."""
    alone = {MlpConfig: Mlp, TdsConfig: Tds, ResidualCnnConfig: ResidualCnn}
    if type(config) in alone:
        return alone[type(config)](config, bands, bins)
    if isinstance(config, SplitShareConfig):
        return SplitShare(config, make_encoder(config.base, 1, bins))
    kind = Recurrence if isinstance(config, RecurrentConfig) else Blocks
    return kind(config, make_encoder(config.base, bands, bins))
