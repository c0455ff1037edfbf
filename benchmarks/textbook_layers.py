"""The layers of the networks in `textbook_networks`, plainly.

Where ours is already the obvious torch call (a recurrence, a linear layer), this is the same call, written again.
"""

import torch
from textbook import CHANNELS
from torch import Tensor, nn
from torch.nn import functional as F

from emgscribe.models.encoders import (
    ConformerConfig,
    LinearRecurrenceConfig,
    ResidualCnnConfig,
    TdsConfig,
    TransformerConfig,
)


class SpectrogramNorm(nn.Module):
    """Batch norm of features (N, F, B, C, K) with one mean and variance for each electrode channel."""

    def __init__(self, bands: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(bands * CHANNELS)

    def forward(self, features: Tensor) -> Tensor:
        """See the class docstring."""
        items, frames, bands, channels, bins = features.shape
        planes = features.movedim(1, -1).reshape(items, bands * channels, bins, frames)  # (N, B*C, K, F)
        return self.norm(planes).view(items, bands, channels, bins, frames).movedim(-1, 1)


class RollingNorm(nn.Module):
    """Features (N, F, B, C, K) minus the mean of the last `span` frames, over their standard deviation."""

    def __init__(self, span: int) -> None:
        super().__init__()
        self.span = span

    def forward(self, features: Tensor) -> Tensor:
        """See the class docstring."""
        last = features.unfold(1, self.span, 1)  # (N, F - span + 1, B, C, K, span)
        variance, mean = torch.var_mean(last, dim=-1, correction=0)
        return (features[:, self.span - 1 :] - mean) / variance.clamp(min=1e-4).sqrt()


class RotationInvariantMLP(nn.Module):
    """Linear and ReLU over each band of features (N, F, B, C, K), averaged over rolls of the electrodes."""

    def __init__(self, bands: int, bins: int, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(CHANNELS * bins, width) for _ in range(bands))

    def forward(self, features: Tensor) -> Tensor:
        """Returns (N, F, B * width)."""
        bands = []
        for layer, band in zip(self.layers, features.unbind(dim=2), strict=True):  # (N, F, C, K)
            rolls = torch.stack([band.roll(offset, dims=2) for offset in (-1, 0, 1)], dim=2)  # (N, F, rolls, C, K)
            bands.append(F.relu(layer(rolls.flatten(3))).mean(dim=2))
        return torch.cat(bands, dim=-1)


class TdsConv(nn.Module):
    """Convolution over time of (N, channels, W, F), ReLU, the last frames of the input added, layer norm."""

    def __init__(self, channels: int, width: int, config: TdsConfig) -> None:
        super().__init__()
        self.channels = channels
        self.conv = nn.Conv2d(channels, channels, (1, config.kernel))
        self.dropout = nn.Dropout(config.dropout)
        self.norm = nn.LayerNorm(width)

    def forward(self, frames: Tensor) -> Tensor:
        """Frames (N, F, width) -> (N, F - kernel + 1, width)."""
        planes = frames.unflatten(2, (-1, self.channels)).permute(0, 3, 2, 1).contiguous()  # (N, channels, W, F)
        convolved = self.dropout(F.relu(self.conv(planes))).permute(0, 3, 2, 1).flatten(2)  # (N, F - kernel + 1, width)
        return self.norm(convolved + frames[:, -convolved.shape[1] :])


class SqueezeExcitation(nn.Module):
    """Each channel scaled by two linear layers of all channels' means over the `span` frames around each."""

    def __init__(self, channels: int, span: int) -> None:
        super().__init__()
        assert span % 2 == 1, "centred"
        self.channels, self.span = channels, span
        self.squeeze = nn.Linear(channels, max(1, channels // 8), bias=False)
        self.excite = nn.Linear(max(1, channels // 8), channels, bias=False)

    def forward(self, frames: Tensor) -> Tensor:
        """Frames (N, F, width) -> the same shape."""
        columns = frames.unflatten(2, (-1, self.channels))  # (N, F, W, channels)
        means = columns.mean(dim=2).transpose(1, 2)  # (N, channels, F)
        means = F.avg_pool1d(means, self.span, stride=1, padding=self.span // 2, count_include_pad=False)
        scale = torch.sigmoid(self.excite(F.relu(self.squeeze(means.transpose(1, 2)))))  # (N, F, channels)
        return (columns * scale[:, :, None]).flatten(2)


class TdsFeedForward(nn.Module):
    """Linear, ReLU, linear, the input added, layer norm."""

    def __init__(self, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width)

    def forward(self, frames: Tensor) -> Tensor:
        """Frames (N, F, width) -> the same shape."""
        return self.norm(frames + self.outer(self.dropout(F.relu(self.inner(frames)))))


class ResidualConv(nn.Module):
    """Convolution, ReLU, dropout, the frames themselves added, layer norm."""

    def __init__(self, width: int, out: int, config: ResidualCnnConfig) -> None:
        super().__init__()
        self.first = config.kernel - 1 - config.lookahead
        self.conv = nn.Conv1d(width, out, config.kernel)
        self.dropout = nn.Dropout(config.dropout)
        self.residual = nn.Identity() if width == out else nn.Linear(width, out)
        self.norm = nn.LayerNorm(out)

    def forward(self, frames: Tensor) -> Tensor:
        """Frames (N, F, width) -> (N, F - kernel + 1, out)."""
        convolved = self.dropout(F.relu(self.conv(frames.transpose(1, 2)))).transpose(1, 2)
        own = frames[:, self.first : self.first + convolved.shape[1]]
        return self.norm(convolved + self.residual(own))


class LinearRecurrenceBlock(nn.Module):
    """minGRU, frame by frame, and a feed-forward: norms before, the frames themselves added."""

    def __init__(self, config: LinearRecurrenceConfig, width: int) -> None:
        super().__init__()
        self.both = config.bidirectional
        units = config.hidden * (2 if self.both else 1)
        self.norm = nn.LayerNorm(width)
        self.gate, self.candidate = nn.Linear(width, units), nn.Linear(width, units)
        self.output = nn.Sequential(nn.Linear(units, width), nn.Dropout(config.dropout))
        self.feed_forward = feed_forward(width, 2 * width, nn.GELU(), config.dropout)

    def forward(self, frames: Tensor) -> Tensor:
        """Frames (N, F, width) -> the same shape."""
        normed = self.norm(frames)
        gate, candidate = torch.sigmoid(self.gate(normed).float()), self.candidate(normed).float()
        if self.both:
            (gate, gate_back), (candidate, candidate_back) = gate.chunk(2, dim=2), candidate.chunk(2, dim=2)
            back = states(gate_back.flip(1), candidate_back.flip(1)).flip(1)
            hidden = torch.cat([states(gate, candidate), back], dim=2)
        else:
            hidden = states(gate, candidate)
        frames = frames + self.output(hidden.to(frames.dtype))
        return frames + self.feed_forward(frames)


def states(gate: Tensor, candidate: Tensor) -> Tensor:
    """h = (1 - gate) * h + gate * candidate for one frame after the other of (N, F, D), from 0."""
    state, out = torch.zeros_like(gate[:, 0]), []
    for z, new in zip(gate.unbind(1), candidate.unbind(1), strict=True):
        state = (1 - z) * state + z * new
        out.append(state)
    return torch.stack(out, dim=1)


class TransformerBlock(nn.Module):
    """Attention and a feed-forward: norms before, the frames themselves added."""

    def __init__(self, config: TransformerConfig, width: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(config, width)
        self.feed_forward = feed_forward(width, config.feed_forward, nn.ReLU(), config.dropout)

    def forward(self, frames: Tensor) -> Tensor:
        """Frames (N, F, width) -> the same shape."""
        frames = frames + self.attention(self.attention_norm(frames))
        return frames + self.feed_forward(frames)


class Attention(nn.Module):
    """Scaled dot-product attention over all frames, with rotary positions and a mask over what must not be seen."""

    def __init__(self, config: TransformerConfig, width: int) -> None:
        super().__init__()
        self.heads, self.past, self.future, self.dropout = config.heads, config.past, config.future, config.dropout
        self.inputs = nn.Linear(width, 3 * width)
        self.output = nn.Sequential(nn.Linear(width, width), nn.Dropout(config.dropout))

    def forward(self, frames: Tensor) -> Tensor:
        """Frames (N, F, width) -> the same shape."""
        heads = [part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.inputs(frames).chunk(3, dim=2)]
        query, key, value = rotate(heads[0]), rotate(heads[1]), heads[2]  # (N, heads, F, width / heads)
        place = torch.arange(frames.shape[1], device=frames.device)
        ahead = place - place[:, None]  # (queries, keys)
        seen = torch.ones_like(ahead, dtype=torch.bool)
        if self.past >= 0:
            seen &= ahead >= -self.past
        if self.future >= 0:
            seen &= ahead <= self.future
        mask, dropout = None if seen.all() else seen, self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
        return self.output(mixed.transpose(1, 2).flatten(2))


def rotate(heads: Tensor) -> Tensor:
    """Queries or keys (N, heads, F, D) with rotary positions."""
    count, width = heads.shape[-2:]
    speeds = 10_000.0 ** (-torch.arange(0, width, 2, device=heads.device) / width)
    angles = torch.arange(count, device=heads.device)[:, None] * speeds  # (F, D / 2)
    turns = torch.polar(torch.ones_like(angles), angles)
    first, second = heads.float().chunk(2, dim=-1)
    turned = torch.complex(first, second) * turns
    return torch.cat([turned.real, turned.imag], dim=-1).to(heads.dtype)


class ConformerBlock(nn.Module):
    """Half a feed-forward, attention, convolution, half a feed-forward, layer norm."""

    def __init__(self, config: ConformerConfig, width: int) -> None:
        super().__init__()
        self.first = feed_forward(width, config.feed_forward, nn.SiLU(), config.dropout)
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(config, width)
        self.conv = ConformerConv(config, width)
        self.second = feed_forward(width, config.feed_forward, nn.SiLU(), config.dropout)
        self.norm = nn.LayerNorm(width)

    def forward(self, frames: Tensor) -> Tensor:
        """Frames (N, F, width) -> the same shape."""
        frames = frames + 0.5 * self.first(frames)
        frames = frames + self.attention(self.attention_norm(frames))
        frames = frames + self.conv(frames)
        return self.norm(frames + 0.5 * self.second(frames))


class ConformerConv(nn.Module):
    """Norm, gated linear layer, centred convolution of every feature by itself, norm, SiLU, linear layer."""

    def __init__(self, config: ConformerConfig, width: int) -> None:
        super().__init__()
        assert config.kernel % 2 == 1
        assert config.future != 0
        self.norm = nn.LayerNorm(width)
        self.gated = nn.Sequential(nn.Linear(width, 2 * width), nn.GLU())
        self.depthwise = nn.Conv1d(width, width, config.kernel, groups=width, padding="same")
        self.output = nn.Sequential(nn.LayerNorm(width), nn.SiLU(), nn.Linear(width, width), nn.Dropout(config.dropout))

    def forward(self, frames: Tensor) -> Tensor:
        """Frames (N, F, width) -> the same shape."""
        gated = self.gated(self.norm(frames)).transpose(1, 2)  # (N, width, F)
        return self.output(self.depthwise(gated).transpose(1, 2))


def feed_forward(width: int, inner: int, activation: nn.Module, dropout: float) -> nn.Sequential:
    """Norm, linear layer, activation, linear layer back, dropout after both."""
    dropouts = nn.Dropout(dropout), nn.Dropout(dropout)
    return nn.Sequential(
        nn.LayerNorm(width), nn.Linear(width, inner), activation, dropouts[0], nn.Linear(inner, width), dropouts[1]
    )
