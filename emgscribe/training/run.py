"""A run, from a recipe and sessions to a trained model: its folder, what it begins with, its device."""

import logging
import math
import shutil
import signal
import subprocess
import warnings
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from rich.console import Console

from emgscribe.config import reads_as, require, to_json
from emgscribe.data.session import Session
from emgscribe.data.windows import Store, WindowConfig, Windows
from emgscribe.errors import EmgscribeError
from emgscribe.files import alone, read_json, write_json
from emgscribe.models.augment import Augmentation
from emgscribe.models.model import Model, ModelConfig, best_device, load_model, stored_hash
from emgscribe.training.callbacks import Checkpoints, Clock, Progress
from emgscribe.training.config import TrainConfig
from emgscribe.training.devices import spread, together
from emgscribe.training.loop import Curve, Training


@dataclass(frozen=True)
class Trained:
    """What a finished run leaves: the best model (by validation CER), one curve entry an epoch, seconds, device.

    `commits` are those of the code that trained, in order, more than one where a run was cut off and went on later.
    """

    model: Model
    curves: list[Curve]
    seconds: float
    device: str
    precision: str
    commits: list[str]


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
    train_sessions: list[Session],
    val_sessions: list[Session],
    folder: Path,
    start: Path | None = None,
    console: Console | None = None,
) -> Trained:
    """Train until the last epoch, from where the folder's earlier run stopped if there was one.

    `start` is the folder of a model whose weights a new run begins with. Raises `EmgscribeError` when another process
    trains in `folder`, when the folder holds another experiment or a damaged checkpoint, when the loss is no longer
    finite and when the disk is full; the last checkpoint stays in each case. Ctrl-C raises `KeyboardInterrupt` and
    leaves the same.
    """
    device = best_device()
    precision = resolve_precision(recipe.train.precision, device)
    described = to_json(recipe) | {"device": device.type, "precision": precision}
    described["train_sessions"] = [session.content for session in train_sessions]
    described["val_sessions"] = [session.content for session in val_sessions]
    described["start"] = stored_hash(start) if start else "None"
    with alone(folder, "is training or tuning a model here"):
        _claim(folder, described, recipe, start)
        if (folder / "last.ckpt").exists():
            _checkpoint(folder)  # a damaged one is told before anything begins
        work = partial(
            _work,
            recipe=recipe,
            train=train_sessions,
            val=val_sessions,
            folder=folder,
            start=start,
            precision=precision,
        )
        if recipe.train.devices == 1:
            work(device, console or Console())
        else:
            spread(work, device, recipe.train.devices, console)
        kept = _checkpoint(folder)
        name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
        name = name if recipe.train.devices == 1 else f"{recipe.train.devices} x {name}"
        return Trained(
            model=load_model(folder / "best", device),
            curves=kept["curves"],
            seconds=kept["seconds"],
            device=name,
            precision=precision,
            commits=kept.get("commits", []),
        )


def _work(
    device: torch.device,
    console: Console,
    *,
    recipe: Recipe,
    train: list[Session],
    val: list[Session],
    folder: Path,
    start: Path | None,
    precision: str,
) -> None:
    """Train in the run's folder, as the only process or one of several."""
    torch.manual_seed(recipe.train.seed)
    model = _untrained(recipe) if start is None else _continued(start, recipe.model)
    model.ancestry = model.ancestry.after(train, val)
    training = _training(model, recipe, train, val, device)
    training.commits = [current_commit()]  # now: a checkout may move on while its code trains
    _run(training, folder, precision, console)


def _untrained(recipe: Recipe) -> Model:
    model = Model(recipe.model)
    if recipe.train.blank_prior:
        model.expect_blank(recipe.train.blank_prior)
    return model


def _training(model: Model, recipe: Recipe, train: list[Session], val: list[Session], device: torch.device) -> Training:
    tiled = replace(recipe.windows, stride=recipe.windows.length)
    return Training(
        model,
        recipe.train,
        recipe.augment,
        train_windows=cut(train, recipe.windows, model, device),
        val_windows=cut(val, tiled, model, device),
    )


