"""Several networks that read the same EMG: their probabilities are averaged.

The mean is that of log-probabilities, normalised again, which had fewer errors than the mean of probabilities (LOG.md,
2026-11-29). `emgscribe.ensemble` makes such a model of trained ones.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emgscribe.config import register, require
from emgscribe.data.charset import NUM_CLASSES
from emgscribe.models.encoders.contract import Encoder, EncoderConfig
from emgscribe.models.encoders.tds import TdsConfig
from emgscribe.models.steps import Chain, Dropped, Step, each, parallel


@register("ensemble")
@dataclass(frozen=True)
class EnsembleConfig(EncoderConfig):
    """Encoders side by side, each with a head of its own."""

    members: tuple[EncoderConfig, ...] = (TdsConfig(),) * 5  # the encoders, all with the same stride
    shared: bool = True  # all members read all features; else each reads its share of them, as `several` gives them

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.members) > 0, "encoder.members", self.members, "one or more")

    def build(self, bands: int, channels: int, bins: int) -> "EnsembleEncoder":
        share = bins if self.shared else bins // len(self.members)
        fits = self.shared or share * len(self.members) == bins
        require(fits, "encoder.members", len(self.members), f"a divisor of {bins}, the number of features")
        return EnsembleEncoder([member.build(bands, channels, share) for member in self.members], share)

    def streaming(self) -> Self:
        return replace(self, members=tuple(member.streaming() for member in self.members))


class EnsembleEncoder(Encoder):
    """The mean of the members' log-probabilities, for a head that passes them on; each member reads `share` bins."""

    width = NUM_CLASSES

    def __init__(self, members: list[Encoder], share: int) -> None:
        super().__init__()
        self.members, self.share = nn.ModuleList(members), share
        self.heads = nn.ModuleList(nn.Linear(member.width, NUM_CLASSES) for member in members)
        strides = {member.stride for member in members}
        require(len(strides) == 1, "encoder.members", sorted(strides), "encoders with the same stride")
        self.stride = members[0].stride
        self.left_context = max(member.left_context for member in members)
        self.right_context = max(member.right_context for member in members)
        # Frames of the context, left and right, that each member does not need.
        self._surplus = [
            (self.left_context - member.left_context, self.right_context - member.right_context) for member in members
        ]
        self.unbounded_left = any(member.unbounded_left for member in members)
        self.unbounded_right = any(member.unbounded_right for member in members)
        self.extrapolates = all(member.extrapolates for member in members)

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        found = list[Tensor]()
        for place, member in enumerate(self.members):
            first, last = self._surplus[place]
            seen = self._seen(place, features)[:, first : features.shape[1] - last]
            found.append(self._emissions(place, member(seen, lengths)))
        return torch.stack(found).mean(0)  # (N, F, V)

    def norms(self, features: Tensor) -> Iterator[tuple[nn.BatchNorm1d, Tensor]]:
        for place, member in enumerate(self.members):
            yield from member.norms(self._seen(place, features))  # type: ignore[operator]  # as in `streamed`

    def streamed(self) -> list[Step]:
        chains = [
            Chain(
                [
                    each(partial(self._seen, place)),
                    Dropped(self._surplus[place][0]),
                    *member.streamed(),  # type: ignore[operator]  # what a ModuleList yields has no type of its own
                    each(partial(self._emissions, place)),
                ]
            )
            for place, member in enumerate(self.members)
        ]
        return [parallel(chains, lambda found: torch.stack(found).mean(0))]

    def _seen(self, place: int, features: Tensor) -> Tensor:
        """What a member reads of features (N, F, B, C, K)."""
        first = place * self.share
        return features if self.share == features.shape[-1] else features[..., first : first + self.share]

    def _emissions(self, place: int, frames: Tensor) -> Tensor:
        return F.log_softmax(self.heads[place](frames).float(), dim=-1)
