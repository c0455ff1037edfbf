"""What a run adds to Lightning: the best model as a folder, resumed curves, an EMA that never makes a GPU wait."""

import copy
import csv
import logging
import signal
import time
import warnings
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, WeightAveraging
from lightning.pytorch.plugins.io import TorchCheckpointIO
from rich.console import Console

from emgscribe.files import replacing
from emgscribe.models.model import Model, save_model
from emgscribe.training.losses import averaging_decay

BEST, LAST = "best", "last.ckpt"
_COLUMNS = ("epoch", "step", "lr", "train_loss", "val_loss", "val_cer")
_NOISE = (".*treespec, LeafSpec", "Checkpoint directory .* exists and is not empty", "The dirpath has changed from")


def hush() -> None:
    """Silence what Lightning says about itself, which no user can act on."""
    for chatty in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    for message in _NOISE:
        warnings.filterwarnings("ignore", message=message)


class FolderIO(TorchCheckpointIO):
    """Writes the best checkpoint as a model folder, and any other so that its name never holds an incomplete file.

    Lightning's own writer moves a file from another disk into place, and may leave it incomplete.
    """

    def __init__(self, model: Model) -> None:
        self.model = model

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        if Path(path).name != BEST:
            with replacing(Path(path)) as temporary:
                torch.save(checkpoint, temporary)
            return
        model = copy.deepcopy(self.model)  # a new `Model` would draw random numbers, and change the run
        weights = checkpoint["state_dict"].items()  # where Lightning has put the average, if there is one
        model.load_state_dict({name.removeprefix("model."): value for name, value in weights})
        save_model(model, path)


class BestModel(ModelCheckpoint):
    """Lightning's, but the best score survives a move of the run's folder: Lightning's state holds absolute paths."""

    FILE_EXTENSION = ""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        path = f"{self.dirpath}/{self.filename}"
        here = {"dirpath": self.dirpath, "best_model_path": path, "kth_best_model_path": path}
        super().load_state_dict(state_dict | here | {"best_k_models": {path: state_dict["kth_value"]}})


class Averaging(WeightAveraging):
    """Lightning's average of the weights and of batch statistics, as an EMA whose decay warms up.

    Only the update is ours: PyTorch's `AveragedModel` counts in a tensor and reads it at each step, which makes a GPU
    wait, and has no decay that warms up.
    """

    def __init__(self, decay: float) -> None:
        super().__init__()
        self.decay = decay

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        assert self._average_model is not None
        averages, now = self._average_model.module.state_dict(), pl_module.state_dict()
        moving = [name for name, value in now.items() if value.is_floating_point()]
        share = 1 - averaging_decay(self.decay, trainer.global_step - 1)
        torch._foreach_lerp_([averages[name] for name in moving], [now[name] for name in moving], share)
        for name in now.keys() - set(moving):  # counts of batches
            averages[name].copy_(now[name])


class Curves(Callback):
    """One line per epoch in `curves.csv`, the log and the checkpoint, and what else a run must remember.

    Lightning's CSVLogger begins a new file when a run is resumed, and its progress bars leave nothing in a log.
    """

    def __init__(self, folder: Path, console: Console, commit: str) -> None:
        self.folder, self.console, self.quiet = folder, console, console.quiet
        self.validated: dict[str, float] = {}
        self.state: dict[str, Any] = {"curves": [], "seconds": 0.0, "commits": [commit]}

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"console": None}  # which no other process can be sent

    def state_dict(self) -> dict[str, Any]:
        return self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        commits = dict.fromkeys([*state_dict["commits"], *self.state["commits"]])
        self.state = state_dict | {"commits": list(commits)}

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        hush()
        if trainer.world_size > 1:  # Lightning's handler waits for the other processes, which may have gone
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.began, self.validated = time.monotonic(), {}

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.validated = _logged(trainer, "val_")

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.state["seconds"] += time.monotonic() - self.began
        entry = {"epoch": float(trainer.current_epoch), "step": float(trainer.global_step)}
        entry["lr"] = float(trainer.optimizers[0].param_groups[0]["lr"])
        curves = self.state["curves"]
        curves.append(entry | _logged(trainer, "train_") | self.validated)
        if not trainer.is_global_zero:
            return
        with replacing(self.folder / "curves.csv") as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, dict.fromkeys([*_COLUMNS, *(name for line in curves for name in line)]))
            writer.writeheader()
            writer.writerows(curves)
        done, epochs = len(curves), trainer.max_epochs or 0
        cer = f"  val CER {curves[-1]['val_cer']:.1f} %" if "val_cer" in curves[-1] else ""
        left = time.strftime("%H:%M:%S", time.gmtime(self.state["seconds"] / done * (epochs - done)))
        line = f"epoch {done}/{epochs}  loss {curves[-1]['train_loss']:.3f}{cer}  {left} left"
        (self.console or Console(quiet=self.quiet)).print(line, highlight=False)


def _logged(trainer: lightning.Trainer, stage: str) -> dict[str, float]:
    """What was logged under names that begin with `stage`; a rate over nothing is NaN, and left out."""
    found = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith(stage)}
    return {name: value for name, value in found.items() if value == value}
