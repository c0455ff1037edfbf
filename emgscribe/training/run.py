"""A run, from a recipe and sessions to a trained model, in a folder that it can be resumed from.

The folder holds `best/` (the model of the lowest validation CER), `last.ckpt` (Lightning's checkpoint), `curves.csv`
(one line per epoch) and `settings.json` (so that no other experiment continues the run). A run that was interrupted and
resumed ends with the same weights as one that was not: bit for bit on a CPU, and on a GPU up to the order of additions.
"""

import json
import shutil
import signal
import subprocess
import time
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

import lightning
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, RichProgressBar
from rich.console import Console
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from emgscribe.config import leaves, to_json
from emgscribe.data.session import Session
from emgscribe.data.windows import Batch
from emgscribe.decoding.greedy import GreedyDecoder, decode_batch
from emgscribe.errors import EmgscribeError
from emgscribe.files import alone, read_json, write_json
from emgscribe.models.model import Model, best_device, load_model, stored_hash
from emgscribe.training.callbacks import BEST, LAST, Averaging, Record, WholeFile, hush
from emgscribe.training.config import Recipe
from emgscribe.training.modules import LOOK_EVERY, SessionsDataModule, TrainingModule, training_loss


@dataclass(frozen=True, repr=False)
class Trained:
    """What a finished run leaves: the best model (by validation CER) and a line of curves for each epoch.

    `commits` are those of the code that trained, in order: more than one if a run was resumed with newer code.
    """

    model: Model
    curves: list[dict[str, float]]
    seconds: float
    device: str
    precision: str
    commits: list[str]
    folder: Path

    def __repr__(self) -> str:
        cers = [line["val_cer"] for line in self.curves if "val_cer" in line]
        best = f", best val CER {min(cers):.1f} %" if cers else ""
        return f"<Trained {self.folder}: {len(self.curves)} epochs{best}, {self.seconds:.0f} s>"


def train(
    recipe: Recipe, train: list[Session], val: list[Session],
    *, out: Path | str, start: Path | str | None = None, console: Console | None = None,
) -> Trained:  # fmt: skip
    """Train until the last epoch in the folder `out`, from where an earlier run there stopped.

    `start` is the folder of a model to fine-tune. Raises `EmgscribeError` when another process trains in `out`, when it
    holds another experiment or a damaged checkpoint, when the loss is no longer finite and when the disk is full.
    Ctrl-C and SIGTERM raise `KeyboardInterrupt`. The last checkpoint is always kept.
    """
    out, start, device, devices = Path(out), Path(start) if start else None, best_device(), recipe.train.devices
    if device.type == "cuda" and torch.cuda.device_count() < devices:
        what = f"train.devices is {devices}, but there are {torch.cuda.device_count()} GPUs"
        raise EmgscribeError(what, hint="lower --train.devices")
    precision = resolve_precision(recipe.train.precision, device)
    described = to_json(recipe) | {
        "device": device.type,
        "precision": precision,
        "train_sessions": [session.content for session in train],
        "val_sessions": [session.content for session in val],
        "start": stored_hash(start) if start else None,
    }
    with alone(out, "is training or tuning a model here"):
        _claim(out, described)
        torch.manual_seed(recipe.train.seed)
        model = _untrained(recipe, start)
        model.ancestry = model.ancestry.after(train, val)
        if (out / LAST).exists():
            _kept(out / LAST, model, recipe)  # a damaged one is reported before anything begins
        data = SessionsDataModule(train, val, recipe.windows, recipe.train, context=model.context)
        _run(TrainingModule(model, recipe.train, recipe.augment), data, out, precision, console or Console())
        kept = _kept(out / LAST, model, recipe)
    name = f"{devices} x " * (devices > 1) + (torch.cuda.get_device_name() if device.type == "cuda" else device.type)
    return Trained(load_model(out / BEST, device), device=name, precision=precision, folder=out, **kept)


def _untrained(recipe: Recipe, start: Path | None = None) -> Model:
    """The network with random weights, or with those of the model in the folder `start`."""
    model = load_model(start).train() if start else Model(recipe.model)
    if model.config != recipe.model:
        hint = "start from a model of the same kind"
        raise EmgscribeError("is another network than the one to be trained", where=str(start), hint=hint)
    if recipe.train.blank_prior and not start:
        model.expect_blank(recipe.train.blank_prior)
    return model


