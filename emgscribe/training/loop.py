"""What Lightning runs: the batches of an epoch, a step, and what a checkpoint keeps beside the weights."""

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from emgscribe.data.windows import Batch, Windows
from emgscribe.decoding.greedy import GreedyDecoder, decode_batch
from emgscribe.errors import EmgscribeError
from emgscribe.models.augment import Augmentation
from emgscribe.models.model import Model
from emgscribe.scoring import Counts, count, total
from emgscribe.training.config import TrainConfig
from emgscribe.training.losses import (
    attention_loss,
    averaging_decay,
    ctc_loss,
    dropout_share,
    keypress_loss,
    keypress_weight,
    learning_rate,
    long_epochs,
)

Curve = dict[str, float]
LOOK_EVERY = 10  # steps between two looks at the loss, each of which makes a GPU wait


class _Batches:
    """What Lightning iterates each epoch: the batches that `begin` then gives."""

    def __init__(self, begin: Callable[[], Iterator[Batch]]) -> None:
        self.begin = begin

    def __iter__(self) -> Iterator[Batch]:
        return self.begin()


@dataclass(frozen=True)
class _Phase:
    """Epochs of one length of windows, and how many steps one of them takes."""

    windows: Windows
    batch_size: int
    epochs: int

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return math.ceil(len(self.windows.shuffled(torch.Generator())) / self.batch_size)


