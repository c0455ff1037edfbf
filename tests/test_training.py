"""Training: exact resuming, clear errors, the files of a run, and the Lightning parts in a plain Trainer."""

import copy
import io
import json
import logging
import math
import multiprocessing
import os
import pickle
import re
import resource
import shutil
import signal
import traceback
import warnings
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from filelock import FileLock
from rich.console import Console
from torch import nn
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from emgscribe.data.charset import BLANK
from emgscribe.data.session import Session, open_sessions
from emgscribe.data.windows import Batch, WindowConfig
from emgscribe.errors import EmgscribeError
from emgscribe.models.ancestry import Ancestry
from emgscribe.models.attention import AttentionConfig
from emgscribe.models.augment import AlignmentJitter, Augmentation, BandRotation, SpecAugment
from emgscribe.models.encoders import EncoderConfig, LookaheadsConfig, RecurrentConfig, TdsConfig
from emgscribe.models.features import SpectrogramConfig
from emgscribe.models.model import Model, ModelConfig, load_ancestry, load_model
from emgscribe.simulation.sessions import simulate_session
from emgscribe.training import modules as module_of
from emgscribe.training import run as run_of
from emgscribe.training.callbacks import Averaging, silence_lightning
from emgscribe.training.config import Recipe, TrainConfig
from emgscribe.training.losses import teacher_loss
from emgscribe.training.run import Trained, estimate_seconds, resolve_precision, train

Sessions = tuple[list[Session], list[Session]]
TINY = Recipe(
    model=ModelConfig(SpectrogramConfig(n_fft=64, hop=64), TdsConfig(24, 1, 4, 4, 2)),
    windows=WindowConfig(2000, 2000, 0, 0),
    augment=Augmentation(jitter=AlignmentJitter(20), spec=SpecAugment(1, 4, 1, 2)),
    train=TrainConfig(epochs=4, batch_size=4, lr=1e-2, warmup_epochs=1, keypress_weight=1.0, clip_norm=1.0, seed=3),
)
LSTM = RecurrentConfig(base=replace(TINY.model.encoder, dropout=0.4), hidden=8, cell="lstm", dropout=0.4)
TWO_HEADED = replace(TINY, model=replace(TINY.model, attention=AttentionConfig(1, 16, 2, 16, dropout=0.4)))
STEP = module_of.TrainingModule.training_step


def changed(recipe: Recipe = TINY, **settings: Any) -> Recipe:
    return replace(recipe, train=replace(recipe.train, **settings))


ONE_EPOCH = changed(epochs=1)
AVERAGED = changed(replace(TINY, model=replace(TINY.model, encoder=LSTM)), ema=0.9, dropout_ramp=0.6, long_windows=0.5)
"""Epochs of 4, 4, 3 and 3 steps on the session below."""
UNUSED = replace(TINY.model, encoder=LookaheadsConfig(base=TINY.model.encoder, output=12, known=(0, 3), lookahead=0))
PARTLY_USED = replace(TINY, model=UNUSED)
"""The layer of the longer lookahead has weights, and no gradient."""


def before_each_step(patch: pytest.MonkeyPatch, look: Callable[[Any, Batch, int], object]) -> None:
    def step(self: Any, batch: Batch, batch_idx: int) -> torch.Tensor:
        look(self, batch, batch_idx)
        return STEP(self, batch, batch_idx)

    patch.setattr(module_of.TrainingModule, "training_step", step)


@pytest.fixture(scope="module")
def sessions(tmp_path_factory: pytest.TempPathFactory) -> Sessions:
    folder = tmp_path_factory.mktemp("sessions")
    paths = [folder / f"{number}.hdf5" for number in range(2)]
    for number, path in enumerate(paths):
        simulate_session(path, user=1, session=number, minutes=0.25, seed=0)
    train, val = open_sessions(paths, folder / "cache")
    return [train], [val]


def run(sessions: Sessions, folder: Path, recipe: Recipe = TINY, start: Path | None = None) -> Trained:
    return train(recipe, *sessions, out=folder, start=start, console=Console(quiet=True))


def checkpoint(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "last.ckpt", weights_only=True)


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.skipif(os.name == "nt", reason="needs an executable script")
def test_a_machine_of_a_slurm_cluster_trains_as_any_other(sessions: Sessions, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "srun").write_text("#!/bin/sh")
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert run(sessions, tmp_path / "run", changed(epochs=1)).curves  # a warning would be an error


def test_training_learns_and_leaves_a_complete_run(sessions: Sessions, tmp_path: Path, capsys) -> None:
    trained = train(changed(epochs=12), *sessions, out=str(tmp_path / "run"))
    assert trained.curves[-1]["train_loss"] < 0.6 * trained.curves[0]["train_loss"]
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert left == {"best", "curves.csv", "last.ckpt", "settings.json", ".lock"}
    assert {path.name for path in (tmp_path / "run" / "best").iterdir()} == {"config.json", "model.safetensors"}
    best = min(entry["val_cer"] for entry in trained.curves)
    lines = (tmp_path / "run" / "curves.csv").read_text().splitlines()
    assert lines[0] == "epoch,step,lr,train_loss,val_loss,val_cer"
    assert min(float(line.split(",")[-1]) for line in lines[1:]) == best
    assert len(lines) == 13
    assert same(load_model(tmp_path / "run" / "best").state_dict(), trained.model.state_dict())
    assert re.fullmatch(r"<Trained \S+/run: 12 epochs, best val CER \d+\.\d %, \d+ s>", repr(trained))
    logged = capsys.readouterr().out.splitlines()
    assert len(logged) == 12
    assert re.fullmatch(r"epoch 1/12  loss \d+\.\d{3}  val CER \d+\.\d %  0:00:\d\d left", logged[0])
    assert logged[-1].endswith("0:00:00 left")