def _claim(folder: Path, described: dict[str, Any]) -> None:
    """Refuse a folder whose earlier run had other settings or other data; note ours in a new one."""
    noted = folder / "settings.json"
    for unfinished in folder.glob(".*.*"):  # what a killed run was writing
        shutil.rmtree(unfinished, ignore_errors=True)
    if not (folder / LAST).exists():
        shutil.rmtree(folder / BEST, ignore_errors=True)  # of a run that was killed before its first checkpoint
        write_json(noted, described)
    there, here = ({name: json.dumps(value) for name, value in leaves(part)} for part in (read_json(noted), described))
    if names := [name for name in there | here if there.get(name) != here.get(name)]:
        values = [f"{name} is {there.get(name, '-'):.40} there, {here.get(name, '-'):.40} here" for name in names[:3]]
        more = f"; and {len(names) - 3} more" * (len(names) > 3)
        what = f"holds a run with other settings: {'; '.join(values)}{more}"
        hint = "choose another folder with --runs or another name with --name, or delete this one"
        raise EmgscribeError(what, where=str(folder), hint=hint)


def _kept(path: Path, model: Model, recipe: Recipe) -> dict[str, Any]:
    """The state of `Record` in a checkpoint. One that no run can be resumed from is an `EmgscribeError`."""
    try:
        kept = torch.load(path, map_location="cpu", weights_only=True)
        fault = _fault(kept, model, recipe)
    except OSError as error:
        fault = str(error.strerror)
    except Exception:  # damaged bytes raise anything
        fault = "it is cut off, or holds something else than a run"
    if fault:
        hint = "delete it to train from the start, or put a copy of it back"
        raise EmgscribeError(f"is damaged ({fault})", where=str(path), hint=hint)
    state: dict[str, Any] = kept["callbacks"]["Record"]
    return state


