"""Training: schedule, losses, exact resuming, and clear stops."""

import math
import os
import pickle
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from rich.console import Console

from emgscribe.augment import AlignmentJitter, Augmentation, SpecAugment
from emgscribe.config import TrainConfig, WindowConfig
from emgscribe.encoders import TdsConfig
from emgscribe.errors import EmgscribeError
from emgscribe.features import SpectrogramConfig
from emgscribe.files import read_json
from emgscribe.model import Model, ModelConfig, load_model
from emgscribe.store import StoredSession, open_sessions
from emgscribe.synthetic import synthesize_session
from emgscribe.train import Recipe, Trained, fit, loop, resolve_precision

TINY = Recipe(
    model=ModelConfig(SpectrogramConfig(n_fft=64, hop=64), TdsConfig(24, 1, 4, 4, 2)),
    windows=WindowConfig(2000, 2000, 0, 0),
    augment=Augmentation(jitter=AlignmentJitter(20), spec=SpecAugment(1, 4, 1, 2)),
    train=TrainConfig(epochs=4, batch_size=4, lr=1e-2, warmup_epochs=1, keypress_weight=1.0, clip_norm=1.0, seed=3),
)
Sessions = tuple[list[StoredSession], list[StoredSession]]


@pytest.fixture(scope="module")
def sessions(tmp_path_factory: pytest.TempPathFactory) -> Sessions:
    folder = tmp_path_factory.mktemp("sessions")
    paths = [folder / f"{number}.hdf5" for number in range(2)]
    for number, path in enumerate(paths):
        synthesize_session(path, user=1, session=number, minutes=0.25, seed=0)
    train, val = open_sessions(paths, folder / "cache")
    return [train], [val]


def run(sessions: Sessions, folder: Path, recipe: Recipe = TINY) -> Trained:
    console = Console(file=(folder.parent / "log.txt").open("w"))
    with console.file:
        return fit(recipe, train_sessions=sessions[0], val_sessions=sessions[1], folder=folder, console=console)


def weights(model: Model) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def curves(trained: Trained) -> list[list[float]]:
    return [list(entry.values()) for entry in trained.curves]


def test_training_learns_and_leaves_a_whole_run(sessions: Sessions, tmp_path: Path) -> None:
    trained = run(sessions, tmp_path / "run", replace(TINY, train=replace(TINY.train, epochs=12)))
    losses = [entry["train_loss"] for entry in trained.curves]
    assert len(losses) == 12
    assert losses[-1] < 0.6 * losses[0]
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "best",
        "curves.csv",
        "last.ckpt",
        "settings.json",
    } | {".lock"}
    best = min(entry["val_cer"] for entry in trained.curves)
    lines = (tmp_path / "run" / "curves.csv").read_text().splitlines()
    assert lines[0] == "epoch,step,lr,train_loss,val_loss,val_cer"
    assert len(lines) == 13
    assert min(float(line.split(",")[-1]) for line in lines[1:]) == best
    torch.testing.assert_close(weights(load_model(tmp_path / "run" / "best")), weights(trained.model))


def test_seed_decides_the_result(sessions: Sessions, tmp_path: Path) -> None:
    first, again = run(sessions, tmp_path / "a"), run(sessions, tmp_path / "b")
    other = run(sessions, tmp_path / "c", replace(TINY, train=replace(TINY.train, seed=4)))
    assert torch.equal(weights(first.model), weights(again.model))
    assert curves(first) == curves(again)
    assert not torch.equal(weights(first.model), weights(other.model))