def _phases(windows: Windows, config: TrainConfig) -> tuple[_Phase, _Phase]:
    """The epochs with windows as they are, then those with long ones; a step sees as much signal in both."""
    last, factor = long_epochs(config), config.long_factor
    longer = replace(windows, length=factor * windows.length, stride=factor * windows.stride)
    return (
        _Phase(windows, config.batch_size, config.epochs - last),
        _Phase(longer, max(1, config.batch_size // factor), last),
    )


def dropouts(model: Model) -> list[tuple[nn.Module, str, float]]:
    """Where a model keeps the rate of a dropout: (module, attribute, rate).

    PyTorch's recurrent layers, and our attention, drop out by a number of their own and have no `nn.Dropout`.
    """
    found: list[tuple[nn.Module, str, float]] = []
    for module in model.modules():
        name = "p" if isinstance(module, nn.Dropout | nn.Dropout1d | nn.Dropout2d) else "dropout"
        rate = vars(module).get(name)
        if isinstance(rate, float | int):
            found.append((module, name, float(rate)))
    return found


def follow(average: Model, model: Model, decay: float) -> None:
    """Move `average` toward `model`, keeping the share `decay` of it; batch statistics too, counts are copied.

    Everything stays on the device: `torch.optim.swa_utils.AveragedModel` counts its steps in a tensor and reads it at
    each, which makes a GPU wait.
    """
    pairs = list(zip(average.state_dict().values(), model.state_dict().values(), strict=True))
    moving = [pair for pair in pairs if pair[0].is_floating_point()]
    torch._foreach_lerp_([mean for mean, _ in moving], [now for _, now in moving], 1 - decay)  # a few kernels for all
    for mean, now in pairs:
        if not mean.is_floating_point():
            mean.copy_(now)


class Training(lightning.LightningModule):
    """The model, its loss and its optimiser; keeps the curves and the best validation CER across restarts."""

    def __init__(
        self,
        model: Model,
        config: TrainConfig,
        augmentation: Augmentation,
        *,
        train_windows: Windows,
        val_windows: Windows,
    ) -> None:
        super().__init__()
        self.model, self.config, self.augmentation = model, config, augmentation
        self.val_windows = val_windows
        # A part of the module, so that it is in the checkpoint and on the device of the rest.
        self.average = copy.deepcopy(model).requires_grad_(False) if config.ema else None
        self.normal, self.long = _phases(train_windows, config)
        self.long_from = self.normal.epochs * self.normal.steps  # the first step with long windows
        self.total_steps = self.long_from + self.long.epochs * self.long.steps
        self._dropouts = dropouts(model)
        self.curves: list[Curve] = []
        self.best_cer = float("inf")
        self.seconds = 0.0
        self.commits: list[str] = []  # of the code that trained, in order
        self.seen_loss = math.nan  # the epoch's mean at the latest look; the progress bar must not look again
        self._sums: dict[str, Tensor] = {}
        self._counts: list[Counts] = []

    def _generator(self, stream: int) -> torch.Generator:
        """A generator for this epoch; streams keep the draws of windows, augmentation and dropout apart."""
        # Lightning asks for the batches of a resumed run before it has restored `current_epoch`; the step is right.
        step = self.global_step
        if step < self.long_from:
            epoch = step // self.normal.steps
        else:
            epoch = self.normal.epochs + (step - self.long_from) // self.long.steps
        part = self.global_rank << 48 if stream else 0  # devices share their windows, and change them each its own way
        return torch.Generator().manual_seed((self.config.seed * 100_003 + epoch) * 4 + stream + part)

    def train_dataloader(self) -> _Batches:
        return _Batches(self._epoch)

    def _epoch(self) -> Iterator[Batch]:
        phase = self.normal if self.global_step < self.long_from else self.long
        places = phase.windows.shuffled(self._generator(0))
        return phase.windows.batches(places, phase.batch_size, part=self.global_rank, parts=self.config.devices)

    def val_dataloader(self) -> _Batches:
        return _Batches(lambda: self.val_windows.batches(self.val_windows.tiling(), self.config.batch_size))

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch.to(device)

    def on_train_epoch_start(self) -> None:
        self._augment = self._generator(1)
        torch.manual_seed(self._generator(2).initial_seed())  # dropout draws from the global generator
        self._sums, self._counts = {}, []
        self._began = time.monotonic()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        share = dropout_share(self.config, self.global_step, self.total_steps)
        for module, name, rate in self._dropouts:
            setattr(module, name, share * rate)
        batch = self.augmentation.on_batch(batch, self._augment)
        features = self.augmentation.on_features(self.model.featurize(batch), self._augment)
        frames = self.model.encode(features, batch.lengths)
        emissions = self.model.classify(frames)
        lengths = self.model.frames(batch.lengths)
        loss = ctc = ctc_loss(emissions, lengths, batch)
        items = len(batch) if batch.share else 0
        self._add("train_loss", ctc, items)
        if self.model.attention is not None:
            likely = self.model.attention(frames, lengths, batch.labels)
            attention = attention_loss(likely, batch, self.config.label_smoothing)
            self._add("train_attention_loss", attention, items)
            loss = torch.lerp(ctc, attention, self.config.attention_weight)
        weight = keypress_weight(self.config, self.global_step, self.total_steps)
        if weight > 0:
            loss = loss + weight * keypress_loss(emissions, lengths, batch, self.model.samples_per_frame)
        if batch_idx % LOOK_EVERY == 0:
            self.seen_loss = self.mean("train_loss")
        return loss * batch.share

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if self.average is not None:
            follow(self.average, self.model, averaging_decay(self.config, self.global_step - 1))

    @property
    def judged(self) -> Model:
        """The model that validation scores and that is kept: the average where there is one."""
        return self.model if self.average is None else self.average

    def on_validation_start(self) -> None:
        self.mean("train_loss")  # a network that has gone to NaN is found here, not by the decoder

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        frames = self.judged.encode(self.judged.featurize(batch), batch.lengths)
        emissions = self.judged.classify(frames)
        lengths = self.judged.frames(batch.lengths)
        self._add("val_loss", ctc_loss(emissions, lengths, batch), len(batch))
        if self.judged.attention is not None:
            likely = self.judged.attention(frames, lengths, batch.labels)
            self._add("val_attention_loss", attention_loss(likely, batch), len(batch))
        hypotheses = decode_batch(GreedyDecoder(), emissions, lengths)
        pairs = zip(batch.references(), hypotheses, strict=True)
        self._counts += [count(reference, hypothesis.labels) for reference, hypothesis in pairs]

    def close_epoch(self) -> Curve:
        """Add this epoch's entry to the curves and return it."""
        self.seconds += time.monotonic() - self._began
        entry = {"epoch": float(self.current_epoch), "step": float(self.global_step), "lr": self._rate()}
        entry |= {name: self.mean(name) for name in self._sums}
        counts = total(self._counts)
        if counts.length:
            entry["val_cer"] = counts.cer
        self.curves.append(entry)
        return entry

    def mean(self, name: str) -> float:
        """The epoch's mean loss so far; raises `EmgscribeError` where it is no longer finite."""
        sums = self._sums[name]
        if self.config.devices > 1:  # each has the sums of its own part
            sums = self.trainer.strategy.reduce(sums.clone(), reduce_op="sum")
        pair = sums.tolist()
        if not math.isfinite(pair[0]):
            raise EmgscribeError(
                f"{name} is {pair[0]} at epoch {self.current_epoch}, step {self.global_step}",
                hint="lower --train.lr, set --train.clip-norm 1, or check the data with emgscribe inspect",
            )
        return float(pair[0] / pair[1])

    def _rate(self) -> float:
        return learning_rate(self.config, self.global_step, self.total_steps)

    def _add(self, name: str, mean: Tensor, items: int) -> None:
        """Keep a running (sum, count) on the device: reading a number every step would make a GPU wait."""
        pair = torch.stack([mean.detach() * items, torch.full_like(mean, items)])
        self._sums[name] = self._sums.get(name, torch.zeros_like(pair)) + pair

    def configure_optimizers(self) -> OptimizerLRScheduler:
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[self.config.optimizer]
        optimizer = kind(self.model.parameters(), lr=self.config.lr, weight_decay=self.config.weight_decay)
        factor = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate(self.config, step, self.total_steps) / self.config.lr
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": factor, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        kept = {"curves": self.curves, "best_cer": self.best_cer, "seconds": self.seconds, "commits": self.commits}
        checkpoint["emgscribe"] = kept

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        kept = checkpoint["emgscribe"]
        self.curves, self.best_cer, self.seconds = kept["curves"], kept["best_cer"], kept["seconds"]
        # Runs from before there was this list have none.
        self.commits = list(dict.fromkeys([*kept.get("commits", []), *self.commits]))