def _fault(kept: dict[str, Any], model: Model, recipe: Recipe) -> str:
    """What is wrong with a checkpoint, in words."""
    written = kept["pytorch-lightning_version"]
    if written.split(".")[:2] != lightning.__version__.split(".")[:2]:
        return f"Lightning {written} wrote it, and this is Lightning {lightning.__version__}"
    curves = kept["callbacks"]["Record"]["curves"]
    steps = {kept["global_step"], int(curves[-1]["step"]), kept["lr_schedulers"][0]["last_epoch"]}
    epochs = {kept["epoch"] + 1, kept["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]}
    if len(steps) != 1 or epochs != {len(curves)}:
        return "its parts are of different epochs"
    shapes = {f"model.{name}": value.shape for name, value in model.state_dict().items()}
    weights = [kept[name] for name in ("state_dict", "current_model_state")[: 1 + bool(recipe.train.ema)]]
    moments = [state["exp_avg"] for _, state in sorted(kept["optimizer_states"][0]["state"].items())]
    fits = [value.shape for value in moments] == [value.shape for value in model.parameters()]
    if not fits or any({name: value.shape for name, value in part.items()} != shapes for part in weights):
        return "its weights are of another network"
    tensors = [*moments, *(value for part in weights for value in part.values())]
    return "" if all(bool(value.isfinite().all()) for value in tensors) else "its weights are not finite"


def _run(module: TrainingModule, data: SessionsDataModule, folder: Path, precision: str, console: Console) -> None:
    """Let Lightning run the epochs that are left. Errors and interrupts come as they would without it."""
    config, device, last, interrupt = module.config, best_device().type, folder / LAST, signal.getsignal(signal.SIGINT)
    checkpoint = ModelCheckpoint(folder, last.stem, save_on_train_epoch_end=True, enable_version_counter=False)
    callbacks: list[Callback] = [Record(folder, console, current_commit()), checkpoint]  # Record before Averaging
    callbacks += [Averaging(config.ema)] if config.ema else []
    bar = console.is_terminal and not console.quiet
    callbacks += [RichProgressBar(LOOK_EVERY, console_kwargs={"stderr": console.stderr})] if bar else []
    with warnings.catch_warnings():
        hush()
        trainer = lightning.Trainer(
            accelerator=device,
            devices=config.devices,
            strategy="auto" if config.devices == 1 else "ddp_spawn",
            sync_batchnorm=config.devices > 1 and device == "cuda",  # PyTorch has none for a CPU
            precision="bf16-mixed" if precision == "bf16" else "32-true",
            plugins=[WholeFile(), LightningEnvironment()],  # a Slurm job is one process to Lightning
            max_epochs=config.epochs,
            gradient_clip_val=config.clip_norm or None,
            check_val_every_n_epoch=min(config.validate_every, config.epochs),
            num_sanity_val_steps=0,
            logger=False,
            enable_model_summary=False,
            enable_progress_bar=bar,
            callbacks=callbacks,
        )
        try:
            trainer.fit(module, data, ckpt_path=last if last.exists() else None, weights_only=True)
        except SystemExit:  # Lightning makes it of Ctrl-C, after which it ignores SIGINT, and of SIGTERM, after a batch
            signal.signal(signal.SIGINT, interrupt)
            raise KeyboardInterrupt from None
        except ProcessRaisedException as error:  # it has the process's traceback as text, the message at its end
            _, ours, message = str(error).rpartition(f"{EmgscribeError.__module__}.{EmgscribeError.__name__}: ")
            if not ours:
                raise
            what, _, hint = message.strip().partition("\n  hint: ")
            raise EmgscribeError(what, hint=hint) from None
        except ProcessExitedException as error:
            hint = "give the same command again: it goes on from the last whole epoch"
            raise EmgscribeError(f"a process of this run has died ({error})", hint=hint) from error
        finally:
            if trainer.strategy.launcher is not None:
                trainer.strategy.launcher.kill(signal.SIGKILL)  # a process may wait forever for one that has died


def estimate_seconds(recipe: Recipe, *, train_sessions: list[Session], val_sessions: list[Session]) -> float:
    """Estimate the seconds of training on one device of this machine, from a few steps. Nothing is kept."""
    device, config = best_device(), recipe.train
    model, bf16 = _untrained(recipe).to(device), resolve_precision(config.precision, device) == "bf16"
    data = SessionsDataModule(train_sessions, val_sessions, recipe.windows, config, context=model.context)
    data.setup()
    place: dict[str, Any] = {"step": 0, "total": data.total_steps, "generator": torch.Generator()}
    val, validations = data.val_dataloader(), config.epochs // min(config.validate_every, config.epochs)

    def seconds(work: Callable[[Batch], object], batches: Iterable[Batch]) -> float:
        times = []
        for batch in islice(batches, 4):
            began = time.monotonic()
            work(batch.to(device))
            if device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.monotonic() - began)
        return fmean(times[1:] or times)  # the first one also warms up

    def step(batch: Batch) -> None:
        training_loss(model, batch, recipe.augment, config, **place)["total"].backward()  # type: ignore[no-untyped-call]

    def validate(batch: Batch) -> None:
        with torch.no_grad():
            decode_batch(GreedyDecoder(), *model(batch))

    with torch.autocast(device.type, torch.bfloat16, bf16):
        total = data.total_steps * seconds(step, data.train_dataloader())
        return total + validations * len(val) * seconds(validate, val)


def resolve_precision(precision: str, device: torch.device) -> str:
    """The precision that "auto" stands for: "bf16" on a GPU that has it and on a CPU with AMX tiles, else "fp32".

    AVX-512-BF16 alone does not gain: its dot product does twice the work of an fp32 FMA at half the rate.
    """
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    return "bf16" if device.type == "cpu" and amx() else "fp32"


def current_commit() -> str:
    """The commit of the checkout that the package runs from, "-dirty" where it was changed; "unknown" outside one."""
    # Its own: an installed package may lie inside somebody else's repository.
    command = ["git", "--git-dir=.git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    root = Path(__file__).parents[2]
    with suppress(OSError):  # no git
        return subprocess.run(command, cwd=root, capture_output=True, text=True).stdout.strip() or "unknown"
    return "unknown"
