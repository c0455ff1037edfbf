"""Training: the only module that imports lightning.

A run lives in a folder: `best/` (the model of the lowest validation CER), `last.ckpt` (everything that a resumed run
needs), `curves.csv` (a line an epoch) and `settings.json` (so that another experiment does not continue it).
All randomness is drawn from the seed and the epoch's number, so a run that was cut off and resumed ends with the same
weights as one that was not: bit for bit on a CPU, on a GPU up to the order in which its kernels add.
"""

import csv
import logging
import math
import shutil
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import lightning
import torch
from filelock import FileLock, Timeout
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from emgscribe.augment import Augmentation
from emgscribe.config import TrainConfig, WindowConfig, require, to_json
from emgscribe.decode import GreedyDecoder, decode_batch
from emgscribe.errors import EmgscribeError
from emgscribe.files import read_json, replacing, write_json
from emgscribe.model import Model, ModelConfig, best_device, load_model, save_model
from emgscribe.objective import ctc_loss, keypress_loss, keypress_weight, learning_rate
from emgscribe.score import Counts, count, total
from emgscribe.store import Store, StoredSession
from emgscribe.windows import Batch, Places, Windows

Curve = dict[str, float]
_LOOK_EVERY = 10  # steps between two looks at the loss, each of which makes a GPU wait


@dataclass(frozen=True)
class Trained:
    """What a finished run leaves: the best model (by validation CER), one curve entry an epoch, seconds, device."""

    model: Model
    curves: list[Curve]
    seconds: float
    device: str
    precision: str


@dataclass(frozen=True)
class Recipe:
    """Everything that decides how a network is built and trained, but the data."""

    model: ModelConfig = field(default_factory=ModelConfig)
    windows: WindowConfig = field(default_factory=WindowConfig)
    augment: Augmentation = field(default_factory=Augmentation)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        length, jitter = self.windows.length, self.augment.jitter.samples
        require(jitter < length, "augment.jitter.samples", jitter, f"fewer than windows.length = {length}")
        frames, masks = length // self.model.features.samples_per_frame, self.augment.spec
        allowed = f"0 to {frames}, the frames of windows.length = {length}"
        for name in ("time_masks", "time_frames"):
            require(getattr(masks, name) <= frames, f"augment.spec.{name}", getattr(masks, name), allowed)


def fit(
    recipe: Recipe,
    *,
    train_sessions: list[StoredSession],
    val_sessions: list[StoredSession],
    folder: Path,
    start: Path | None = None,
    console: Console | None = None,
) -> Trained:
    """Train until the last epoch, from where the folder's earlier run stopped if there was one.

    `start` is the folder of a model whose weights a new run begins with. Raises `EmgscribeError` when another process
    trains in `folder`, when the folder holds another experiment, when the loss is no longer finite and when the disk
    is full; the last whole checkpoint stays in each case. Ctrl-C raises `KeyboardInterrupt` and leaves the same.
    """
    device = best_device()
    precision = resolve_precision(recipe.train.precision, device)
    described = to_json(recipe) | {"device": device.type, "precision": precision}
    described["train_sessions"] = [session.content for session in train_sessions]
    described["val_sessions"] = [session.content for session in val_sessions]
    described["start"] = str(start)
    with _alone(folder):
        _claim(folder, described)
        torch.manual_seed(recipe.train.seed)
        model = Model(recipe.model) if start is None else _continued(start, recipe.model)
        tiled = replace(recipe.windows, stride=recipe.windows.length)
        training = _Training(
            model,
            recipe.train,
            recipe.augment,
            train_windows=cut(train_sessions, recipe.windows, model, device),
            val_windows=cut(val_sessions, tiled, model, device),
        )
        _run(training, folder, precision, console or Console())
        name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
        return Trained(load_model(folder / "best", device), training.curves, training.seconds, name, precision)


def _continued(start: Path, config: ModelConfig) -> Model:
    """The trained model in the folder `start`, to be trained on; another network than `config` is refused."""
    model = load_model(start)
    if model.config != config:
        raise EmgscribeError(
            "is another network than the one to be trained", where=str(start), mend="train it from one of the same kind"
        )
    return model.train()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the run's folder against other processes."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", timeout=0)
        lock.acquire()
    except Timeout as error:
        mend = "wait for it, or train into another folder with --runs"
        raise EmgscribeError("another process is training here", where=str(folder), mend=mend) from error
    except OSError as error:
        mend = "choose another folder with --runs"
        raise EmgscribeError(f"cannot be used ({error.strerror or error})", where=str(folder), mend=mend) from error
    try:
        yield
    finally:
        lock.release()


