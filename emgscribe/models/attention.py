"""Frames -> keystrokes by attention: a second head that writes the text key by key, beside the emissions of CTC.

A Transformer decoder (Vaswani et al. 2017, arXiv 1706.03762), trained together with CTC on the same encoder (Kim, Hori
and Watanabe 2017, arXiv 1609.06773). Shapes: N items, F frames, L keys of a text, D width, V symbols including the end.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emgscribe.config import Count, Dropout, Range, require
from emgscribe.data.charset import BLANK, SYMBOLS
from emgscribe.models.encoders.contract import Shrinks, Sized, Width
from emgscribe.models.encoders.layers import FastDropout, exact, feed_forward, mask_padding
from emgscribe.models.encoders.transformer import angles

END = len(SYMBOLS)  # the decoder's own symbol, which begins and ends every text, in place of CTC's blank
_NEVER = -1e30  # as a log-probability: finite, so that no difference of two is NaN
Pair = tuple[Tensor, Tensor]  # keys and values of attention, each (N, heads, ..., D / heads)
Memory = tuple[list[Pair], Tensor | None]  # those of the frames, by layer; the mask of real frames (None: all)


@dataclass(frozen=True)
class AttentionConfig(Sized):
    """A Transformer decoder as a second head."""

    section = "attention"
    layers: Annotated[int, Range(0, 1000)] = 0  # layers; 0: no attention decoder
    width: Annotated[int, Range(2, 1 << 14), Shrinks(2)] = 256  # features of a symbol, an even number
    heads: Count = 4  # attention heads
    feed_forward: Width = 1024  # features inside each feed-forward
    dropout: Dropout = 0.1  # dropout in attention and feed-forward

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.width % 2 == 0, "attention.width", self.width, "an even number, 2 or more")
        fits, allowed = self.width % self.heads == 0, f"a divisor of attention.width = {self.width}"
        require(fits, "attention.heads", self.heads, allowed)


class AttentionDecoder(nn.Module):
    """Log-probabilities of the next key, from the keys before it and all frames of a window."""

    def __init__(self, config: AttentionConfig, frames_width: int) -> None:
        super().__init__()
        width = config.width
        self.memory = nn.Sequential(nn.Linear(frames_width, width), nn.LayerNorm(width))
        self.embedding = nn.Embedding(END + 1, width)
        self.blocks = nn.ModuleList(DecoderBlock(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, END + 1)

    def forward(self, frames: Tensor, counts: Tensor, labels: Tensor) -> Tensor:
        """Frames (N, F, frames_width), labels (N, L) -> log-probabilities of the next symbol (N, L + 1, V), in float32.

        Row l follows the first l labels. `counts` (N,), on the CPU, are the frames of each item: later frames and later
        labels have no influence.
        """
        return self.following(F.pad(labels, (1, 0), value=END), self.remember(frames, counts))[0]

    def remember(self, frames: Tensor, counts: Tensor) -> Memory:
        """The memory of frames (N, F, frames_width), of which each item has `counts` (N,), on the CPU."""
        count = frames.shape[1]
        padding = count - counts
        memory = self.memory(mask_padding(frames, padding))  # (N, F, D)
        memory = memory + sinusoids(0, count, memory)
        seen = torch.arange(count) < counts[:, None]
        mask = seen[:, None, None].to(frames.device, non_blocking=True) if padding.any() else None  # (N, 1, 1, F)
        # What a ModuleList yields has no type of its own.
        return [block.cross.remember(memory) for block in self.blocks], mask  # type: ignore[operator, union-attr]

    def following(self, texts: Tensor, memory: Memory, before: list[Pair] | None = None) -> tuple[Tensor, list[Pair]]:
        """Log-probabilities of what follows each symbol of `texts` (N, L) -> (N, L, V); keys, values for a later call.

        With `before`, which the last call returned, `texts` (N, 1) are the next symbols of those texts.
        """
        hidden, kept = self.embedding(texts), []  # (N, L, D)
        hidden = hidden + sinusoids(before[0][0].shape[2] if before else 0, texts.shape[1], hidden)
        for place, block in enumerate(self.blocks):
            hidden, pair = block(hidden, before[place] if before else None, memory[0][place], memory[1])
            kept.append(pair)
        return F.log_softmax(self.head(self.norm(hidden)).float(), dim=-1), kept


class DecoderBlock(nn.Module):
    """Attention to the text so far, attention to the frames, feed-forward; each with pre-norm and a residual."""

    def __init__(self, config: AttentionConfig) -> None:
        super().__init__()
        self.text_norm, self.cross_norm = nn.LayerNorm(config.width), nn.LayerNorm(config.width)
        self.text = CachedAttention(config.width, config.heads, config.dropout)
        self.cross = CachedAttention(config.width, config.heads, config.dropout)
        self.feed_forward = feed_forward(config.width, config.feed_forward, nn.ReLU(), config.dropout)

    def forward(self, hidden: Tensor, before: Pair | None, frames: Pair, mask: Tensor | None) -> tuple[Tensor, Pair]:
        """Hidden (N, L, D), keys and values of the earlier text and of the frames -> (N, L, D), those of all text."""
        normed = self.text_norm(hidden)
        pair = self.text.remember(normed)
        if before is not None:
            pair = torch.cat([before[0], pair[0]], dim=2), torch.cat([before[1], pair[1]], dim=2)
        hidden = hidden + self.text(normed, pair, causal=before is None)
        hidden = hidden + self.cross(self.cross_norm(hidden), frames, mask=mask)
        return hidden + self.feed_forward(hidden), pair


class CachedAttention(nn.Module):
    """Attention to a sequence, with keys and values that are computed once and kept."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(width, width)
        self.pair = nn.Linear(width, 2 * width)
        self.output = nn.Sequential(nn.Linear(width, width), FastDropout(dropout))

    def remember(self, sequence: Tensor) -> Pair:
        """Keys and values (N, heads, S, D / heads) of a sequence (N, S, D)."""
        key, value = self.pair(sequence).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind()
        return key, value

    def forward(self, hidden: Tensor, pair: Pair, *, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """Hidden (N, L, D), keys and values (N, heads, S, D / heads) -> (N, L, D); `mask` is true where seen."""
        query = self.query(hidden).unflatten(2, (self.heads, -1)).transpose(1, 2)  # (N, heads, L, D / heads)
        rate = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, *pair, attn_mask=mask, dropout_p=rate, is_causal=causal)
        return self.output(mixed.transpose(1, 2).flatten(2))  # (N, L, D)


