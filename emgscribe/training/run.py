"""A run, from a recipe and sessions to a trained model, in a folder that it can be resumed from.

The folder holds `best/` (the model of the lowest validation CER), `last.ckpt` (Lightning's checkpoint), `curves.csv`
and `settings.json` (so that no other experiment continues the run). A run that was interrupted and resumed ends with
the weights of one that was not: bit for bit on a CPU, and on a GPU up to the order of additions.
"""

import copy
import signal
import subprocess
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from rich.console import Console
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from emgscribe.config import Settings, differences, from_json, to_json
from emgscribe.data.session import Session
from emgscribe.data.shape import Shape
from emgscribe.data.windows import Batch, shape_of
from emgscribe.decoding.decoder import decode_batch
from emgscribe.decoding.greedy import GreedyDecoder
from emgscribe.errors import EmgscribeError, needing
from emgscribe.files import exclusive, read_json, write_json
from emgscribe.machine import KILL, reusing_memory
from emgscribe.models.ensemble import ensemble
from emgscribe.models.model import Model, best_device, load_model, save_model, sketch, stored_hash
from emgscribe.training.callbacks import (
    BEST,
    LAST,
    AtomicCheckpointIO,
    Averaging,
    Record,
    last_checkpoint,
    silence_lightning,
)
from emgscribe.training.checkpoint import damaged, recorded
from emgscribe.training.config import Recipe
from emgscribe.training.modules import CHECK_EVERY, SessionsDataModule, TrainingModule, training_loss

with needing("train"):
    import lightning
    from lightning.fabric.plugins.environments.lightning import LightningEnvironment
    from lightning.pytorch.callbacks import Callback, RichProgressBar

WORKING = "is training or tuning a model here"


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
    *, out: Path | str, start: Path | str | None = None, teachers: Sequence[Path | str] = (),
    console: Console | None = None,
) -> Trained:  # fmt: skip
    """Train in the folder `out` until the last epoch, from where an earlier run there stopped.

    `start` is the folder of a model to fine-tune. With `teachers`, folders of models of the same frame rate, the model
    also learns the mean of their log-probabilities (`train.teacher_weight`). Raises `EmgscribeError` when another
    process trains in `out`, when it holds another experiment or a damaged checkpoint, when a start or a teacher does
    not fit, when the loss is no longer finite and when the disk is full. Ctrl-C and SIGTERM raise `KeyboardInterrupt`.
    The last checkpoint is always kept.
    """
    out, start, device, devices = Path(out), Path(start) if start else None, best_device(), recipe.train.devices
    if device.type == "cuda" and torch.cuda.device_count() < devices:
        raise EmgscribeError(f"train.devices is {devices}, this machine has fewer GPUs", hint="lower --train.devices")
    for part, sessions in (("training", train), ("validation", val)):
        if not any(len(session.labels) for session in sessions):
            hint = "emgscribe inspect says which keys a session has"
            raise EmgscribeError(f"no {part} session has a key with a label", hint=hint)
    precision = resolve_precision(recipe.train.precision, device)
    described = to_json(recipe) | {
        "device": device.type,
        "precision": precision,
        "train_sessions": [session.content for session in train],
        "val_sessions": [session.content for session in val],
        "start": stored_hash(start) if start else None,
        **({"teachers": [stored_hash(Path(folder)) for folder in teachers]} if teachers else {}),
    }
    shape = shape_of([*train, *val])
    asked, recipe = recipe, recipe.for_shape(shape)
    torch.manual_seed(recipe.train.seed)
    model, teacher = _untrained(recipe, shape, start), _averaged(map(load_model, teachers)) if teachers else None
    module = TrainingModule(model, recipe.train, recipe.augment, teacher)
    with exclusive(out, WORKING):
        _claim(out, described, asked)
        if (out / LAST).exists():  # a damaged one is reported before anything begins
            done = len(recorded(out / LAST, model, recipe)["curves"])
            if console and done < recipe.train.epochs:
                console.print(f"resuming after epoch {done} of {recipe.train.epochs}")
        data = SessionsDataModule(train, val, recipe.windows, recipe.train, context=module.context)
        _run(module, data, out, precision, console or Console())
        kept = recorded(out / LAST, model, recipe)
    name = f"{devices} x " * (devices > 1) + _name(device)
    return Trained(load_model(out / BEST, device), device=name, precision=precision, folder=out, **kept)


