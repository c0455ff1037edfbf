"""The network as a Lightning module: its losses, its schedules and what it logs."""

import math
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torchmetrics import Metric

from emgscribe.data.windows import Batch
from emgscribe.decoding.greedy import GreedyDecoder, decode_batch
from emgscribe.errors import EmgscribeError
from emgscribe.models.augment import Augmentation
from emgscribe.models.model import Model
from emgscribe.scoring import count, total
from emgscribe.training.config import TrainConfig
from emgscribe.training.data import SessionsDataModule, epoch_generator
from emgscribe.training.losses import (
    attention_loss,
    ctc_loss,
    dropout_share,
    keypress_loss,
    keypress_weight,
    learning_rate,
)

LOOK_EVERY = 10  # steps between two looks at the loss, each of which makes a GPU wait


def training_loss(
    model: Model,
    batch: Batch,
    augmentation: Augmentation,
    config: TrainConfig,
    *,
    step: int,
    total: int,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """The losses of step number `step` of `total`: "loss" is what to minimise, "ctc" and "attention" are parts of it.

    `generator` (on the CPU) draws the augmentation. Nothing here makes a GPU wait.
    """
    batch = augmentation.on_batch(batch, generator)
    frames = model.encode(augmentation.on_features(model.featurize(batch), generator), batch.lengths)
    emissions, lengths = model.classify(frames), model.frames(batch.lengths)
    losses = {"ctc": ctc_loss(emissions, lengths, batch)}
    loss = losses["ctc"]
    if model.attention is not None:
        likely = model.attention(frames, lengths, batch.labels)
        losses["attention"] = attention_loss(likely, batch, config.label_smoothing)
        loss = torch.lerp(loss, losses["attention"], config.attention_weight)
    weight = keypress_weight(config, step, total)
    if weight > 0:
        loss = loss + weight * keypress_loss(emissions, lengths, batch, model.samples_per_frame)
    return losses | {"loss": loss * batch.share}


class Ratio(Metric):
    """A sum over a sum. It stays on the device until the end of an epoch, and is added up over all devices."""

    above: Tensor
    below: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("above", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("below", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, above: Tensor | float, below: float) -> None:
        self.above = self.above + above
        self.below = self.below + below

    def compute(self) -> Tensor:
        return self.above.cpu().double() / self.below.cpu().double()


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


class TrainingModule(lightning.LightningModule):
    """Trains `model` in any Lightning Trainer, on batches of windows such as those of `SessionsDataModule`.

    Logs `train_loss` and `val_loss` (CTC), `val_cer` (greedy, in percent) and `lr`, and of a model with two heads
    `train_attention_loss` and `val_attention_loss`. Schedules run over the data module's steps, else over those that
    the Trainer expects. All that is random is drawn from `config.seed` and the epoch's number. A loss that is no longer
    finite is an `EmgscribeError`.
    """

    def __init__(self, model: Model, config: TrainConfig, augmentation: Augmentation) -> None:
        super().__init__()
        self.model, self.config, self.augmentation = model, config, augmentation
        self.total_steps = 1
        self._dropouts = dropouts(model)
        parts = ["loss"] if model.attention is None else ["loss", "attention_loss"]
        names = [f"{stage}_{part}" for stage in ("train", "val") for part in parts]
        self._ratios = nn.ModuleDict({name: Ratio() for name in [*names, "val_cer"]})

    def configure_optimizers(self) -> OptimizerLRScheduler:
        data = getattr(self.trainer, "datamodule", None)
        ours = isinstance(data, SessionsDataModule)
        self.total_steps = data.total_steps if ours else int(self.trainer.estimated_stepping_batches)
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[self.config.optimizer]
        optimizer = kind(self.model.parameters(), lr=self.config.lr, weight_decay=self.config.weight_decay)
        factor = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate(self.config, step, self.total_steps) / self.config.lr
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": factor, "interval": "step"}}

    def _generator(self, stream: int) -> torch.Generator:
        return epoch_generator(self.config.seed, self.current_epoch, stream, self.global_rank)

    def on_train_epoch_start(self) -> None:
        self._augment = self._generator(1)
        torch.manual_seed(self._generator(2).initial_seed())  # dropout draws from the global generator

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        share = dropout_share(self.config, self.global_step, self.total_steps)
        for module, name, rate in self._dropouts:
            setattr(module, name, share * rate)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        step, steps = self.global_step, self.total_steps
        losses = training_loss(
            self.model, batch, self.augmentation, self.config, step=step, total=steps, generator=self._augment
        )
        self._log_losses("train", losses, batch)
        return losses["loss"]

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if batch_idx % LOOK_EVERY and not self.trainer.is_last_batch:
            return
        loss = float(outputs["loss"])
        if not math.isfinite(loss):
            raise EmgscribeError(
                f"the training loss is {loss} at epoch {self.current_epoch}, step {self.global_step}",
                hint="lower --train.lr, set --train.clip-norm 1, or check the data with emgscribe inspect",
            )

    def on_train_epoch_end(self) -> None:
        self.log("lr", learning_rate(self.config, self.global_step, self.total_steps))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        frames = self.model.encode(self.model.featurize(batch), batch.lengths)
        emissions, lengths = self.model.classify(frames), self.model.frames(batch.lengths)
        losses = {"ctc": ctc_loss(emissions, lengths, batch)}
        if self.model.attention is not None:
            losses["attention"] = attention_loss(self.model.attention(frames, lengths, batch.labels), batch)
        self._log_losses("val", losses, batch)
        pairs = zip(batch.references(), decode_batch(GreedyDecoder(), emissions, lengths), strict=True)
        counts = total([count(reference, hypothesis.labels) for reference, hypothesis in pairs])
        self._log("val_cer", 100.0 * counts.edits * bool(batch.share), counts.length * bool(batch.share))

    def _log_losses(self, stage: str, losses: dict[str, Tensor], batch: Batch) -> None:
        items = len(batch) if batch.share else 0  # a device may have nothing of a small last batch
        self._log(f"{stage}_loss", losses["ctc"].detach() * items, items)
        if "attention" in losses:
            self._log(f"{stage}_attention_loss", losses["attention"].detach() * items, items)

    def _log(self, name: str, above: Tensor | float, below: float) -> None:
        ratio = self._ratios[name]
        ratio.update(above, below)
        bar = name in ("train_loss", "val_cer")
        self.log(name, ratio, on_step=False, on_epoch=True, batch_size=1, prog_bar=bar)