@pytest.mark.parametrize("step", [3, 5])
def test_interrupted_run_resumes_to_the_same_end(sessions, tmp_path: Path, monkeypatch, step: int) -> None:
    whole = run(sessions, tmp_path / "whole")
    original = loop.Training.training_step
    handler = signal.getsignal(signal.SIGINT)

    def interrupted(self, batch, batch_idx):
        if self.global_step == step:
            raise KeyboardInterrupt
        return original(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Training, "training_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(sessions, tmp_path / "cut")
    assert signal.getsignal(signal.SIGINT) is handler
    resumed = run(sessions, tmp_path / "cut")
    assert torch.equal(weights(resumed.model), weights(whole.model))
    assert curves(resumed) == curves(whole)
    assert (tmp_path / "cut" / "curves.csv").read_text() == (tmp_path / "whole" / "curves.csv").read_text()


def test_finished_run_is_not_run_again(sessions: Sessions, tmp_path: Path) -> None:
    first = run(sessions, tmp_path / "run")
    stamp = (tmp_path / "run" / "last.ckpt").stat().st_mtime_ns
    again = run(sessions, tmp_path / "run")
    assert curves(again) == curves(first)
    assert (tmp_path / "run" / "last.ckpt").stat().st_mtime_ns == stamp


def test_killed_run_resumes_to_the_same_end(sessions: Sessions, tmp_path: Path) -> None:
    """kill -9 in the middle of an epoch, in a process of its own."""
    whole = run(sessions, tmp_path / "whole")
    code = (
        "import os, signal, pickle, sys\n"
        "from pathlib import Path\n"
        "from emgscribe.train import fit, loop\n"
        "original = loop.Training.training_step\n"
        "def killed(self, batch, batch_idx):\n"
        "    if self.global_step == 6: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return original(self, batch, batch_idx)\n"
        "loop.Training.training_step = killed\n"
        "recipe, train, val = pickle.loads(Path(sys.argv[1]).read_bytes())\n"
        "from emgscribe.store import open_sessions\n"
        "fit(recipe, train_sessions=open_sessions(train, Path(sys.argv[3])),"
        " val_sessions=open_sessions(val, Path(sys.argv[3])), folder=Path(sys.argv[2]))\n"
    )
    sources = sorted(Path(sessions[0][0].emg.filename).parent.parent.parent.glob("*.hdf5"))
    cache = Path(sessions[0][0].emg.filename).parent.parent
    (tmp_path / "args").write_bytes(pickle.dumps((TINY, sources[:1], sources[1:])))
    command = [sys.executable, "-c", code, str(tmp_path / "args"), str(tmp_path / "cut"), str(cache)]
    died = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert died.returncode == -signal.SIGKILL, died.stderr
    resumed = run(sessions, tmp_path / "cut")
    assert curves(resumed) == [pytest.approx(entry) for entry in curves(whole)]


def test_other_settings_do_not_continue_a_run(sessions: Sessions, tmp_path: Path) -> None:
    run(sessions, tmp_path / "run")
    with pytest.raises(EmgscribeError, match=r"other settings \(train\)"):
        run(sessions, tmp_path / "run", replace(TINY, train=replace(TINY.train, lr=1e-3)))
    with pytest.raises(EmgscribeError, match="train_sessions"):
        run((sessions[1], sessions[1]), tmp_path / "run")
    assert read_json(tmp_path / "run" / "settings.json")["train"]["lr"] == 1e-2


def test_two_runs_in_one_folder(sessions: Sessions, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with FileLock(tmp_path / "run" / ".lock"), pytest.raises(EmgscribeError, match="another process"):
        run(sessions, tmp_path / "run")


def test_nan_loss_stops_with_the_last_checkpoint_kept(sessions, tmp_path: Path, monkeypatch) -> None:
    original = loop.ctc_loss
    calls = iter(range(1000))

    def broken(emissions, batch, model):
        loss = original(emissions, batch, model)
        return loss * float("nan") if next(calls) == 12 else loss

    monkeypatch.setattr(loop, "ctc_loss", broken)
    with pytest.raises(EmgscribeError, match=r"loss is nan at epoch \d+, step \d+"):
        run(sessions, tmp_path / "run")
    load_model(tmp_path / "run" / "best")
    assert (tmp_path / "run" / "last.ckpt").exists()


def test_full_disk_stops_clearly_and_keeps_the_last_checkpoint(sessions, tmp_path: Path, monkeypatch) -> None:
    import lightning

    original = lightning.Trainer.save_checkpoint

    def full(self, path, *args, **kwargs):
        if self.current_epoch == 2:
            Path(path).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        original(self, path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(lightning.Trainer, "save_checkpoint", full)
        with pytest.raises(EmgscribeError, match="No space left"):
            run(sessions, tmp_path / "run")
    kept = torch.load(tmp_path / "run" / "last.ckpt", weights_only=False)
    assert kept["epoch"] == 1
    assert curves(run(sessions, tmp_path / "run")) == curves(run(sessions, tmp_path / "whole"))


def test_precision_follows_the_hardware(monkeypatch) -> None:
    cpu = torch.device("cpu")
    assert resolve_precision("bf16", cpu) == "bf16"
    for amx in (False, True):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda amx=amx: amx, raising=False)
        assert resolve_precision("auto", cpu) == ("bf16" if amx else "fp32")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("lr", -1.0),
        ("keypress_fraction", 0.0),
        ("optimizer", "sgd"),
        ("seed", -1),
        ("seed", 1 << 40),
        ("clip_norm", math.inf),
    ],
)
def test_bad_settings_are_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(EmgscribeError, match=f"train.{field}"):
        TrainConfig(**{field: value})


def test_without_a_validation_cer_the_latest_model_is_the_best(sessions: Sessions, tmp_path: Path) -> None:
    silent = replace(sessions[1][0], labels=sessions[1][0].labels[:0], onsets=sessions[1][0].onsets[:0])
    trained = run((sessions[0], [silent]), tmp_path / "silent")
    assert all("val_cer" not in entry for entry in trained.curves)
    last = torch.load(tmp_path / "silent" / "last.ckpt", weights_only=False)["state_dict"]
    assert torch.equal(trained.model.head.weight, last["model.head.weight"])
    rare = run(sessions, tmp_path / "rare", replace(TINY, train=replace(TINY.train, validate_every=50)))
    assert ["val_cer" in entry for entry in rare.curves] == [False, False, False, True]


def test_a_best_model_of_a_run_without_checkpoint_is_not_kept(sessions: Sessions, tmp_path: Path) -> None:
    (tmp_path / "run" / "best").mkdir(parents=True)
    (tmp_path / "run" / "best" / "left.over").touch()
    run(sessions, tmp_path / "run")
    assert {path.name for path in (tmp_path / "run" / "best").iterdir()} == {"config.json", "model.safetensors"}


def test_jitter_must_fit_into_a_window() -> None:
    with pytest.raises(EmgscribeError, match=r"augment\.jitter\.samples is 2000"):
        replace(TINY, augment=Augmentation(jitter=AlignmentJitter(2000)))
