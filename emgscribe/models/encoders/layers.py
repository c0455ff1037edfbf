"""Parts that several encoders share."""

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from emgscribe.models.steps import State, joined


class SpectrogramNorm(nn.Module):
    """Batch normalisation with one mean and variance for each electrode channel, over items, frames and bins."""

    def __init__(self, bands: int, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(bands * channels)

    def forward(self, features: Tensor) -> Tensor:
        return self.norm(features.flatten(0, 1).flatten(1, 2)).view_as(features)  # through (N*F, B*C, K)

    def standardized(self, features: Tensor) -> Tensor:
        """What `forward` computes, before the learned scale and shift of each electrode channel."""
        plain = {"weight": torch.ones_like(self.norm.weight), "bias": torch.zeros_like(self.norm.bias)}
        found: Tensor = functional_call(self.norm, plain, (features.flatten(0, 1).flatten(1, 2),))
        return found.view_as(features)


class RotationInvariantMLP(nn.Module):
    """One linear layer and ReLU for each band, averaged over rolls of the band's electrodes by -1, 0 and 1.

    Rolling the input's electrodes equals rolling the weights the other way, so the rolls share one matrix product
    over the features as they are. Source: Sivakumar et al. 2024 (arXiv 2410.20081), section 5.1.
    """

    def __init__(self, bands: int, channels: int, bins: int, width: int) -> None:
        super().__init__()
        self.channels, self.bins, self.width = channels, bins, width
        self.layers = nn.ModuleList(nn.Linear(channels * bins, width) for _ in range(bands))

    def forward(self, features: Tensor) -> Tensor:
        """Features (N, F, B, C, K) -> (N, F, B, width)."""
        return self.hidden(features, self.rolled())

    def rolled(self, norm: nn.BatchNorm1d | None = None) -> list[tuple[Tensor, Tensor]]:
        """The weights (3 * width, C*K) and biases (3 * width,) of all rolls, for each band.

        They include the scale and the shift of a norm over all electrode channels, where one is given: then the
        features, which have nothing to learn, need no gradient, which saves a tenth of a step's arithmetic.
        """
        found = []
        for band, layer in enumerate(self.layers):
            assert isinstance(layer, nn.Linear)
            weight = layer.weight.view(self.width, self.channels, self.bins)
            rolls = torch.stack([weight.roll(-offset, dims=1) for offset in (-1, 0, 1)])  # (3, width, C, K)
            bias = layer.bias.expand(3, -1)
            if norm is not None:
                own = slice(band * self.channels, (band + 1) * self.channels)
                bias = bias + (rolls.sum(3) * norm.bias[own]).sum(2)
                rolls = rolls * norm.weight[own, None]
            found.append((rolls.flatten(2).flatten(0, 1), bias.flatten()))
        return found

    def hidden(self, features: Tensor, rolled: list[tuple[Tensor, Tensor]]) -> Tensor:
        """What `forward` computes, with weights that `rolled` returned: in a stream they stay the same."""
        hidden = []
        for band, (weight, bias) in zip(features.flatten(3).unbind(2), rolled, strict=True):  # each (N, F, C*K)
            rolls = F.relu(F.linear(band, weight, bias))  # (N, F, 3 * width)
            hidden.append(rolls.view(*rolls.shape[:2], -1, self.width).mean(dim=2))
        return torch.stack(hidden, dim=2)  # (N, F, B, width)


class RollingNorm(nn.Module):
    """Mean 0 and variance 1 of each bin of each electrode channel over the last `span` frames, this one included.

    Causal and without learned statistics: a session is normalised by its own recent past. It follows the rolling time
    normalisation of SplashNet (arXiv 2506.12356), with a finite span, so that any blocks give the same result.
    """

    def __init__(self, span: int) -> None:
        super().__init__()
        self.span = span

    def forward(self, features: Tensor) -> Tensor:
        """Features (N, F, B, C, K) -> (N, F - span + 1, B, C, K)."""
        sums = running_sums(features), running_sums(features, 2)  # each (N, F + 1, B, C, K)
        total, squares = (part[:, self.span :] - part[:, : -self.span] for part in sums)
        return self._normed(features[:, self.span - 1 :], total, squares)

    def _normed(self, features: Tensor, total: Tensor, squares: Tensor) -> Tensor:
        """Features, and the sums of the spans that end with them, in double precision."""
        mean = total / self.span
        deviation = (squares / self.span - mean.square()).clamp(min=1e-4).sqrt()
        return (features - mean.to(features.dtype)) / deviation.to(features.dtype)

    def step(self, features: Tensor, state: State) -> tuple[Tensor | None, State]:
        """The step of a stream. It keeps the features of a span less one frame, and their sums and sums of squares.

        A chunk costs what its own frames cost, not what a span does.
        """
        kept, sums = state or (None, None)
        seen, before = joined(kept, features), self.span - 1
        if seen.shape[1] < self.span:
            return None, (seen, None)
        count = seen.shape[1] - before
        coming, going = _powers(seen[:, before:]), _powers(seen[:, :count])  # what each span gains, and then loses
        if sums is None:
            sums = _powers(seen[:, :before]).sum(dim=2, keepdim=True)
        after = sums + (coming - going).cumsum(dim=2)  # (2, N, count, B, C, K)
        return self._normed(seen[:, before:], *(after + going)), (seen[:, count:].clone(), after[:, :, -1:].clone())


class Reduction(nn.Module):
    """Convolution over time to fewer features, ReLU, with `back` a transposed one to `width` again; layer norm.

    The dimensionality reduction of Borthakur et al. (section 2.1.2). Frames at the ends that the transposed convolution
    would build from a part of its inputs are cut off.
    """

    def __init__(self, width: int, reduced: int, kernel: int, *, back: bool) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width, reduced, kernel)
        self.back = nn.ConvTranspose1d(reduced, width, kernel) if back else None
        self.width = width if back else reduced
        self.consumed = (kernel - 1) * (2 if back else 1)
        self.norm = nn.LayerNorm(self.width)

    def forward(self, frames: Tensor) -> Tensor:
        """Frames (N, F, width) -> (N, F - consumed, self.width)."""
        hidden = F.relu(self.conv(frames.transpose(1, 2)))  # (N, reduced, F - kernel + 1)
        if self.back is not None:
            edge = self.consumed // 2
            hidden = F.relu(self.back(hidden))[:, :, edge : frames.shape[1] - edge]  # (N, width, F - consumed)
        return self.norm(hidden.transpose(1, 2))