def average(models: Sequence[Path], out: Path) -> Trained:
    """The ensemble of the models in several folders, in the folder `out` of a run that has no epochs."""
    device = best_device()
    save_model(_averaged(map(load_model, models)), out / BEST)
    model = load_model(out / BEST, device)
    return Trained(model, [], seconds=0.0, device=_name(device), precision="fp32", commits=[], folder=out)


def _averaged(models: Iterable[Model]) -> Model:
    """The ensemble of several models, or the only one."""
    first, *others = models
    return ensemble([first, *others]) if others else first


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name() if device.type == "cuda" else device.type


def _untrained(recipe: Recipe, shape: Shape, start: Path | None = None) -> Model:
    """The network with random weights, or with those of the model in the folder `start`."""
    sketch(recipe.model, shape)
    model = load_model(start).train() if start else Model(recipe.model, shape)
    if model.config != recipe.model or model.shape != shape:
        hint = "start from a model of the same kind"
        raise EmgscribeError("is another network than the one to be trained", where=str(start), hint=hint)
    if recipe.train.blank_prior and not start:
        model.expect_blank(recipe.train.blank_prior)
    return model


def _claim(folder: Path, described: dict[str, Any], recipe: Recipe) -> None:
    """Refuse a folder whose earlier run had other settings or other data; note this run's in a new one."""
    noted = folder / "settings.json"
    if not (folder / LAST).exists() and not (folder / BEST).exists():
        write_json(noted, described)
    elif not noted.exists():
        hint = "choose another folder (out, or --runs) or another name (--name), or delete this one"
        raise EmgscribeError("holds a model without the settings of its run", where=str(folder), hint=hint)
    try:
        found = differences(*(_completed(settings, recipe) for settings in (read_json(noted), described)))
    except (AttributeError, TypeError, RecursionError) as error:
        hint = "delete this run's folder to train from the start, or put a copy of the file back"
        raise EmgscribeError("is damaged (it holds no settings)", where=str(noted), hint=hint) from error
    if found:
        hint = "choose another folder (out, or --runs) or another name (--name), or delete this one"
        raise EmgscribeError(f"holds a run with other settings: {found}", where=str(folder), hint=hint)


def _completed(settings: dict[str, Any], recipe: Recipe) -> dict[str, Any]:
    """What a run depends on, of settings as JSON, with the defaults of those that an earlier version did not have."""
    completed: dict[str, Any] = to_json(type(recipe)()) | settings
    completed.pop("data", None)  # its sessions are known by their content
    for name, part in vars(recipe).items():
        if isinstance(part, Settings) and name in completed:
            with suppress(EmgscribeError):  # where they cannot be read, they differ
                completed[name] = to_json(from_json(type(part), completed[name], where=""))
    return completed