def test_a_terminal_shows_a_bar_and_the_cer_of_a_single_epoch(sessions: Sessions, tmp_path: Path) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True)
    trained = train(ONE_EPOCH, *sessions, out=tmp_path, console=console)
    assert f"val CER {trained.curves[0]['val_cer']:.1f} %" in screen.getvalue()


def test_both_heads_learn_by_their_loss_weights(sessions: Sessions, tmp_path: Path, monkeypatch) -> None:
    off, smoothed = list[float](), list[float]()
    attention, whole = module_of.attention_loss, module_of.training_loss

    def noted_attention(likely: torch.Tensor, batch: Batch, smoothing: float = 0.0) -> torch.Tensor:
        smoothed.append(smoothing)
        return attention(likely, batch, smoothing)

    def noted(*args: Any, **rest: Any) -> dict[str, torch.Tensor]:
        losses = whole(*args, **rest)
        off.append((losses["total"] - 0.8 * losses["loss"] - 0.2 * losses["attention_loss"]).item())
        return losses

    monkeypatch.setattr(module_of, "attention_loss", noted_attention)
    monkeypatch.setattr(module_of, "training_loss", noted)
    monkeypatch.setattr(module_of, "keypress_loss", lambda *_: torch.ones(()))
    recipe = changed(TWO_HEADED, epochs=8, keypress_weight=2.0, attention_weight=0.2, label_smoothing=0.05)
    trained = run(sessions, tmp_path / "run", recipe)
    assert off == pytest.approx([*(2 * (1 - step / 16) for step in range(16)), *[0] * 16], abs=1e-5)
    assert set(smoothed) == {0.05, 0.0}  # validation measures the plain loss
    for name in ("train_loss", "train_attention_loss", "val_attention_loss"):
        assert trained.curves[-1][name] < 0.9 * trained.curves[0][name]
    header = (tmp_path / "run" / "curves.csv").read_text().splitlines()[0]
    assert header == "epoch,step,lr,train_loss,val_loss,val_cer,train_attention_loss,val_attention_loss"


def test_seed_decides_the_result(sessions: Sessions, tmp_path: Path) -> None:
    first, again = run(sessions, tmp_path / "a"), run(sessions, tmp_path / "b")
    other = run(sessions, tmp_path / "c", changed(seed=4))
    assert same(first.model.state_dict(), again.model.state_dict())
    assert first.curves == again.curves
    assert not torch.equal(first.model.head.weight, other.model.head.weight)


@pytest.mark.parametrize(
    ("recipe", "step"),
    [(TINY, 3), (TINY, 5), (AVERAGED, 5), (AVERAGED, 9), (AVERAGED, 12), (TWO_HEADED, 9), (PARTLY_USED, 5)],
)
def test_interrupted_run_resumes_to_the_same_end(
    sessions: Sessions, tmp_path: Path, monkeypatch, recipe: Recipe, step: int
) -> None:
    whole = run(sessions, tmp_path / "whole", recipe)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    def interrupted(module: Any, *_: Any) -> None:
        if module.global_step == step:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        before_each_step(patch, interrupted)
        patch.setattr(run_of, "current_commit", lambda: "earlier")
        with pytest.raises(KeyboardInterrupt):
            run(sessions, tmp_path / "cut", recipe)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    earlier = ["earlier"] if (tmp_path / "cut" / "last.ckpt").exists() else []  # else nothing of it was kept
    (tmp_path / "cut").rename(tmp_path / "moved")
    resumed = run(sessions, tmp_path / "moved", recipe)
    assert same(resumed.model.state_dict(), whole.model.state_dict())
    for weights in ("state_dict", "current_model_state") if recipe.train.ema else ("state_dict",):
        assert same(checkpoint(tmp_path / "moved")[weights], checkpoint(tmp_path / "whole")[weights])
    assert resumed.curves == whole.curves
    assert resumed.commits == [*earlier, *whole.commits]
    assert (tmp_path / "moved" / "curves.csv").read_text() == (tmp_path / "whole" / "curves.csv").read_text()


