"""What Lightning runs: the batches of an epoch, a step, and what a checkpoint keeps beside the weights."""

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from emgscribe.augment import Augmentation
from emgscribe.config import TrainConfig
from emgscribe.decode import GreedyDecoder, decode_batch
from emgscribe.errors import EmgscribeError
from emgscribe.model import Model
from emgscribe.objective import ctc_loss, keypress_loss, keypress_weight, learning_rate
from emgscribe.score import Counts, count, total
from emgscribe.windows import Batch, Places, Windows

Curve = dict[str, float]
LOOK_EVERY = 10  # steps between two looks at the loss, each of which makes a GPU wait


class _Batches:
    """What Lightning iterates each epoch: the batches of the windows at the places that `places` then gives."""

    def __init__(self, windows: Windows, batch_size: int, places: Callable[[], Places]) -> None:
        self.windows, self.batch_size, self.places = windows, batch_size, places

    def __iter__(self) -> Iterator[Batch]:
        return self.windows.batches(self.places(), self.batch_size)


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
        self.train_windows, self.val_windows = train_windows, val_windows
        self.steps_per_epoch = math.ceil(len(train_windows.shuffled(torch.Generator())) / config.batch_size)
        self.total_steps = config.epochs * self.steps_per_epoch
        self.curves: list[Curve] = []
        self.best_cer = float("inf")
        self.seconds = 0.0
        self.seen_loss = math.nan  # the epoch's mean at the latest look; the progress bar must not look again
        self._sums: dict[str, Tensor] = {}
        self._counts: list[Counts] = []

    def _generator(self, stream: int) -> torch.Generator:
        """A generator for this epoch; streams keep the draws of windows, augmentation and dropout apart."""
        # Lightning asks for the batches of a resumed run before it has restored `current_epoch`; the step is right.
        epoch = self.global_step // self.steps_per_epoch
        return torch.Generator().manual_seed((self.config.seed * 100_003 + epoch) * 4 + stream)

    def train_dataloader(self) -> _Batches:
        return _Batches(
            self.train_windows, self.config.batch_size, lambda: self.train_windows.shuffled(self._generator(0))
        )

    def val_dataloader(self) -> _Batches:
        return _Batches(self.val_windows, self.config.batch_size, self.val_windows.tiling)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch.to(device)

    def on_train_epoch_start(self) -> None:
        self._augment = self._generator(1)
        torch.manual_seed(self._generator(2).initial_seed())  # dropout draws from the global generator
        self._sums, self._counts = {}, []
        self._began = time.monotonic()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        batch = self.augmentation.on_batch(batch, self._augment)
        features = self.augmentation.on_features(self.model.featurize(batch), self._augment)
        emissions = self.model.emit(features, batch.lengths)
        loss = ctc = ctc_loss(emissions, batch, self.model)
        weight = keypress_weight(self.config, self.global_step, self.total_steps)
        if weight > 0:
            loss = ctc + weight * keypress_loss(emissions, batch, self.model)
        self._add("train_loss", ctc, len(batch))
        if batch_idx % LOOK_EVERY == 0:
            self.seen_loss = self.mean("train_loss")
        return loss

    def on_validation_start(self) -> None:
        self.mean("train_loss")  # a network that has gone to NaN is found here, not by the decoder

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        emissions = self.model(batch)
        self._add("val_loss", ctc_loss(emissions, batch, self.model), len(batch))
        frames = self.model.frames(batch.lengths)
        hypotheses = decode_batch(GreedyDecoder(), emissions, frames)
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
        pair = self._sums[name].tolist()
        if not math.isfinite(pair[0]):
            raise EmgscribeError(
                f"{name} is {pair[0]} at epoch {self.current_epoch}, step {self.global_step}",
                mend="lower --train.lr, set --train.clip-norm 1, or check the data with emgscribe inspect",
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
        optimizer = kind(self.parameters(), lr=self.config.lr, weight_decay=self.config.weight_decay)
        factor = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate(self.config, step, self.total_steps) / self.config.lr
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": factor, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["emgscribe"] = {"curves": self.curves, "best_cer": self.best_cer, "seconds": self.seconds}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        kept = checkpoint["emgscribe"]
        self.curves, self.best_cer, self.seconds = kept["curves"], kept["best_cer"], kept["seconds"]
