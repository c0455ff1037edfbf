"""What any Lightning Trainer can train: a data module of windows, and the network with its losses and schedules."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from emgscribe.data.session import Session
from emgscribe.data.windows import Batch, Store, WindowConfig, Windows
from emgscribe.decoding.decoder import decode_batch
from emgscribe.decoding.greedy import GreedyDecoder
from emgscribe.errors import EmgscribeError, needing
from emgscribe.models.augment import Augmentation
from emgscribe.models.model import Model
from emgscribe.scoring import count, total
from emgscribe.training.config import TrainConfig
from emgscribe.training.losses import attention_loss, ctc_loss, keypress_loss, learning_rate, teacher_loss

with needing("train"):
    import lightning
    from lightning.pytorch.utilities.types import OptimizerLRScheduler
    from torchmetrics import Metric

CHECK_EVERY = 10  # steps between two checks of the loss, each of which syncs with the GPU


def epoch_generator(seed: int, epoch: int, stream: int, rank: int = 0) -> torch.Generator:
    """A generator for one epoch; streams keep the draws of windows (0), augmentation (1) and dropout (2) apart."""
    return torch.Generator().manual_seed((seed * 100_003 + epoch) * 4 + stream + (rank << 48))


def cut(
    sessions: Sequence[Session], config: WindowConfig, context: tuple[int, int], device: torch.device | str = "cpu"
) -> Windows:
    """The windows of `sessions` with at least `context` samples (left, right), gathered on `device`."""
    left, right = max(config.left, context[0]), max(config.right, context[1])
    return Windows(Store(sessions, device), config.length, config.stride, left, right)


class SessionsDataModule(lightning.LightningDataModule):
    """Windows of training and validation sessions, for any Lightning Trainer.

    `context` is that of the model (`model.context`) or, with a teacher, of the `TrainingModule`. `windows` are in
    samples of the sessions' own rate: at a rate other than 2 kHz take those of `recipe.for_shape(session.shape)`, as
    `train` does. Training windows are drawn again for each epoch, so that no sample is favoured. With
    `config.long_windows` those of the last epochs are longer, and a step still sees as much signal. Several devices
    each get a part of every batch.
    """

    def __init__(
        self, train: Sequence[Session], val: Sequence[Session], windows: WindowConfig, config: TrainConfig,
        *, context: tuple[int, int] = (0, 0),
    ) -> None:  # fmt: skip
        super().__init__()
        self.sessions, self.windows, self.config, self.context = (train, val), windows, config, context
        long = max(1, round(config.long_windows * config.epochs)) if config.long_windows else 0
        self.long_from = config.epochs - long  # the first epoch with long windows

    def setup(self, stage: str = "fit") -> None:
        device = self.trainer.strategy.root_device if self.trainer else "cpu"
        self._train, self._val = (cut(part, self.windows, self.context, device) for part in self.sessions)

    def _phase(self, windows: Windows, epoch: int) -> tuple[Windows, int]:
        factor = self.config.long_factor if epoch >= self.long_from else 1
        longer = replace(windows, length=factor * windows.length, stride=factor * windows.stride)
        return longer, max(1, self.config.batch_size // factor)

    def _steps(self, epoch: int) -> int:
        windows, batch_size = self._phase(cut(self.sessions[0], self.windows, self.context), epoch)
        return math.ceil(len(windows.shuffled(torch.Generator())) / batch_size)

    @property
    def total_steps(self) -> int:
        return self.long_from * self._steps(0) + (self.config.epochs - self.long_from) * self._steps(self.long_from)

    def train_dataloader(self) -> "_Loader":
        return _Loader(self._epoch, None if 0 < self.long_from < self.config.epochs else self._steps(0))

    def val_dataloader(self) -> "_Loader":
        tiled, size = replace(self._val, stride=self._val.length), self.config.batch_size
        places = tiled.tiling()
        return _Loader(lambda: tiled.batches(places, size, **self._part()), math.ceil(len(places) / size))

    def _epoch(self) -> Iterator[Batch]:
        # `current_epoch` is one behind when a resumed run asks for its first batches; this counter is not.
        progress: Any = self.trainer and self.trainer.fit_loop.epoch_progress.current
        epoch = progress.processed if progress else 0
        windows, size = self._phase(self._train, epoch)
        return windows.batches(windows.shuffled(epoch_generator(self.config.seed, epoch, 0)), size, **self._part())

    def _part(self) -> dict[str, int]:
        return {"part": self.trainer.global_rank, "parts": self.trainer.world_size} if self.trainer else {}


@dataclass
class _Loader:
    """What a Trainer iterates over once per epoch. It has no length where epochs differ in theirs."""

    begin: Callable[[], Iterator[Batch]]
    steps: int | None

    def __iter__(self) -> Iterator[Batch]:
        return self.begin()

    def __len__(self) -> int:
        if self.steps is None:
            raise TypeError("epochs differ in length")
        return self.steps


def training_loss(
    model: Model, batch: Batch, augmentation: Augmentation, config: TrainConfig,
    *, step: int, total: int, generator: torch.Generator, teacher: Model | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    """The losses of step `step` of `total`: "total" to minimise, and its parts "loss" (CTC), "attention_loss" and
    "teacher_loss".

    `generator` (on the CPU) draws the augmentation, of which the teacher sees all but what is done to the features.
    Nothing here syncs with a GPU.
    """
    batch = augmentation.on_batch(batch, generator)
    features = augmentation.on_features(model.featurize(batch), generator)
    emissions, lengths, losses = _losses(model, features, batch, config.label_smoothing)
    loss = losses["loss"]
    if "attention_loss" in losses:
        loss = torch.lerp(loss, losses["attention_loss"], config.attention_weight)
    if teacher is not None:
        with torch.no_grad():
            target, _ = teacher(batch)
        losses["teacher_loss"] = teacher_loss(emissions, target, lengths, batch)
        loss = torch.lerp(loss, losses["teacher_loss"], config.teacher_weight)
    weight = config.keypress_weight * (1 - step / (config.keypress_fraction * total))
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


def _reading(model: Model) -> str:
    return f"{model.shape.rate / model.samples_per_frame:.4g} frames/s of {model.shape}"


class Ratio(Metric):
    """A sum over a sum: on the device until the end of an epoch, and added up over all devices."""

    numerator: Tensor
    denominator: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("numerator", "denominator"):
            self.add_state(name, torch.zeros(()), dist_reduce_fx="sum")

    def update(self, numerator: Tensor | float, denominator: float) -> None:
        self.numerator, self.denominator = self.numerator + numerator, self.denominator + denominator

    def compute(self) -> Tensor:
        return self.numerator.cpu().double() / self.denominator.cpu().double()


def optimizer_and_schedule(model: Model, config: TrainConfig, steps: int) -> tuple[torch.optim.Optimizer, LambdaLR]:
    """The optimizer of a model's weights, and the schedule of its learning rate over `steps` steps."""
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.optimizer]
    optimizer = kind(model.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    return optimizer, LambdaLR(optimizer, lambda step: learning_rate(config, step, steps) / config.lr)


class TrainingModule(lightning.LightningModule):
    """Trains `model` in any Lightning Trainer, on batches of windows such as those of `SessionsDataModule`.

    With a `teacher`, a trained model or ensemble, it also learns the teacher's emissions (`config.teacher_weight`), and
    windows need the `context` of both. Logs `train_loss` and `val_loss` (CTC), `val_cer` (greedy, in per cent) and
    `lr`; for an attention decoder also `train_attention_loss` and `val_attention_loss`, with a teacher
    `train_teacher_loss`. Schedules run over the `total_steps` of the data module, or else of the Trainer. `config.seed`
    and the epoch decide everything random. The model's `ancestry` gets the sessions of a `SessionsDataModule`; with any
    other data it is incomplete. A teacher of another frame rate or shape, and a loss that is not finite, raise
    `EmgscribeError`.
    """

    def __init__(
        self, model: Model, config: TrainConfig, augmentation: Augmentation, teacher: Model | None = None
    ) -> None:
        super().__init__()
        self.model, self.config, self.augmentation = model, config, augmentation
        if teacher and (teacher.samples_per_frame, teacher.shape) != (model.samples_per_frame, model.shape):
            what = f"the teacher has {_reading(teacher)}, but the network to be trained {_reading(model)}"
            hint = "choose a teacher of the same frame rate, for recordings of this shape"
            raise EmgscribeError(what, where=str(teacher.folder or repr(teacher)), hint=hint)
        self.teacher = [teacher.eval()] if teacher else []  # in a list, so that it is neither trained nor saved
        left, right = zip(*(one.context for one in [model, *self.teacher]), strict=True)
        self.context = max(left), max(right)
        # PyTorch's recurrent layers, and our attention, hold the rate as a number and have no `nn.Dropout`.
        kinds = nn.Dropout | nn.Dropout1d | nn.Dropout2d
        places = [(part, "p" if isinstance(part, kinds) else "dropout") for part in model.modules()]
        found = [(part, name, vars(part).get(name)) for part, name in places]
        self.dropouts = [(part, name, rate) for part, name, rate in found if isinstance(rate, float | int)]
        names = ["train_loss", "val_loss", "val_cer"]
        names += [] if model.attention is None else ["train_attention_loss", "val_attention_loss"]
        names += ["train_teacher_loss"] if teacher else []
        self.ratios: Any = nn.ModuleDict({name: Ratio() for name in names})

    def configure_optimizers(self) -> OptimizerLRScheduler:
        data = getattr(self.trainer, "datamodule", None)
        self.total_steps = getattr(data, "total_steps", None) or int(self.trainer.estimated_stepping_batches)
        optimizer, schedule = optimizer_and_schedule(self.model, self.config, self.total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_fit_start(self) -> None:
        ancestry = self.model.ancestry
        for teacher in self.teacher:
            teacher.to(self.device)
            ancestry = ancestry.joined(teacher.ancestry)
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, SessionsDataModule):
            self.model.ancestry = ancestry.after(*data.sessions)
        else:
            self.model.ancestry = replace(ancestry, complete=False)

    def on_train_epoch_start(self) -> None:
        seed, epoch, rank = self.config.seed, self.current_epoch, self.global_rank
        self._augment = epoch_generator(seed, epoch, 1, rank)
        torch.manual_seed(epoch_generator(seed, epoch, 2, rank).initial_seed())  # of the generator that dropout uses

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        ramp = self.config.dropout_ramp * self.total_steps
        share = min(1.0, self.global_step / ramp) if ramp else 1.0
        for module, name, rate in self.dropouts:
            setattr(module, name, share * rate)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        place: dict[str, Any] = {"step": self.global_step, "total": self.total_steps, "generator": self._augment}
        teacher = next(iter(self.teacher), None)
        losses = training_loss(self.model, batch, self.augmentation, self.config, teacher=teacher, **place)
        loss = losses.pop("total")
        self._log_losses("train", losses, batch)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if batch_idx % CHECK_EVERY == 0 or self.trainer.is_last_batch:
            self._require_finite("training", outputs["loss"])

    def on_train_epoch_end(self) -> None:
        self.log("lr", learning_rate(self.config, self.global_step, self.total_steps), sync_dist=True)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        emissions, lengths, losses = _losses(self.model, self.model.featurize(batch), batch)
        self._require_finite("validation", losses["loss"])
        self._log_losses("val", losses, batch)
        pairs = zip(batch.references(), decode_batch(GreedyDecoder(), emissions, lengths), strict=True)
        counts = total([count(reference, hypothesis.labels) for reference, hypothesis in pairs])
        self._log("val_cer", 100.0 * counts.edits, counts.length, batch)

    def _require_finite(self, stage: str, loss: Tensor) -> None:
        if not math.isfinite(loss):
            what = f"the {stage} loss is {float(loss)} at epoch {self.current_epoch + 1}, step {self.global_step}"
            hint = "lower --train.lr, set --train.clip-norm 1, or check the data with emgscribe inspect"
            raise EmgscribeError(what, hint=hint)

    def _log_losses(self, stage: str, losses: dict[str, Tensor], batch: Batch) -> None:
        for name, loss in losses.items():
            self._log(f"{stage}_{name}", loss.detach() * len(batch), len(batch), batch)

    def _log(self, name: str, numerator: Tensor | float, denominator: int, batch: Batch) -> None:
        counts = batch.share > 0  # a small last batch may leave a device empty
        ratio = self.ratios[name]
        ratio.update(numerator * counts, denominator * counts)
        self.log(name, ratio, on_epoch=True, on_step=False, batch_size=1, prog_bar=name in ("train_loss", "val_cer"))