def test_a_model_without_its_checkpoint_is_not_deleted_by_other_settings(sessions: Sessions, tmp_path: Path) -> None:
    """People delete the checkpoint of a finished run, which is three times as large as the model."""
    run(sessions, tmp_path, ONE_EPOCH)
    (tmp_path / "last.ckpt").unlink()
    before = (tmp_path / "best" / "model.safetensors").read_bytes()
    with pytest.raises(EmgscribeError, match="holds a run with other settings"):
        run(sessions, tmp_path, replace(ONE_EPOCH, train=replace(ONE_EPOCH.train, lr=0.5)))
    (tmp_path / "settings.json").rename(tmp_path / "moved.json")
    with pytest.raises(EmgscribeError, match="holds a model without the settings of its run"):
        run(sessions, tmp_path, ONE_EPOCH)
    assert (tmp_path / "best" / "model.safetensors").read_bytes() == before
    (tmp_path / "moved.json").rename(tmp_path / "settings.json")
    (tmp_path / "best" / "model.safetensors").write_bytes(b"of a run that was killed before its first checkpoint")
    run(sessions, tmp_path, ONE_EPOCH)
    assert (tmp_path / "best" / "model.safetensors").read_bytes() == before


def test_a_resumed_run_keeps_its_best_model(sessions: Sessions, tmp_path: Path, monkeypatch) -> None:
    cers = iter([50, 60, 55, 40])  # of each epoch; the run is cut off after the second

    def measured(self: Any, batch: Batch, batch_idx: int) -> None:
        self._log("val_cer", float(next(cers)) if batch_idx == 0 else 0.0, int(batch_idx == 0), batch)

    monkeypatch.setattr(module_of.TrainingModule, "validation_step", measured)
    stamps = []

    def noted(module: Any, batch: Batch, batch_idx: int) -> None:
        if batch_idx == 0 and module.current_epoch:
            stamps.append(next(tmp_path.rglob("model.safetensors")).stat().st_mtime_ns)
        if module.current_epoch == 2 and len(stamps) == 2:
            raise KeyboardInterrupt

    before_each_step(monkeypatch, noted)
    with pytest.raises(KeyboardInterrupt):
        run(sessions, tmp_path / "run")
    (tmp_path / "run").rename(tmp_path / "moved")
    for continues in (True, False):
        screen = io.StringIO()
        train(TINY, *sessions, out=tmp_path / "moved", console=Console(file=screen))
        assert ("resuming after epoch 2 of 4\n" in screen.getvalue()) == ("epoch 3/4" in screen.getvalue()) == continues
    first, second, resumed, fourth = stamps
    assert first == second == resumed == fourth < next(tmp_path.rglob("model.safetensors")).stat().st_mtime_ns


@pytest.mark.filterwarnings("ignore:.*fork")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 7)])
def test_killed_run_resumes_to_the_same_end(
    sessions: Sessions, tmp_path: Path, monkeypatch, number: int, status: int
) -> None:
    """A signal in the middle of an epoch, in a process of its own; SIGTERM interrupts as Ctrl-C does."""

    def killed(module: Any, *_: Any) -> None:
        if module.global_step == 6:
            os.kill(os.getpid(), number)
        assert module.global_step < 8, "training continued after the signal"

    def work() -> None:
        try:
            run(sessions, tmp_path / "cut")
        except KeyboardInterrupt:
            os._exit(7)

    with monkeypatch.context() as patch:
        before_each_step(patch, killed)
        process = multiprocessing.get_context("fork").Process(target=work)
        process.start()
        process.join()
    assert process.exitcode == status
    assert run(sessions, tmp_path / "cut").curves == run(sessions, tmp_path / "whole").curves


def test_a_finished_run_is_not_repeated_and_refuses_other_settings(sessions: Sessions, tmp_path: Path) -> None:
    first, stamp = run(sessions, tmp_path, ONE_EPOCH), (tmp_path / "last.ckpt").stat().st_mtime_ns
    assert run(sessions, tmp_path, ONE_EPOCH).curves == first.curves
    assert (tmp_path / "last.ckpt").stat().st_mtime_ns == stamp
    with pytest.raises(EmgscribeError, match=r"other settings: train\.lr is 0\.01 there, 0\.001 here\n") as caught:
        run(sessions, tmp_path, changed(ONE_EPOCH, lr=1e-3))
    assert "--name" in caught.value.hint
    with pytest.raises(EmgscribeError, match=r"batch_size is 4 there, 8 here; .* here; and 2 more"):
        run(sessions, tmp_path, changed(ONE_EPOCH, lr=1e-3, seed=4, ema=0.5, batch_size=8, lr_end=1e-5))
    with pytest.raises(EmgscribeError, match="train_sessions is "):
        run((sessions[1], sessions[1]), tmp_path, ONE_EPOCH)


def test_a_second_run_in_the_same_folder_is_refused(sessions: Sessions, tmp_path: Path) -> None:
    with FileLock(tmp_path / ".lock"), pytest.raises(EmgscribeError, match="another process"):
        run(sessions, tmp_path)


@pytest.mark.parametrize(("call", "what"), [(9, "training"), (11, "training"), (13, "validation")])
def test_nan_loss_stops_with_the_last_checkpoint_kept(
    sessions: Sessions, tmp_path: Path, monkeypatch, call: int, what: str
) -> None:
    original, calls = module_of.ctc_loss, iter(range(1000))

    def broken(*args: Any) -> torch.Tensor:
        return original(*args) * (float("nan") if next(calls) == call else 1)  # of 4 steps and 4 batches an epoch

    monkeypatch.setattr(module_of, "ctc_loss", broken)
    with pytest.raises(EmgscribeError, match=rf"{what} loss is nan at epoch 2, step \d"):
        run(sessions, tmp_path / "run")
    assert checkpoint(tmp_path / "run")["epoch"] == 0
    load_model(tmp_path / "run" / "best")