def sinusoids(first: int, count: int, like: Tensor) -> Tensor:
    """Positions `first`, `first` + 1, ... as sines and cosines (count, D), with the width and type of `like`."""
    turned = angles(first, count, like.shape[-1], like.device)
    return torch.cat([turned.sin(), turned.cos()], dim=-1).to(like.dtype)


@torch.inference_mode()
def search(
    decoder: AttentionDecoder, frames: Tensor, counts: Tensor, emissions: Tensor | None = None, *,
    beam_size: int = 4, ctc_weight: float = 0.5,
) -> list[list[int]]:  # fmt: skip
    """The keys of each item's most likely text, from frames (N, F, frames_width), of which each item has `counts` (N,).

    Keeps the `beam_size` best prefixes; 1 is greedy. A text ends with the decoder's end symbol, or when it has as many
    keys as the item has frames. With CTC's `emissions` (N, F, V) both heads rank the texts: CTC's prefix score has the
    weight `ctc_weight`, below 1 (Hori, Watanabe and Hershey 2017, "Joint CTC/attention decoding for end-to-end speech
    recognition").
    """
    items, symbols = len(frames), END + 1
    if emissions is None:
        emissions, ctc_weight = frames.new_zeros(*frames.shape[:2], symbols), 0.0
    memory = decoder.remember(frames.repeat_interleave(beam_size, 0), counts.repeat_interleave(beam_size))
    ctc = CtcPrefixes(emissions, counts, beam_size)
    limits = counts.to(frames.device)[:, None]
    texts = torch.full((items, beam_size, 1), END, device=frames.device)
    likely = exact(frames.new_full((items, beam_size), -torch.inf))
    likely[:, 0] = 0  # the beams of an item begin as one
    fits, ended = torch.zeros_like(likely), torch.zeros_like(likely, dtype=torch.bool)
    first = torch.arange(items, device=frames.device)[:, None] * beam_size
    before = None
    for length in range(int(counts.max()) + 1):
        rows, before = decoder.following(texts[..., -1].view(-1, 1), memory, before)
        rows = exact(rows.view(items, beam_size, symbols))
        rows[ended | (limits <= length), :END] = -torch.inf
        rows[..., END].masked_fill_(ended, 0)  # what has ended stays as it is
        rows += likely[..., None]
        fitting = ctc.extended(texts[..., -1])
        fitting[..., END] = fits.where(ended, fitting[..., END])
        scores = (1 - ctc_weight) * rows + ctc_weight * fitting
        picked = scores.flatten(1).topk(beam_size).indices  # (N, beams), best first
        likely, fits = rows.flatten(1).gather(1, picked), fitting.flatten(1).gather(1, picked)
        origin, symbol = picked // symbols, picked % symbols
        ctc.extend(texts[..., -1], origin, symbol)
        texts = torch.cat([texts.gather(1, origin[..., None].expand_as(texts)), symbol[..., None]], dim=2)
        before = [(key[place], value[place]) for place in [(first + origin).flatten()] for key, value in before]
        ended = symbol == END
        if ended[:, 0].all():  # scores only fall: no other beam can overtake
            break
    return [text[: text.index(END)] for text in texts[:, 0, 1:].tolist()]