class FastDropout(nn.Dropout):
    """`nn.Dropout`, faster on a CPU (see `fast_dropout`)."""

    def forward(self, frames: Tensor) -> Tensor:
        return fast_dropout(frames, self.p) if self.training else frames


def fast_dropout(frames: Tensor, rate: float) -> Tensor:
    """`F.dropout` in training. On a CPU its masks, one random number each, take a tenth of a step; here one makes four.

    There a rate is rounded to a multiple of 1 / 65,536.
    """
    if frames.device.type != "cpu" or rate in (0, 1):
        return F.dropout(frames, rate)
    limit = min(round(rate * 65_536), 65_535)
    numbers = torch.empty(-(-frames.numel() // 4), dtype=torch.int64, device=frames.device).random_(-(1 << 63), None)
    strides = torch.empty_like(frames, device="meta").stride()  # in the order of the frames in memory
    kept = numbers.view(torch.int16).as_strided(frames.shape, strides)
    return frames * (kept >= limit - 32_768).to(frames.dtype).mul_(65_536 / (65_536 - limit))


def mask_padding(frames: Tensor, padding: Tensor) -> Tensor:
    """Frames (N, F, D), the `padding` (N,), on the CPU, at the end of each item replaced by zeros."""
    if not padding.any():
        return frames
    ends = (frames.shape[1] - padding).to(frames.device, non_blocking=True)
    place = torch.arange(frames.shape[1], device=frames.device)
    return frames.masked_fill((place >= ends[:, None])[..., None], 0)  # where, not times zero: padding may be NaN


def feed_forward(width: int, inner: int, activation: nn.Module, dropout: float) -> nn.Sequential:
    """Norm, linear layer to `inner` features, activation, linear layer back, dropout after both: (N, F, width)."""
    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Linear(width, inner),
        activation,
        FastDropout(dropout),
        nn.Linear(inner, width),
        FastDropout(dropout),
    )


def running_sums(values: Tensor, power: int = 1) -> Tensor:
    """Sums of the first 0 to F frames of values (N, F, ...) to a power, exact enough to subtract: (N, F + 1, ...)."""
    return F.pad(exact(values).pow(power).cumsum(dim=1), (0, 0) * (values.ndim - 2) + (1, 0))


def _powers(values: Tensor) -> Tensor:
    """Values and their squares, exact enough to subtract sums of them: (2, ...)."""
    values = exact(values)
    return torch.stack([values, values.square()])


def exact(values: Tensor) -> Tensor:
    """Values in double precision; Apple's GPUs have single precision only."""
    return values.float() if values.device.type == "mps" else values.double()
