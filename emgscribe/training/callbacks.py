"""What happens beside the steps: writing checkpoints, and showing how far training is."""

import csv
import math
import time
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from rich import progress
from rich.console import Console

from emgscribe.files import replacing
from emgscribe.models.model import save_model
from emgscribe.training.loop import LOOK_EVERY, Training


class Checkpoints(Callback):
    """After each epoch: the best model if it is one, the curves, and last the checkpoint that a resumed run reads.

    A kill between them is harmless: the epoch is run again, the same, and writes the same.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        assert isinstance(pl_module, Training)
        cer = pl_module.close_epoch().get("val_cer", float("inf"))
        if not trainer.is_global_zero:
            trainer.save_checkpoint(self.folder / "last.ckpt")  # writes nothing: the first process does, and all wait
            return
        # Until there is a validation CER, the latest model stands in for the best.
        if cer < pl_module.best_cer or math.isinf(pl_module.best_cer):
            pl_module.best_cer = cer
            save_model(pl_module.judged, self.folder / "best")
        with replacing(self.folder / "curves.csv") as temporary, temporary.open("w", newline="") as file:
            columns = "epoch", "step", "lr", "train_loss", "val_loss", "val_cer"
            found = (name for entry in pl_module.curves for name in entry)
            writer = csv.DictWriter(file, list(dict.fromkeys([*columns, *found])))
            writer.writeheader()
            writer.writerows(pl_module.curves)
        with replacing(self.folder / "last.ckpt") as temporary:
            trainer.save_checkpoint(temporary)


class Progress(Callback):
    """One bar for the whole run: steps done, loss, the latest validation CER and the time left."""

    def __init__(self, console: Console) -> None:
        steps = progress.TextColumn("{task.description}"), progress.BarColumn(), progress.MofNCompleteColumn()
        times = progress.TimeElapsedColumn(), progress.TextColumn("left"), progress.TimeRemainingColumn()
        self.bar = progress.Progress(*steps, *times, console=console)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        assert isinstance(pl_module, Training)
        self.bar.start()
        self.task = self.bar.add_task("training", total=pl_module.total_steps, completed=pl_module.global_step)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, Training)
        self.bar.update(self.task, completed=pl_module.global_step)
        if batch_idx % LOOK_EVERY == 0:
            cer = next((f"{e['val_cer']:.1f} %" for e in reversed(pl_module.curves) if "val_cer" in e), "-")
            text = f"epoch {trainer.current_epoch + 1}  loss {pl_module.seen_loss:.3f}  val CER {cer}"
            self.bar.update(self.task, description=text)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.bar.stop()

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        self.bar.stop()


class Clock(Callback):
    """Seconds of each batch that trains or validates; the first of a kind, which also warms up, is left out."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {"train": [], "val": []}

    def mean(self, kind: str) -> float:
        """Mean seconds of a batch, of the first where there is no other; 0 where there is none."""
        seconds = self.seconds[kind]
        return sum(seconds[1:] or seconds) / max(1, len(seconds[1:] or seconds))

    def on_train_batch_start(self, *_: Any) -> None:
        self._began = time.monotonic()

    def on_validation_batch_start(self, *_: Any) -> None:
        self._began = time.monotonic()

    def _end(self, kind: str) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds[kind].append(time.monotonic() - self._began)

    def on_train_batch_end(self, *_: Any) -> None:
        self._end("train")

    def on_validation_batch_end(self, *_: Any) -> None:
        self._end("val")