class CtcPrefixes:
    """CTC prefix scores of the texts of a beam: N items, B beams, in double precision.

    For each frame it keeps the log-probability of all paths that spell exactly the text by then and end in its last
    key (`in_key`) or in a blank after it (`in_blank`), both (N, B, F).
    """

    def __init__(self, emissions: Tensor, counts: Tensor, beam_size: int) -> None:
        padding = torch.arange(emissions.shape[1]) >= counts[:, None]  # (N, F)
        inside = exact(emissions).masked_fill(padding.to(emissions.device)[..., None], _NEVER)  # (N, F, V)
        self.classes, self.weights = inside.transpose(1, 2), inside.exp()
        self.last = (counts - 1).to(emissions.device)[:, None, None].expand(-1, beam_size, 1)
        self.in_blank = self.classes[:, None, BLANK].cumsum(-1).expand(-1, beam_size, -1)
        self.in_key = torch.full_like(self.in_blank, _NEVER)
        self.empty = True

    def extended(self, ends: Tensor) -> Tensor:
        """Texts with the last symbols `ends` (N, B) -> log-probability of each with one more key (N, B, V).

        It sums all paths that start with these keys, whatever follows; at END, the paths that spell exactly the text.
        """
        made = torch.logaddexp(self.in_key, self.in_blank)
        # The same key again counts as a new one only after a blank.
        before = self._earlier(torch.cat([made, self.in_blank], dim=1))  # (N, 2B, F)
        top = before.amax(-1, keepdim=True)
        found, repeated = (((before - top).exp() @ self.weights).log() + top).chunk(2, dim=1)  # each (N, B, V)
        found = found.scatter(2, ends[..., None], repeated.gather(2, ends[..., None])).clamp(min=_NEVER)
        found[..., END] = made.gather(2, self.last)[..., 0]
        return found

    def extend(self, ends: Tensor, origin: Tensor, symbol: Tensor) -> None:
        """Replace each text by the one at `origin` (N, B) plus `symbol` (N, B); `ends` (N, B) are the last symbols."""
        place = origin[..., None].expand_as(self.in_key)
        in_key, in_blank = self.in_key.gather(1, place), self.in_blank.gather(1, place)
        again = (ends.gather(1, origin) == symbol)[..., None]
        before = self._earlier(in_blank.where(again, torch.logaddexp(in_key, in_blank)))
        key = self.classes.gather(1, symbol[..., None].expand_as(before))  # (N, B, F)
        self.empty = False
        self.in_key = _entered(before, key)
        self.in_blank = _entered(self._earlier(self.in_key), self.classes[:, None, BLANK].expand_as(key))

    def _earlier(self, paths: Tensor) -> Tensor:
        """Log-probabilities (N, B, F) one frame earlier; before the first frame only the empty text is complete."""
        return F.pad(paths[..., :-1], (1, 0), value=0.0 if self.empty else _NEVER)


def _entered(before: Tensor, staying: Tensor) -> Tensor:
    """Log-probability by frame (N, B, F) of entering a symbol at any frame so far, from `before`, then `staying`."""
    total = staying.cumsum(-1)
    return total + (before - (total - staying)).logcumsumexp(-1)
