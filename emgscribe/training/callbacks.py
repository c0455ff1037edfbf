"""What Lightning calls while it trains: the best model, the last checkpoint, the curves, averaged weights."""

import csv
import logging
import math
import time
import warnings
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from emgscribe.errors import needing
from emgscribe.files import replacing
from emgscribe.models.model import save_model

with needing("train"):
    import lightning
    from lightning.pytorch.callbacks import Callback, ModelCheckpoint, WeightAveraging
    from lightning.pytorch.plugins.io import TorchCheckpointIO

BEST, LAST = "best", "last.ckpt"
_COLUMNS = ("epoch", "step", "lr", "train_loss", "val_loss", "val_cer")


def silence_lightning() -> None:
    """Silence what Lightning says about itself, which no user can act on."""
    for chatty in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    for start in (
        ".*treespec, LeafSpec",
        "Checkpoint directory .* exists and is not empty",
        "The dirpath has changed",
        "The `srun` command is available",  # on any machine of a Slurm cluster
    ):
        warnings.filterwarnings("ignore", message=start)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint so that its name never holds an incomplete file, which Lightning's own may leave."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        torch.save(checkpoint, whole := BytesIO())  # given a path, torch.save would not report a full disk
        with replacing(Path(path)) as temporary:
            temporary.write_bytes(whole.getbuffer())


def last_checkpoint(folder: Path) -> ModelCheckpoint:
    """Keeps `last.ckpt` in a run's folder."""
    return ModelCheckpoint(folder, Path(LAST).stem, save_on_train_epoch_end=True, enable_version_counter=False)


class Averaging(WeightAveraging):
    """Lightning's average of the weights, as an EMA: after n steps its decay is n / (9 + n), but at most `decay`.

    A constant decay would count the random initial weights for thousands of steps. PyTorch's update syncs the GPU.
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

    In a resumed run Lightning's CSVLogger begins a new file; in a moved one its ModelCheckpoint forgets the best score.
    """

    def __init__(self, folder: Path, console: Console, commit: str) -> None:
        self.folder, self.console, self.quiet, self.began = folder, console, console.quiet, time.monotonic()
        self.state: dict[str, Any] = {"curves": [], "seconds": 0.0, "commits": [commit]}
        self.restored = False

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"console": None}  # which cannot be sent to another process

    def state_dict(self) -> dict[str, Any]:
        return self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        commits = dict.fromkeys([*state_dict["commits"], *self.state["commits"]])
        self.state = state_dict | {"commits": list(commits)}

    def setup(self, trainer: lightning.Trainer, pl_module: Any, stage: str) -> None:
        silence_lightning()

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self.restored = True  # what fails from now on is not the checkpoint's fault

    def on_validation_epoch_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        # The weights are the average here, if there is one: `Averaging` comes later, and swaps it back.
        earlier = [line["val_cer"] for line in self.state["curves"] if "val_cer" in line]
        better = pl_module.ratios["val_cer"].compute() < min(earlier, default=math.inf)
        if better and trainer.is_global_zero:
            save_model(pl_module.model, self.folder / BEST)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        curves, epochs, every = self.state["curves"], trainer.max_epochs or 0, trainer.check_val_every_n_epoch or 1
        self.state["seconds"] -= self.began - (now := time.monotonic())
        self.began = now
        entry = {"epoch": float(trainer.current_epoch), "step": float(trainer.global_step)}
        entry["lr"] = float(trainer.optimizers[0].param_groups[0]["lr"])
        # Lightning's metrics of an epoch that is not validated are those of the last validation.
        stages = ("train_", "val_") if (trainer.current_epoch + 1) % every == 0 else ("train_",)
        metrics = sorted(trainer.callback_metrics.items())
        curves.append(entry | {name: float(x) for name, x in metrics if name.startswith(stages)})
        if not trainer.is_global_zero:
            return
        with replacing(self.folder / "curves.csv") as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, dict.fromkeys([*_COLUMNS, *(name for line in curves for name in line)]))
            writer.writeheader()
            writer.writerows(curves)
        cer = f"  val CER {curves[-1]['val_cer']:.1f} %" if "val_cer" in curves[-1] else ""
        left = timedelta(seconds=round(self.state["seconds"] / len(curves) * (epochs - len(curves))))
        line = f"epoch {len(curves)}/{epochs}  loss {curves[-1]['train_loss']:.3f}{cer}  {left} left"
        (self.console or Console(quiet=self.quiet)).print(line, highlight=False)