def _claim(folder: Path, described: dict[str, Any]) -> None:
    """Refuse a folder whose earlier run had other settings or other data; note ours in a new one."""
    noted = folder / "settings.json"
    if not (folder / "last.ckpt").exists():
        shutil.rmtree(folder / "best", ignore_errors=True)  # of a run that was killed before its first checkpoint
    elif noted.exists() and read_json(noted) != described:
        earlier = read_json(noted)
        changed = [part for part in described if earlier.get(part) != described[part]]
        raise EmgscribeError(
            f"holds a run with other settings ({', '.join(changed)})",
            where=str(folder),
            mend="choose another folder with --runs, or delete this one",
        )
    write_json(noted, described)


def _run(training: "_Training", folder: Path, precision: str, console: Console) -> None:
    """Let Lightning run the epochs that are left."""
    for chatty in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # Lightning's own use of a part of torch that torch calls deprecated; nothing that a user could mend.
    warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")
    trainer = lightning.Trainer(
        max_epochs=training.config.epochs,
        accelerator="gpu" if torch.cuda.is_available() else "cpu",
        devices=1,
        precision="bf16-mixed" if precision == "bf16" else "32-true",
        gradient_clip_val=training.config.clip_norm or None,
        check_val_every_n_epoch=min(training.config.validate_every, training.config.epochs),
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[_Progress(console), _Checkpoints(folder)],
        default_root_dir=folder,
    )
    last = folder / "last.ckpt"
    interrupt = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(training, ckpt_path=last if last.exists() else None, weights_only=False)
    except SystemExit:
        # Lightning turns Ctrl-C into sys.exit(1) and leaves the signal ignored; callers are owed the interrupt.
        signal.signal(signal.SIGINT, interrupt)
        raise KeyboardInterrupt from None


def resolve_precision(precision: str, device: torch.device) -> str:
    """ "fp32" or "bf16" for a setting that may be "auto": bf16 only where matrix products gain from it.

    That is a GPU with bf16, or a CPU with AMX tiles. AVX-512-BF16 alone does not gain: its dot product does twice the
    work of an fp32 FMA at half the rate (measured: LOG.md, 2026-11-22).
    """
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    return "bf16" if amx() else "fp32"


def cut(sessions: list[StoredSession], windows: WindowConfig, model: Model, device: torch.device) -> Windows:
    """The windows of `sessions` with at least the context that the model needs, gathered on `device`."""
    left, right = model.context
    return Windows(
        Store(sessions, device), windows.length, windows.stride, max(windows.left, left), max(windows.right, right)
    )


class _Batches:
    """What Lightning iterates each epoch: the batches of the windows at the places that `places` then gives."""

    def __init__(self, windows: Windows, batch_size: int, places: Callable[[], Places]) -> None:
        self.windows, self.batch_size, self.places = windows, batch_size, places

    def __iter__(self) -> Iterator[Batch]:
        return self.windows.batches(self.places(), self.batch_size)


class _Training(lightning.LightningModule):
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
        if batch_idx % _LOOK_EVERY == 0:
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


class _Checkpoints(Callback):
    """After each epoch: the best model if it is one, the curves, and last the checkpoint that a resumed run reads.

    A kill between them is harmless: the epoch is run again, the same, and writes the same.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        assert isinstance(pl_module, _Training)
        cer = pl_module.close_epoch().get("val_cer", float("inf"))
        # Until there is a validation CER, the latest model stands in for the best.
        if cer < pl_module.best_cer or math.isinf(pl_module.best_cer):
            pl_module.best_cer = cer
            save_model(pl_module.model, self.folder / "best")
        with replacing(self.folder / "curves.csv") as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["epoch", "step", "lr", "train_loss", "val_loss", "val_cer"])
            writer.writeheader()
            writer.writerows(pl_module.curves)
        with replacing(self.folder / "last.ckpt") as temporary:
            trainer.save_checkpoint(temporary)


class _Progress(Callback):
    """One bar for the whole run: steps done, loss, the latest validation CER and the time left."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self.bar = Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=console)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        assert isinstance(pl_module, _Training)
        self.bar.start()
        self.task = self.bar.add_task("training", total=pl_module.total_steps, completed=pl_module.global_step)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, _Training)
        self.bar.update(self.task, completed=pl_module.global_step)
        if batch_idx % _LOOK_EVERY == 0:
            cer = next((f"{e['val_cer']:.1f} %" for e in reversed(pl_module.curves) if "val_cer" in e), "-")
            text = f"epoch {trainer.current_epoch + 1}  loss {pl_module.seen_loss:.3f}  val CER {cer}"
            self.bar.update(self.task, description=text)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.bar.stop()

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        self.bar.stop()
