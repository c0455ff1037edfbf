"""What a run adds to Lightning: the best model as a folder, resumed curves, an EMA that never makes a GPU wait."""

import csv
import logging
import math
import signal
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, WeightAveraging
from lightning.pytorch.plugins.io import TorchCheckpointIO
from rich.console import Console

from emgscribe.files import replacing
from emgscribe.models.model import save_model

BEST, LAST = "best", "last.ckpt"
_COLUMNS = ("epoch", "step", "lr", "train_loss", "val_loss", "val_cer")


def hush() -> None:
    """Silence what Lightning says about itself, which no user can act on."""
    for chatty in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    for start in (".*treespec, LeafSpec", "Checkpoint directory .* exists and is not empty", "The dirpath has changed"):
        warnings.filterwarnings("ignore", message=start)


class WholeFile(TorchCheckpointIO):
    """Writes a checkpoint so that its name never holds an incomplete file, which Lightning's own may leave."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        with replacing(Path(path)) as temporary:
            torch.save(checkpoint, temporary)


class Averaging(WeightAveraging):
    """Lightning's average of the weights and of batch statistics, as an EMA whose decay warms up.

    After n steps the decay is n / (9 + n), at most `decay`: a constant one would let the random initial weights count
    for thousands of steps, and into the first validations. PyTorch's own update makes a GPU wait.
    """

    def __init__(self, decay: float) -> None:
        super().__init__()
        self.decay = decay

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        assert self._average_model is not None
        averages, now = self._average_model.module.state_dict(), pl_module.state_dict()
        moving = [name for name, value in now.items() if value.is_floating_point()]
        decay = min(self.decay, trainer.global_step / (9 + trainer.global_step))
        torch._foreach_lerp_([averages[name] for name in moving], [now[name] for name in moving], 1 - decay)
        for name in now.keys() - set(moving):  # counts of batches
            averages[name].copy_(now[name])


class Record(Callback):
    """Keeps the best model as a folder, and one line per epoch in `curves.csv`, the log and the checkpoint.

    Lightning's CSVLogger begins a new file when a run is resumed, its progress bars leave nothing in a log, and its
    ModelCheckpoint knows the best score by absolute paths, which a run that is moved loses.
    """

    def __init__(self, folder: Path, console: Console, commit: str) -> None:
        self.folder, self.console, self.quiet, self.began = folder, console, console.quiet, time.monotonic()
        self.state: dict[str, Any] = {"curves": [], "seconds": 0.0, "commits": [commit]}

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"console": None}  # which no other process can be sent

    def state_dict(self) -> dict[str, Any]:
        return self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        commits = dict.fromkeys([*state_dict["commits"], *self.state["commits"]])
        self.state = state_dict | {"commits": list(commits)}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        hush()
        if trainer.world_size > 1:  # Lightning's handler waits for the other processes, which may have gone
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        # The weights are still the average here, if there is one.
        earlier = [line["val_cer"] for line in self.state["curves"] if "val_cer" in line]
        better = not pl_module.ratios["val_cer"].compute() >= min(earlier, default=math.inf)  # NaN, without keys, is
        if better and trainer.is_global_zero:
            save_model(pl_module.model, self.folder / BEST)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        curves, epochs, every = self.state["curves"], trainer.max_epochs or 0, trainer.check_val_every_n_epoch or 1
        self.state["seconds"] -= self.began - (now := time.monotonic())
        self.began = now
        entry = {"epoch": float(trainer.current_epoch), "step": float(trainer.global_step)}
        entry["lr"] = float(trainer.optimizers[0].param_groups[0]["lr"])
        # Lightning's metrics of an epoch that is not validated are those of the last validation.
        stages = ("train_", "val_") if (trainer.current_epoch + 1) % every == 0 else ("train_",)
        logged = {
            name: float(value) for name, value in sorted(trainer.callback_metrics.items()) if name.startswith(stages)
        }
        curves.append(entry | {name: value for name, value in logged.items() if value == value})  # NaN: over nothing
        if not trainer.is_global_zero:
            return
        with replacing(self.folder / "curves.csv") as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, dict.fromkeys([*_COLUMNS, *(name for line in curves for name in line)]))
            writer.writeheader()
            writer.writerows(curves)
        cer = f"  val CER {curves[-1]['val_cer']:.1f} %" if "val_cer" in curves[-1] else ""
        left = self.state["seconds"] / len(curves) * (epochs - len(curves))
        line = f"epoch {len(curves)}/{epochs}  loss {curves[-1]['train_loss']:.3f}{cer}"
        line += f"  {time.strftime('%H:%M:%S', time.gmtime(left))} left"
        (self.console or Console(quiet=self.quiet)).print(line, highlight=False)
