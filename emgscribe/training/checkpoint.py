"""Inspect a checkpoint before a run is resumed from it: a damaged or foreign one is refused with the reason."""

import math
import warnings
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch

from emgscribe.config import leaves
from emgscribe.errors import EmgscribeError, needing
from emgscribe.models.model import Model
from emgscribe.training.callbacks import Averaging, Record, last_checkpoint
from emgscribe.training.config import Recipe
from emgscribe.training.modules import optimizer_and_schedule

with needing("train"):
    import lightning


def recorded(path: Path, model: Model, recipe: Recipe) -> dict[str, Any]:
    """The state of `Record` in a checkpoint. One that no run can be resumed from raises `EmgscribeError`."""
    try:
        with ZipFile(path) as parts:
            changed = parts.testzip()  # PyTorch does not look at the checksums
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch's about damaged bytes
            kept = torch.load(path, map_location="cpu", weights_only=True)
        fault = f"the bytes of {changed} have changed" if changed else _fault(kept, model, recipe)
    except Exception as error:  # damaged bytes may raise anything
        fault = getattr(error, "strerror", None) or "it is cut off, or holds something other than a run"
    if fault:
        raise damaged(path, fault)
    return dict(kept["callbacks"]["Record"])


def damaged(path: Path, fault: str) -> EmgscribeError:
    """The error for a checkpoint that no run can be resumed from."""
    hint = "delete it to train from the start, or put a copy of it back"
    return EmgscribeError(f"is damaged ({fault})", where=str(path), hint=hint)


def _fault(kept: dict[str, Any], model: Model, recipe: Recipe) -> str:
    """What is wrong with a checkpoint, in words."""
    written = kept["pytorch-lightning_version"]
    if written.split(".")[:2] != lightning.__version__.split(".")[:2]:
        return f"Lightning {written} wrote it, but this is Lightning {lightning.__version__}"
    record, states = kept["callbacks"]["Record"], kept["optimizer_states"][0]["state"]
    curves = record["curves"]
    steps = {kept["global_step"], int(curves[-1]["step"]), kept["lr_schedulers"][0]["last_epoch"]}
    epochs = {kept["epoch"] + 1, kept["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]}
    if len(steps) != 1 or epochs != {len(curves)} or [line["epoch"] for line in curves] != list(range(len(curves))):
        return "its parts are of different epochs"
    if any(state["step"] > kept["global_step"] for state in states.values()):
        return "its parts are of different steps"
    if len(curves) > recipe.train.epochs:
        return f"it is of epoch {len(curves)}, but the run has {recipe.train.epochs}"
    if not all(math.isfinite(value) for value in (record["seconds"], *(x for line in curves for x in line.values()))):
        return "its curves are not finite"
    optimizer, schedule = optimizer_and_schedule(model, recipe.train, 1)
    parts = (kept["optimizer_states"][0]["param_groups"], kept["lr_schedulers"])
    fresh = (optimizer.state_dict()["param_groups"], [schedule.state_dict()])
    counts = (count for _, count in leaves(kept["loops"]))
    texts = (*record["commits"], *(name for line in curves for name in line))
    paths = (value for state in kept["callbacks"].values() for name, value in state.items() if name.endswith("path"))
    sound = all(type(count) in (int, bool) for count in counts) and all(isinstance(path, str) for path in paths)
    callbacks = {Record.__qualname__, Averaging.__qualname__, last_checkpoint(Path()).state_key}
    sound = sound and kept["callbacks"].keys() <= callbacks  # Lightning warns of others
    if not _alike(parts, fresh) or not sound:
        return "it holds something other than a run"
    if not all(isinstance(text, str) and text.isprintable() for text in texts):
        return "its texts are not printable"
    shapes = {f"model.{name}": value.shape for name, value in model.state_dict().items()}
    weights = [kept[name] for name in ("state_dict", "current_model_state")[: 1 + bool(recipe.train.ema)]]
    # A weight that no step has used, or that is frozen, has no moments.
    sizes = {place: value.shape for place, value in enumerate(model.parameters())}
    moments = [(place, state[name]) for place, state in states.items() for name in ("exp_avg", "exp_avg_sq")]
    fits = all(value.shape == sizes.get(place) for place, value in moments)
    if not fits or any({name: value.shape for name, value in part.items()} != shapes for part in weights):
        return "its weights are of another network"
    tensors = [*(value for _, value in moments), *(value for part in weights for value in part.values())]
    return "" if all(bool(value.isfinite().all()) for value in tensors) else "its weights are not finite"


def _alike(found: Any, expected: Any) -> bool:
    """Whether two states have the same names, lengths and types."""
    if type(found) is not type(expected):
        return False
    if isinstance(found, dict):
        return found.keys() == expected.keys() and all(_alike(value, expected[name]) for name, value in found.items())
    if isinstance(found, list | tuple):
        return len(found) == len(expected) and all(map(_alike, found, expected))
    return True
