"""What every encoder is: the contract between features and emissions."""

from dataclasses import dataclass

from torch import Tensor, nn


class Encoder(nn.Module):
    """Features -> frames, `stride` feature frames to one.

    `forward(features, lengths)` takes features (N, left_context + F * stride + right_context, B, C, K) and the
    number of feature frames (N,) that are labelled in each item, and returns frames (N, F, width): exactly one for
    every `stride` labelled feature frames. `left_context` and `right_context` are feature frames, the latter the
    lookahead; `causal` says that there is none.
    """

    width: int
    stride: int = 1
    left_context: int = 0
    right_context: int = 0

    @property
    def causal(self) -> bool:
        """Whether no frame depends on a later feature frame than its own."""
        return self.right_context == 0

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Features (N, left_context + F * stride + right_context, B, C, K) -> frames (N, F, width)."""
        raise NotImplementedError


@dataclass(frozen=True)
class EncoderConfig:
    """Base of every architecture's parameters. `build` makes the network for features of a given shape."""

    def build(self, bands: int, channels: int, bins: int) -> Encoder:
        """The untrained encoder for features (N, F, `bands`, `channels`, `bins`)."""
        raise NotImplementedError
