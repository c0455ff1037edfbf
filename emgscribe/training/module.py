"""The network as a Lightning module: its losses, its schedules and what it logs."""

import math
from typing import Any, cast

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
    model: Model, batch: Batch, augmentation: Augmentation, config: TrainConfig,
    *, step: int, total: int, generator: torch.Generator,
) -> dict[str, Tensor]:  # fmt: skip
    """The losses of step `step` of `total`: "total" to minimise, and its parts "loss" (CTC) and "attention_loss".

    `generator` (on the CPU) draws the augmentation. Nothing here makes a GPU wait.
    """
    batch = augmentation.on_batch(batch, generator)
    features = augmentation.on_features(model.featurize(batch), generator)
    emissions, lengths, losses = _losses(model, features, batch, config.label_smoothing)
    loss = losses["loss"]
    if "attention_loss" in losses:
        loss = torch.lerp(loss, losses["attention_loss"], config.attention_weight)
    weight = keypress_weight(config, step, total)
    if weight > 0:
        loss = loss + weight * keypress_loss(emissions, lengths, batch, model.samples_per_frame)
    return losses | {"total": loss * batch.share}


def _losses(
    model: Model, features: Tensor, batch: Batch, smoothing: float = 0.0
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Emissions (N, F, V), their lengths (N,), and the loss of each head."""
    frames = model.encode(features, batch.lengths)
    emissions, lengths = model.classify(frames), model.frames(batch.lengths)
    losses = {"loss": ctc_loss(emissions, lengths, batch)}
    if model.attention is not None:
        likely = model.attention(frames, lengths, batch.labels)
        losses["attention_loss"] = attention_loss(likely, batch, smoothing)
    return emissions, lengths, losses


class Ratio(Metric):
    """A sum over a sum: on the device until the end of an epoch, and added up over all devices."""

    above: Tensor
    below: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("above", "below"):
            self.add_state(name, torch.zeros(()), dist_reduce_fx="sum")

    def update(self, above: Tensor | float, below: float) -> None:
        self.above, self.below = self.above + above, self.below + below

    def compute(self) -> Tensor:
        return self.above.cpu().double() / self.below.cpu().double()


def dropouts(model: Model) -> list[tuple[nn.Module, str, float]]:
    """Where a model keeps the rate of a dropout: (module, attribute, rate).

    PyTorch's recurrent layers, and our attention, hold the rate as a number and have no `nn.Dropout`.
    """
    found = []
    for module in model.modules():
        name = "p" if isinstance(module, nn.Dropout | nn.Dropout1d | nn.Dropout2d) else "dropout"
        rate = vars(module).get(name)
        if isinstance(rate, float | int):
            found.append((module, name, float(rate)))
    return found


class TrainingModule(lightning.LightningModule):
    """Trains `model` in any Lightning Trainer, on batches of windows such as those of `SessionsDataModule`.

    Logs `train_loss` and `val_loss` (CTC), `val_cer` (greedy, in percent) and `lr`, and of a model with two heads
    `train_attention_loss` and `val_attention_loss`. Schedules run over all steps of the data module, or else over those
    that the Trainer expects. Everything random is drawn from `config.seed` and the epoch's number. A loss that is no
    longer finite is an `EmgscribeError`.
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
        data, config = getattr(self.trainer, "datamodule", None), self.config
        if isinstance(data, SessionsDataModule):
            self.total_steps = data.total_steps
        else:
            self.total_steps = int(self.trainer.estimated_stepping_batches)
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.optimizer]
        optimizer = kind(self.model.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        factor = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate(config, step, self.total_steps) / config.lr
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": factor, "interval": "step"}}

    def on_train_epoch_start(self) -> None:
        place = self.config.seed, self.current_epoch
        self._augment = epoch_generator(*place, 1, self.global_rank)
        # Dropout draws from the global generator.
        torch.manual_seed(epoch_generator(*place, 2, self.global_rank).initial_seed())

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        share = dropout_share(self.config, self.global_step, self.total_steps)
        for module, name, rate in self._dropouts:
            setattr(module, name, share * rate)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        place: dict[str, Any] = {"step": self.global_step, "total": self.total_steps, "generator": self._augment}
        losses = training_loss(self.model, batch, self.augmentation, self.config, **place)
        loss = losses.pop("total")
        self._log_losses("train", losses, batch)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if batch_idx % LOOK_EVERY == 0 or self.trainer.is_last_batch:
            self._require_finite("training", outputs["loss"])

    def on_validation_epoch_end(self) -> None:
        self._require_finite("validation", self._ratio("val_loss").compute())

    def _require_finite(self, stage: str, loss: Tensor) -> None:
        if not math.isfinite(loss):
            what = f"the {stage} loss is {float(loss)} at epoch {self.current_epoch + 1}, step {self.global_step}"
            hint = "lower --train.lr, set --train.clip-norm 1, or check the data with emgscribe inspect"
            raise EmgscribeError(what, hint=hint)

    def on_train_epoch_end(self) -> None:
        self.log("lr", learning_rate(self.config, self.global_step, self.total_steps))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        emissions, lengths, losses = _losses(self.model, self.model.featurize(batch), batch)
        self._log_losses("val", losses, batch)
        pairs = zip(batch.references(), decode_batch(GreedyDecoder(), emissions, lengths), strict=True)
        counts = total([count(reference, hypothesis.labels) for reference, hypothesis in pairs])
        self._log("val_cer", 100.0 * counts.edits * (batch.share > 0), counts.length * (batch.share > 0))

    def _log_losses(self, stage: str, losses: dict[str, Tensor], batch: Batch) -> None:
        items = len(batch) * (batch.share > 0)  # a small last batch may leave a device empty
        for name, loss in losses.items():
            self._log(f"{stage}_{name}", loss.detach() * items, items)

    def _log(self, name: str, above: Tensor | float, below: int) -> None:
        self._ratio(name).update(above, below)
        bar = name in ("train_loss", "val_cer")
        self.log(name, self._ratio(name), on_step=False, on_epoch=True, batch_size=1, prog_bar=bar)

    def _ratio(self, name: str) -> Ratio:
        return cast(Ratio, self._ratios[name])