def test_full_disk_stops_clearly_and_keeps_the_last_checkpoint(sessions: Sessions, tmp_path: Path, monkeypatch) -> None:
    def full(module: Any, *_: Any) -> None:
        if module.global_step == 8:  # no file gets larger from now on, as on a disk that is full
            resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "run" / "last.ckpt").stat().st_size, before[1]))

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with monkeypatch.context() as patch:
        before_each_step(patch, full)
        with pytest.raises(EmgscribeError, match=r"last.ckpt: cannot be written"):
            run(sessions, tmp_path / "run")
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert checkpoint(tmp_path / "run")["epoch"] == 1
    assert run(sessions, tmp_path / "run").curves == run(sessions, tmp_path / "whole").curves


def test_two_processes_train_as_one_does(sessions: Sessions, tmp_path: Path) -> None:
    # Nothing that each process draws or normalises for itself, so that both agree up to rounding.
    still = Augmentation(BandRotation(probability=0), AlignmentJitter(0), spec=SpecAugment(0, 0, 0, 0))
    rolling = replace(TINY.model, encoder=replace(TINY.model.encoder, rolling=5))
    plain = changed(replace(TINY, model=rolling, augment=still), epochs=2, lr=1e-3, keypress_weight=0.0, ema=0.5)
    one, two = (run(sessions, tmp_path / str(devices), changed(plain, devices=devices)) for devices in (1, 2))
    assert (one.device, two.device) == ("cpu", "2 x cpu")
    for ours, theirs in zip(one.curves, two.curves, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)
    for ours, theirs in zip(one.model.parameters(), two.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("raised", "kind", "what"),
    [
        (EmgscribeError("it is nan", hint="lower it"), EmgscribeError, "^it is nan\n  hint: lower it\\Z"),
        (KeyError("a fault"), ProcessRaisedException, "KeyError: 'a fault'"),
        (ProcessExitedException("by SIGKILL", 0, 7, -9), EmgscribeError, "has died .by SIGKILL.\n.*the same command"),
    ],
)
def test_what_ends_one_process_is_reported_once(
    sessions: Sessions, tmp_path: Path, monkeypatch, raised: Exception, kind: type[Exception], what: str
) -> None:
    def ended(*_: Any, **__: Any) -> None:
        if isinstance(raised, ProcessExitedException):
            raise raised
        raise ProcessRaisedException("".join(traceback.format_exception(raised)), 1, 7)  # as PyTorch does

    monkeypatch.setattr(lightning.Trainer, "fit", ended)
    with pytest.raises(kind, match=what):
        run(sessions, tmp_path)


