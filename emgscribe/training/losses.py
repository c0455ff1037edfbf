"""What training minimises, and the schedule of the learning rate."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from emgscribe.data.charset import BLANK
from emgscribe.data.windows import Batch
from emgscribe.models.attention import END
from emgscribe.training.config import TrainConfig


def ctc_loss(emissions: Tensor, lengths: Tensor, batch: Batch) -> Tensor:
    """Mean CTC loss (Graves et al. 2006) of emissions (N, F, V), each item's divided by its number of labels.

    `lengths` (N,) are the frames of each item. An item whose labels do not fit into them counts as 0, with no gradient.
    """
    rows, labels = emissions.transpose(0, 1), batch.labels  # (F, N, V)
    if emissions.device.type == "mps":  # for which PyTorch has no CTC
        rows, labels = rows.cpu(), labels.cpu()
    given = rows, labels, lengths, batch.label_lengths
    losses = F.ctc_loss(*given, blank=BLANK, reduction="none", zero_infinity=True).to(emissions.device)  # (N,)
    return _per_label(losses, batch)


def teacher_loss(emissions: Tensor, target: Tensor, lengths: Tensor, batch: Batch) -> Tensor:
    """Mean divergence of emissions (N, F, V) from those of a teacher, each item's divided by its number of labels.

    It is the sum over an item's frames of KL(teacher || student): distillation (Hinton et al. 2015, arXiv 1503.02531).
    """
    apart = (target.exp() * (target - emissions)).sum(-1)  # (N, F)
    return _per_label((apart * _inside(emissions, lengths)).sum(1), batch)


def _per_label(losses: Tensor, batch: Batch) -> Tensor:
    """The mean of losses (N,), each divided by the item's number of labels."""
    # PyTorch's own mean of CTC copies the lengths to a GPU in a way that waits for all of its queue.
    counts = batch.label_lengths.clamp(min=1).to(losses.device, losses.dtype, non_blocking=True)
    return (losses / counts).mean()


def _inside(emissions: Tensor, lengths: Tensor) -> Tensor:
    """Which frames (N, F) of emissions (N, F, V) are of the item, and not padding."""
    frames = torch.arange(emissions.shape[1], device=emissions.device)
    return frames < lengths.to(emissions.device, non_blocking=True)[:, None]


def keypress_loss(emissions: Tensor, lengths: Tensor, batch: Batch, samples_per_frame: int) -> Tensor:
    """Cross-entropy of emissions (N, F, V) by frame: mean over key presses plus mean over all other frames.

    The label of a frame in which a key went down is that key; that of any other frame is the blank. Without the second
    mean the commonest key can take the blank's place between the keys, and CTC does not recover (LOG.md, 2026-11-22).
    """
    device, (items, count, symbols) = emissions.device, emissions.shape
    onsets = batch.onsets.to(device, non_blocking=True)
    real = onsets >= 0  # (N, L)
    frames = onsets.clamp(min=0) // samples_per_frame
    rows = emissions.gather(1, frames[..., None].expand(-1, -1, symbols))  # (N, L, V)
    picked = rows.gather(2, batch.labels[..., None])[..., 0]  # (N, L)
    pressed = -(picked * real).sum() / real.sum().clamp(min=1)
    struck = torch.zeros(items, count + 1, dtype=torch.bool, device=device)
    struck.scatter_(1, frames.where(real, count), True)  # (N, F + 1), padding strikes the extra frame
    other = _inside(emissions, lengths) & ~struck[:, :count]
    return pressed - (emissions[..., BLANK] * other).sum() / other.sum().clamp(min=1)


def attention_loss(likely: Tensor, batch: Batch, smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of each next key, and of the end, under an attention decoder's predictions (N, L + 1, V).

    `smoothing` is the part of each target that is spread over all symbols (Szegedy et al. 2016, arXiv 1512.00567).
    """
    lengths = batch.label_lengths.to(likely.device, non_blocking=True)[:, None]
    place, none = torch.arange(likely.shape[1], device=likely.device), -100
    targets = F.pad(batch.labels, (0, 1)).masked_fill(place == lengths, END).masked_fill(place > lengths, none)
    return F.cross_entropy(likely.transpose(1, 2), targets, ignore_index=none, label_smoothing=smoothing)


def learning_rate(config: TrainConfig, step: int, total: int) -> float:
    """Linear from `lr_start` to `lr` over the warm-up, then a cosine to `lr_end` at the last of `total` steps."""
    warmup = min(config.warmup_epochs * total / config.epochs, total)
    if step < warmup:
        return config.lr_start + (config.lr - config.lr_start) * step / warmup
    progress = min(1.0, (step - warmup) / max(1.0, total - 1 - warmup))
    return config.lr_end + (config.lr - config.lr_end) * 0.5 * (1 + math.cos(math.pi * progress))