def _run(module: TrainingModule, data: SessionsDataModule, folder: Path, precision: str, console: Console) -> None:
    """Let Lightning run the epochs that are left. Errors and interrupts come out as they would without it."""
    config, device, last = module.config, best_device().type, folder / LAST
    interrupt, terminate = map(signal.getsignal, (signal.SIGINT, signal.SIGTERM))
    record = Record(folder, console, current_commit())
    callbacks: list[Callback] = [record, last_checkpoint(folder)]
    callbacks += [Averaging(config.ema)] if config.ema else []
    bar = console.is_terminal and not console.quiet
    callbacks += [RichProgressBar(CHECK_EVERY, console_kwargs={"stderr": console.stderr})] if bar else []
    with warnings.catch_warnings():
        silence_lightning()
        trainer = lightning.Trainer(
            accelerator=device,
            devices=config.devices,
            strategy="auto" if config.devices == 1 else "ddp_spawn",
            sync_batchnorm=config.devices > 1 and device == "cuda",  # PyTorch has none for a CPU
            precision="bf16-mixed" if precision == "bf16" else "32-true",
            plugins=[AtomicCheckpointIO(), LightningEnvironment()],  # a Slurm job is one process to Lightning
            max_epochs=config.epochs,
            gradient_clip_val=config.clip_norm or None,
            check_val_every_n_epoch=min(config.validate_every, config.epochs),
            num_sanity_val_steps=0,
            logger=False,
            enable_model_summary=False,
            enable_progress_bar=bar,
            callbacks=callbacks,
        )
        if config.devices > 1 and terminate is signal.SIG_DFL:  # Lightning handles it only in the other processes
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            with reusing_memory():
                trainer.fit(module, data, ckpt_path=last if last.exists() else None, weights_only=True)
        except SystemExit:  # from Lightning: on Ctrl-C, after which it ignores SIGINT, and on SIGTERM, after a batch
            signal.signal(signal.SIGINT, interrupt)
            raise KeyboardInterrupt from None
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            if record.restored or not last.exists() or isinstance(error, EmgscribeError):
                raise
            raise damaged(last, "Lightning cannot resume from it") from error
        except ProcessRaisedException as error:  # it has the process's traceback as text, the message at its end
            _, ours, message = str(error).rpartition(f"{EmgscribeError.__module__}.{EmgscribeError.__name__}: ")
            if not ours:
                raise
            what, _, hint = message.strip().partition("\n  hint: ")
            raise EmgscribeError(what, hint=hint) from None
        except ProcessExitedException as error:
            hint = "give the same command again: it resumes after the last complete epoch"
            raise EmgscribeError(f"a process of this run has died ({error})", hint=hint) from error
        finally:
            if trainer.strategy.launcher is not None:
                trainer.strategy.launcher.kill(KILL)  # a process may wait forever for one that has died
                signal.signal(signal.SIGTERM, terminate)


def estimate_seconds(
    recipe: Recipe, train_sessions: list[Session], val_sessions: list[Session], *, teachers: int = 0
) -> float:
    """Estimate the seconds of training on one device of this machine, from a few steps. Nothing is kept.

    Teachers are taken to be networks of the same kind.
    """
    shape = shape_of([*train_sessions, *val_sessions])
    recipe = recipe.for_shape(shape)
    device, config, greedy, generator = best_device(), recipe.train, GreedyDecoder(), torch.Generator()
    if device.type == "cpu":  # small steps take as long in all; a full one of a large network would take a minute
        config = replace(config, batch_size=min(config.batch_size, 2))
    model, bf16 = _untrained(recipe, shape).to(device), resolve_precision(config.precision, device) == "bf16"
    teacher = _averaged([copy.deepcopy(model)] * teachers).eval() if teachers else None
    data = SessionsDataModule(train_sessions, val_sessions, recipe.windows, config, context=model.context)
    data.setup()
    steps, val = data.total_steps, data.val_dataloader()
    validated = config.epochs // min(config.validate_every, config.epochs) * len(val)

    def step(batch: Batch) -> None:
        place: dict[str, Any] = {"step": 0, "total": steps, "generator": generator, "teacher": teacher}
        losses = training_loss(model, batch, recipe.augment, config, **place)
        losses["total"].backward()  # type: ignore[no-untyped-call]  # PyTorch leaves it untyped

    def seconds(work: Callable[[Batch], object], batches: Iterable[Batch]) -> float:
        times = [time.monotonic()]
        for batch in islice(batches, 3):
            work(batch.to(device))
            if device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.monotonic())
        spans = [end - begin for begin, end in pairwise(times)]
        return fmean(spans[1:] or spans)  # the first one also warms up

    with torch.autocast(device.type, torch.bfloat16, bf16):
        training = steps * seconds(step, data.train_dataloader())
        with torch.no_grad():
            return training + validated * seconds(lambda batch: decode_batch(greedy, *model(batch)), val)


def resolve_precision(precision: str, device: torch.device) -> str:
    """The precision that "auto" stands for: "bf16" on a GPU that has it and on a CPU with AMX tiles, else "fp32"."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    # AVX-512-BF16 alone does not gain: its dot product does twice the work of an fp32 FMA at half the rate.
    amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    return "bf16" if device.type == "cpu" and amx() else "fp32"


def current_commit() -> str:
    """The commit of the checkout that the package runs from, "-dirty" where it was changed; "unknown" outside one."""
    # Only its own repository: an installed package may lie inside another one.
    command = ["git", "--git-dir=.git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    root = Path(__file__).parents[2]
    with suppress(OSError):  # no git
        return subprocess.run(command, cwd=root, capture_output=True, text=True).stdout.strip() or "unknown"
    return "unknown"