def seconds_for(recipe: Recipe, *, train_sessions: list[Session], val_sessions: list[Session]) -> float:
    """About how many seconds training on these sessions takes on this machine, from a few of its steps.

    Nothing is kept of what they train, and nothing is written.
    """
    device = best_device()
    recipe = replace(recipe, train=replace(recipe.train, devices=1))
    training = _training(_untrained(recipe), recipe, train_sessions, val_sessions, device)
    clock = Clock()
    precision, config = resolve_precision(recipe.train.precision, device), recipe.train
    limits = {
        "max_epochs": 1,
        "limit_train_batches": min(4, training.total_steps // config.epochs),
        "limit_val_batches": 2,
        "devices": 1,
    }
    with TemporaryDirectory() as folder:
        _trainer(Path(folder), precision, [clock], **limits).fit(training)
    validations = config.epochs // min(config.validate_every, config.epochs)
    batches = math.ceil(len(training.val_windows.tiling()) / config.batch_size)
    return training.total_steps * clock.mean("train") + validations * batches * clock.mean("val")


def _continued(start: Path, config: ModelConfig) -> Model:
    """The trained model in the folder `start`, to be trained on; another network than `config` is refused."""
    model = load_model(start)
    if model.config != config:
        raise EmgscribeError(
            "is another network than the one to be trained", where=str(start), hint="train it from one of the same kind"
        )
    return model.train()


def _checkpoint(folder: Path) -> dict[str, Any]:
    """What `Training` adds to the folder's checkpoint; a damaged one is an `EmgscribeError`."""
    path = folder / "last.ckpt"
    try:
        kept: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=False)["emgscribe"]
    except OSError as error:
        raise EmgscribeError(f"cannot be read ({error.strerror or error})", where=str(path), hint="check it") from error
    except Exception as error:  # damaged bytes may be any error to those who unpickle them
        why = (str(error).splitlines() or [type(error).__name__])[0]
        hint = "delete it: training begins anew"
        raise EmgscribeError(f"is damaged ({why})", where=str(path), hint=hint) from error
    return kept


def _claim(folder: Path, described: dict[str, Any], recipe: Recipe, start: Path | None) -> None:
    """Refuse a folder whose earlier run had other settings or other data; note ours in a new one."""
    noted = folder / "settings.json"
    for unfinished in folder.glob(".*.*"):  # what a killed run was writing
        shutil.rmtree(unfinished, ignore_errors=True)
    if not (folder / "last.ckpt").exists():
        shutil.rmtree(folder / "best", ignore_errors=True)  # of a run that was killed before its first checkpoint
    elif noted.exists():
        earlier = read_json(noted)
        # Settings may have come into the world since, with the defaults that the earlier run had without them.
        same = {part.name for part in fields(recipe) if reads_as(getattr(recipe, part.name), earlier.get(part.name))}
        same -= {"start"}  # the recipe's own is a name
        if start and Path(str(earlier.get("start"))).resolve() == start.resolve():  # earlier versions noted the path
            same.add("start")
        changed = [part for part in described if earlier.get(part) != described[part] and part not in same]
        if changed:
            raise EmgscribeError(
                f"holds a run with other settings ({', '.join(changed)})",
                where=str(folder),
                hint="choose another folder with --runs, or delete this one",
            )
    write_json(noted, described)


def _run(training: Training, folder: Path, precision: str, console: Console) -> None:
    """Let Lightning run the epochs that are left."""
    config = training.config
    trainer = _trainer(
        folder,
        precision,
        [Progress(console), Checkpoints(folder)],
        max_epochs=config.epochs,
        devices=config.devices,
        **(together(config.devices) if config.devices > 1 else {}),
        gradient_clip_val=config.clip_norm or None,
        check_val_every_n_epoch=min(config.validate_every, config.epochs),
    )
    last = folder / "last.ckpt"
    interrupt = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(training, ckpt_path=last if last.exists() else None, weights_only=False)
    except SystemExit:
        # Lightning turns Ctrl-C into sys.exit(1) and leaves the signal ignored; callers are owed the interrupt.
        signal.signal(signal.SIGINT, interrupt)
        raise KeyboardInterrupt from None


def _trainer(folder: Path, precision: str, callbacks: list[Callback], **settings: Any) -> lightning.Trainer:
    """A trainer that says and writes nothing but what `callbacks` do."""
    for chatty in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # Lightning's own use of a part of torch that torch calls deprecated; nothing that a user could mend.
    warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")
    return lightning.Trainer(
        accelerator="gpu" if torch.cuda.is_available() else "cpu",
        precision="bf16-mixed" if precision == "bf16" else "32-true",
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=callbacks,
        default_root_dir=folder,
        **settings,
    )


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


def cut(sessions: list[Session], windows: WindowConfig, model: Model, device: torch.device) -> Windows:
    """The windows of `sessions` with at least the context that the model needs, gathered on `device`."""
    left, right = model.context
    return Windows(
        Store(sessions, device), windows.length, windows.stride, max(windows.left, left), max(windows.right, right)
    )


def current_commit() -> str:
    """The commit of the checkout that the package runs from, "-dirty" where it was changed; "unknown" outside one."""
    checkout = Path(__file__).parents[2]
    if not (checkout / ".git").exists():  # an installed package may lie inside somebody else's repository
        return "unknown"
    command = ["git", "-C", str(checkout), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