class Trap:
    """An object whose pickle runs code when it is loaded."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("trapped",)


BYTES: dict[str, Callable[[bytes], bytes]] = {
    "half": lambda whole: whole[: len(whole) // 2],
    "empty": lambda whole: b"",
    "text": lambda whole: b"no checkpoint at all",
    "pickle": lambda whole: pickle.dumps({"another": "program's"}),
    "trap": lambda whole: pickle.dumps(Trap()),
    "bit": lambda whole: whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :],
}
CONTENT: dict[str, Callable[[dict[str, Any]], object]] = {
    "trap-in-torch": lambda content: content.update(trap=Trap()),
    "no-state": lambda content: content.pop("state_dict"),
    "no-curves": lambda content: content["callbacks"].clear(),
    "no-optimizer": lambda content: content["optimizer_states"].clear(),
    "shapes": lambda content: content["state_dict"].update({HEAD: torch.zeros(5)}),
    "nan": lambda content: content["state_dict"].update({HEAD: torch.full((99,), torch.nan)}),
    "moments": lambda content: moments_of(content)["exp_avg_sq"].fill_(torch.inf),
    "moment-shapes": lambda content: moments_of(content).update(exp_avg=torch.zeros(5)),
    "moment-places": lambda content: content["optimizer_states"][0]["state"].update({99: moments_of(content)}),
    "moment-steps": lambda content: moments_of(content)["step"].add_(1),
    "curves": lambda content: curves(content)[0].update(val_cer=math.inf),
    "longer": lambda content: (
        content.update(epoch=1),
        content["loops"]["fit_loop"]["epoch_progress"]["current"].update(processed=2),
        curves(content).append(curves(content)[0] | {"epoch": 1.0}),
    ),
    "version": lambda content: content.update({"pytorch-lightning_version": "1.9.0"}),
    "epoch": lambda content: content.update(epoch=7),
    "curve-epoch": lambda content: curves(content)[0].update(epoch=7.0),
    "step": lambda content: content.update(global_step=7),
    "loops": lambda content: content["loops"].clear(),
    "commit": lambda content: content["callbacks"]["Record"].update(commits=["\ud800"]),
    "column": lambda content: curves(content)[0].update({"\x1b[31m": 1.0}),
    "path": lambda content: [state.update(dirpath=0.5) for state in content["callbacks"].values()],
    "callback": lambda content: content["callbacks"].update({"another's": {}}),
    "groups": lambda content: content["optimizer_states"][0].pop("param_groups"),
    "scheduler": lambda content: content["lr_schedulers"][0].update(_step_count="many"),
}
HEAD = "model.head.bias"


def moments_of(content: dict[str, Any]) -> dict[str, torch.Tensor]:
    return content["optimizer_states"][0]["state"][0]


def curves(content: dict[str, Any]) -> list[dict[str, float]]:
    return content["callbacks"]["Record"]["curves"]


@pytest.fixture(scope="module")
def finished(sessions: Sessions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(sessions, tmp_path_factory.mktemp("finished"), ONE_EPOCH).folder


@pytest.mark.parametrize("kind", [*BYTES, *CONTENT])
def test_a_damaged_checkpoint_is_reported_and_kept(
    sessions: Sessions, finished: Path, tmp_path: Path, monkeypatch, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path(shutil.copytree(finished, tmp_path / "run")) / "last.ckpt"
    if kind in BYTES:
        path.write_bytes(BYTES[kind](path.read_bytes()))
    else:
        CONTENT[kind](content := checkpoint(path.parent))
        torch.save(content, path)
    before = {file: file.is_file() and file.read_bytes() for file in tmp_path.rglob("*")}
    with pytest.raises(EmgscribeError, match=r"is damaged \(.+\)\n  hint: delete it to train from the start") as caught:
        run(sessions, path.parent, ONE_EPOCH)
    assert caught.value.where == str(path)
    assert {file: file.is_file() and file.read_bytes() for file in tmp_path.rglob("*")} == before


def test_invalid_stored_settings_give_one_error(sessions: Sessions, finished: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(finished, tmp_path / "run")) / "settings.json"
    deep = '{"a":' * 900 + "1" + "}" * 900
    for content in ("null", "[]", "3", '"a"', deep, deep * 9, f'{{"train": {"1" * 10_000}}}', "\0"):
        path.write_text(content)
        with pytest.raises(EmgscribeError, match=r"JSON|is damaged|other settings") as caught:
            run(sessions, path.parent, ONE_EPOCH)
        assert caught.value.where in (str(path), str(path.parent))
        assert len(str(caught.value)) < 1000
        assert path.read_text() == content


def test_precision_follows_the_hardware(monkeypatch) -> None:
    cpu = torch.device("cpu")
    assert resolve_precision("bf16", cpu) == "bf16"
    for amx in (False, True):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda amx=amx: amx, raising=False)
        assert resolve_precision("auto", cpu) == ("bf16" if amx else "fp32")


@pytest.mark.parametrize(
    ("refused", "what"),
    [
        (lambda: changed(keypress_fraction=0.0), r"train\.keypress_fraction is 0"),
        (
            lambda: replace(TINY, augment=Augmentation(jitter=AlignmentJitter(2000))),
            "jitter.samples is 2000",
        ),
        (lambda: changed(epochs=15, validate_every=10), "is 10, allowed: a divisor of train.epochs = 15"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(refused: Callable[[], object], what: str) -> None:
    assert changed(epochs=15, validate_every=5)
    with pytest.raises(EmgscribeError, match=what):
        refused()


def test_training_without_keys_is_refused(sessions: Sessions, tmp_path: Path) -> None:
    silent = [session.first(1) for session in sessions[0]]
    with pytest.raises(EmgscribeError, match="no training session has a key with a label"):
        run((silent, sessions[1]), tmp_path / "run")
    with pytest.raises(EmgscribeError, match="no validation session has a key with a label"):
        run((sessions[0], silent), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_only_epochs_that_are_validated_have_a_validation_cer(sessions: Sessions, tmp_path: Path) -> None:
    for every, validated in ((2, [False, True, False, True]), (50, [False, False, False, True])):
        rare = run(sessions, tmp_path / str(every), changed(validate_every=every))
        assert ["val_cer" in entry for entry in rare.curves] == validated


def test_training_begins_at_the_blank_prior(sessions: Sessions, tmp_path: Path, monkeypatch) -> None:
    begun: dict[float, nn.Linear] = {}

    def noted(module: Any, *_: Any) -> None:
        begun.setdefault(module.config.blank_prior, copy.deepcopy(module.model.head))

    before_each_step(monkeypatch, noted)
    for prior in (0.0, 0.8):
        run(sessions, tmp_path / str(prior), changed(ONE_EPOCH, blank_prior=prior))
    assert torch.equal(begun[0.0].weight, begun[0.8].weight), "nothing else changes"
    shares = begun[0.8].bias.softmax(dim=0)
    assert shares[BLANK].item() == pytest.approx(0.8)
    assert torch.allclose(shares[:BLANK], shares[0])
    assert begun[0.0].bias.abs().max() < 1
    start = tmp_path / "0.0" / "best"  # a trained head keeps its bias
    still = changed(ONE_EPOCH, lr=1e-9, lr_start=1e-9, lr_end=1e-9, blank_prior=0.8)
    trained = run(sessions, tmp_path / "second", still, start=start)
    assert torch.allclose(trained.model.head.bias, load_model(start).head.bias, atol=1e-5)


def test_the_average_of_the_weights_covers_all_steps_and_is_validated_and_kept(
    sessions: Sessions, tmp_path: Path, monkeypatch
) -> None:
    seen: list[dict[str, torch.Tensor]] = []
    original = Averaging.on_train_batch_end

    def noted(self: Averaging, trainer: Any, pl_module: Any, *rest: Any) -> None:
        seen.append({name: value.clone() for name, value in pl_module.state_dict().items()})
        original(self, trainer, pl_module, *rest)

    monkeypatch.setattr(Averaging, "on_train_batch_end", noted)
    recipe = changed(ema=0.8, epochs=2)
    trained = run(sessions, tmp_path / "averaged", recipe)
    torch.manual_seed(TINY.train.seed)
    expected = {f"model.{name}": value for name, value in Model(TINY.model).state_dict().items()}
    assert len(seen) == 8
    for step, now in enumerate(seen):
        decay = min(0.8, (1 + step) / (10 + step))
        expected = {name: decay * mean + (1 - decay) * now[name] for name, mean in expected.items()}
    kept = checkpoint(tmp_path / "averaged")["state_dict"]
    counts = [name for name in expected if name.endswith("num_batches_tracked")]
    assert [int(kept[name]) for name in counts] == [8] * len(counts) != []
    for name in set(expected) - set(counts):
        torch.testing.assert_close(kept[name], expected[name])
        assert not torch.equal(kept[name], seen[-1][name])

    # The training itself is unaffected.
    plain = run(sessions, tmp_path / "plain", changed(epochs=2))
    assert same(checkpoint(tmp_path / "averaged")["current_model_state"], checkpoint(tmp_path / "plain")["state_dict"])
    assert [e["train_loss"] for e in trained.curves] == [e["train_loss"] for e in plain.curves]
    assert all(a["val_loss"] != p["val_loss"] for a, p in zip(trained.curves, plain.curves, strict=True))

    windows = module_of.cut(sessions[1], recipe.windows, trained.model.context)
    with torch.no_grad():
        batches = list(windows.batches(windows.tiling(), 4))
        losses = [float(module_of.ctc_loss(*trained.model(batch), batch)) * len(batch) for batch in batches]
    best = min(trained.curves, key=lambda entry: entry["val_cer"])
    assert sum(losses) / sum(map(len, batches)) == pytest.approx(best["val_loss"], rel=1e-5)


def test_dropout_rises_to_its_setting(sessions: Sessions, tmp_path: Path, monkeypatch) -> None:
    rates: list[set[float]] = []

    def noted(whole: Any, *_: Any) -> None:
        found = {module.p for module in whole.modules() if isinstance(module, nn.Dropout)}
        rates.append(found | {module.dropout for module in whole.modules() if isinstance(module, nn.LSTM)})

    before_each_step(monkeypatch, noted)
    for share, folder in ((0.5, "rising"), (0.0, "constant")):
        run(sessions, tmp_path / folder, changed(AVERAGED, dropout_ramp=share, long_windows=0.0, epochs=2))
    assert rates == [*[{min(1.0, step / 4) * 0.4} for step in range(8)], *[{0.4}] * 8]


@pytest.mark.parametrize("kind", [*EncoderConfig.kinds, "attention decoder"])
def test_the_dropout_ramp_reaches_every_dropout(kind: str) -> None:
    """With every dropout rate at 0, training mode draws no random numbers, in attention and recurrent layers too."""
    encoder: Any = EncoderConfig.kinds.get(kind, TdsConfig)
    names = {field.name for field in fields(encoder)}
    dropping: dict[str, Any] = {"dropout": 0.5} if "dropout" in names else {}
    if "base" in names and not dropping:
        dropping = {"base": replace(TINY.model.encoder, dropout=0.5)}
    model = Model(replace(TWO_HEADED.model, encoder=encoder(**dropping))).train()
    none, labels = torch.zeros(2, dtype=torch.int64), torch.tensor([[1, 2, 3], [4, 5, 6]])
    batch = Batch(torch.randn(2, 4000, 2, 16), 0, 0, torch.tensor([4000, 4000]), labels, none, labels)
    heard = torch.randn(2, 9, model.encoder.width), torch.tensor([9, 9]), labels

    def drawn() -> bool:
        with torch.no_grad():
            read = [model.attention(*heard) if kind not in EncoderConfig.kinds else model(batch)[0] for _ in range(2)]
        return not torch.equal(*read)

    assert drawn() == bool(dropping)
    for module, name, _ in module_of.TrainingModule(model, TINY.train, TINY.augment).dropouts:
        setattr(module, name, 0.0)
    assert not drawn()


def test_long_windows_come_last_and_a_step_sees_as_much_signal_as_before(
    sessions: Sessions, tmp_path: Path, monkeypatch
) -> None:
    steps: list[tuple[int, int]] = []
    before_each_step(monkeypatch, lambda module, batch, batch_idx: steps.append((batch.labelled, len(batch))))
    trained = run(sessions, tmp_path / "run", AVERAGED)
    # 15 windows of 2,000 samples in batches of 4, then 3 of 8,000, one at a time.
    assert steps == [*[(2000, 4), (2000, 4), (2000, 4), (2000, 3)] * 2, *[(8000, 1)] * 6]
    assert [entry["step"] for entry in trained.curves] == [4, 8, 11, 14]
    assert trained.curves[-1]["lr"] == pytest.approx(AVERAGED.train.lr_end)
    assert trained.curves[-2]["lr"] > 2 * AVERAGED.train.lr_end
    for share, epochs, long in ((0, 9, 0), (0.01, 9, 1), (0.3, 10, 3), (1, 9, 9)):
        config = TrainConfig(long_windows=share, epochs=epochs)
        assert module_of.SessionsDataModule([], [], WindowConfig(), config).long_from == epochs - long


def test_a_model_knows_its_own_and_its_ancestors_sessions(sessions: Sessions, tmp_path: Path) -> None:
    recipe, ((first,), (second,)) = changed(ONE_EPOCH, ema=0.9), sessions
    run(sessions, tmp_path / "parent", recipe)
    beginning = [second.first(20_000)]
    child = run((beginning, [first]), tmp_path / "child", recipe, start=tmp_path / "parent" / "best").model
    kept = load_ancestry(tmp_path / "child" / "best")
    assert child.ancestry == kept
    assert [seen.content for seen in kept.trained_on] == [first.content, f"{second.content}:20000"]
    assert [seen.content for seen in kept.validated_on] == [second.content, first.content]


def test_a_start_is_recognized_by_its_weights_not_by_its_path(sessions: Sessions, tmp_path: Path, monkeypatch) -> None:
    run(sessions, tmp_path / "parent", ONE_EPOCH)
    monkeypatch.chdir(tmp_path)
    run(sessions, tmp_path / "child", ONE_EPOCH, start=Path("parent/best"))
    (tmp_path / "parent" / "best" / "beam.json").write_text("tuned meanwhile")
    run(sessions, tmp_path / "child", ONE_EPOCH, start=tmp_path / "parent/best")
    run(sessions, tmp_path / "child", ONE_EPOCH, start=(tmp_path / "parent").rename(tmp_path / "moved") / "best")
    run((sessions[1], sessions[0]), tmp_path / "parent", ONE_EPOCH)  # on other sessions, in the same place
    for start in (tmp_path / "parent/best", None):
        with pytest.raises(EmgscribeError, match="other settings: start is "):
            run(sessions, tmp_path / "child", ONE_EPOCH, start=start)
    with pytest.raises(EmgscribeError, match="no model here"):
        run(sessions, tmp_path / "new", ONE_EPOCH, start=tmp_path / "absent")
    hints = {"child": "child/best", "their.ckpt": "emgscribe import", "session.H5": "the name of a session"}
    for start, hint in ((tmp_path / name, hint) for name, hint in hints.items()):
        with pytest.raises(EmgscribeError, match="no model here") as caught:
            run(sessions, tmp_path / "new", ONE_EPOCH, start=start)
        assert hint in caught.value.hint
    assert not (tmp_path / "new").exists()


def test_a_teacher_gets_unmasked_features_and_its_share_of_the_loss(sessions: Sessions) -> None:
    config = changed(teacher_weight=0.25, keypress_weight=0.0).train
    student, teacher = Model(TINY.model), Model(replace(TINY.model, encoder=TdsConfig(24, 1, 4, 8, 3)))
    module = module_of.TrainingModule(student, config, TINY.augment, teacher)
    data = module_of.SessionsDataModule(*sessions, TINY.windows, config, context=module.context)
    data.setup()
    batch, seeded = next(iter(data.train_dataloader())), torch.Generator().manual_seed
    losses = module_of.training_loss(
        student, batch, TINY.augment, config, step=0, total=9, generator=seeded(0), teacher=teacher
    )
    moved = TINY.augment.on_batch(batch, again := seeded(0))
    masked = TINY.augment.on_features(student.featurize(moved), again)
    emissions = student.classify(student.encode(masked, moved.lengths))
    apart = teacher_loss(emissions, teacher(moved)[0], student.frames(moved.lengths), moved)
    torch.testing.assert_close(losses["teacher_loss"], apart)
    torch.testing.assert_close(losses["total"], 0.75 * losses["loss"] + 0.25 * losses["teacher_loss"])
    losses["total"].backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert not teacher.training
    assert student.context < teacher.context == module.context
    assert pickle.loads(pickle.dumps(module)).teacher[0].config == teacher.config  # as several devices need it
    assert module.state_dict().keys() == module_of.TrainingModule(student, config, TINY.augment).state_dict().keys()


def test_a_network_learns_from_its_teachers(sessions: Sessions, tmp_path: Path) -> None:
    for seed in (1, 2):
        run(sessions, tmp_path / str(seed), changed(ONE_EPOCH, seed=seed))
    teachers = [str(tmp_path / str(seed) / "best") for seed in (1, 2)]
    alone = changed(epochs=8, teacher_weight=1.0, keypress_weight=0.0)
    swapped = (sessions[1], sessions[0])
    learn = partial(train, alone, *swapped, out=tmp_path / "student", console=Console(quiet=True))
    student = learn(teachers=teachers)
    read = [curve["train_teacher_loss"] for curve in student.curves]
    assert read[-1] < 0.3 * read[0]
    assert {seen.content for seen in student.model.ancestry.trained_on} == {part[0].content for part in sessions}
    assert learn(teachers=teachers).curves == student.curves  # resumes a finished run
    for others in (teachers[:1], []):
        with pytest.raises(EmgscribeError, match="holds a run with other settings: teachers"):
            learn(teachers=others)


def test_a_run_that_is_older_than_a_setting_can_be_resumed(sessions: Sessions, tmp_path: Path) -> None:
    run(sessions, tmp_path, ONE_EPOCH)
    noted = json.loads((tmp_path / "settings.json").read_text())
    del noted["train"]["teacher_weight"], noted["model"]["attention"]
    (tmp_path / "settings.json").write_text(json.dumps(noted))
    run(sessions, tmp_path, ONE_EPOCH)
    with pytest.raises(EmgscribeError, match=r"other settings: train.teacher_weight is 0.5 there, 0.25 here\n"):
        run(sessions, tmp_path, changed(ONE_EPOCH, teacher_weight=0.25))


def test_a_teacher_that_does_not_fit_is_refused_before_anything_is_written(sessions: Sessions, tmp_path: Path) -> None:
    slower = replace(ONE_EPOCH, model=replace(TINY.model, features=SpectrogramConfig(n_fft=64, hop=50)))
    run(sessions, tmp_path / "slower", slower)
    learn = partial(train, train=sessions[0], val=sessions[1], out=tmp_path / "student")
    with pytest.raises(EmgscribeError, match=r"teacher has 40 frames/s of .*, but the network to be trained 31\.25 "):
        learn(TINY, teachers=[tmp_path / "slower" / "best"])
    assert not (tmp_path / "student").exists()


@pytest.mark.filterwarnings("ignore")  # of a Trainer with its defaults
def test_the_example_in_train_md_runs_in_a_plain_trainer(sessions: Sessions, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[1] / "docs" / "train.md").read_text()
    (code,) = re.findall(r"```python\n(import lightning\n[^`]*)```", page)
    names: dict[str, Any] = {"train": sessions[0], "val": sessions[1]}
    for chatty in ("lightning.pytorch", "lightning.fabric"):
        monkeypatch.setattr(logging.getLogger(chatty), "level", logging.WARNING)
    exec(code, names)
    logged = names["trainer"].callback_metrics
    assert {"train_loss", "val_loss", "val_cer", "lr"} <= logged.keys()
    assert all(torch.isfinite(value) for value in logged.values())
    assert names["trainer"].global_step == names["data"].total_steps > 0


def test_a_plain_trainer_makes_the_same_run(sessions: Sessions, tmp_path: Path, monkeypatch) -> None:
    ours = run(sessions, tmp_path / "ours", changed(epochs=2, clip_norm=0.0))
    torch.manual_seed(TINY.train.seed)
    model, config = Model(TINY.model), replace(TINY.train, epochs=2)
    module = module_of.TrainingModule(model, config, TINY.augment)
    data = run_of.SessionsDataModule(*sessions, TINY.windows, config, context=model.context)
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    with warnings.catch_warnings():
        silence_lightning()
        trainer = lightning.Trainer(max_epochs=2, accelerator="cpu", **quiet)
        trainer.fit(module, data)
    assert same(module.state_dict(), checkpoint(tmp_path / "ours")["state_dict"])
    assert float(trainer.callback_metrics["val_cer"]) == ours.curves[-1]["val_cer"]
    assert model.ancestry == ours.model.ancestry


def test_a_model_of_other_loaders_does_not_claim_to_know_its_sessions(sessions: Sessions) -> None:
    student, teacher, quiet = Model(TINY.model), Model(TINY.model), {"logger": False, "enable_checkpointing": False}
    teacher.ancestry = Ancestry().after(*sessions)
    module = module_of.TrainingModule(student, TINY.train, TINY.augment, teacher)
    windows = module_of.cut(sessions[0], TINY.windows, module.context)
    loader = torch.utils.data.DataLoader([windows.batch([(0, 0)])], batch_size=None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's, about so few steps, and no validation
        lightning.Trainer(max_epochs=1, accelerator="cpu", enable_progress_bar=False, **quiet).fit(module, loader)
    assert student.ancestry == replace(teacher.ancestry, complete=False)


@pytest.mark.parametrize("recipe", [TINY, AVERAGED, TWO_HEADED])
def test_the_time_estimate_covers_all_steps(sessions: Sessions, monkeypatch, recipe: Recipe) -> None:
    clock = iter(range(10_000))
    monkeypatch.setattr(run_of.time, "monotonic", lambda: float(next(clock)))  # every two windows take a second
    teachers = 2 if recipe is TINY else 0
    seconds = estimate_seconds(recipe, train_sessions=sessions[0], val_sessions=sessions[1], teachers=teachers)
    assert seconds == (22 if recipe is AVERAGED else 32) + 4 * 8
