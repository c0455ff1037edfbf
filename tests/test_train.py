"""Training: schedule, losses, exact resuming, and clear stops."""

import copy
import math
import os
import pickle
import signal
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from rich.console import Console
from torch import nn

from emgscribe.data.charset import BLANK
from emgscribe.data.session import Session, open_sessions
from emgscribe.data.windows import Batch, WindowConfig
from emgscribe.errors import EmgscribeError
from emgscribe.files import read_json, write_json
from emgscribe.models.ancestry import Seen
from emgscribe.models.attention import AttentionConfig
from emgscribe.models.augment import AlignmentJitter, Augmentation, SpecAugment
from emgscribe.models.encoders import ENCODERS, RecurrentConfig, TdsConfig
from emgscribe.models.features import SpectrogramConfig
from emgscribe.models.model import Model, ModelConfig, load_ancestry, load_model
from emgscribe.simulation import simulate_session
from emgscribe.training import Recipe, Trained, cut, fit, loop, resolve_precision
from emgscribe.training import run as run_module
from emgscribe.training.config import TrainConfig

TINY = Recipe(
    model=ModelConfig(SpectrogramConfig(n_fft=64, hop=64), TdsConfig(24, 1, 4, 4, 2)),
    windows=WindowConfig(2000, 2000, 0, 0),
    augment=Augmentation(jitter=AlignmentJitter(20), spec=SpecAugment(1, 4, 1, 2)),
    train=TrainConfig(epochs=4, batch_size=4, lr=1e-2, warmup_epochs=1, keypress_weight=1.0, clip_norm=1.0, seed=3),
)
DROPPING = RecurrentConfig(base=replace(TINY.model.encoder, dropout=0.4), hidden=8, cell="lstm", dropout=0.4)
TWO_HEADED = replace(TINY, model=replace(TINY.model, attention=AttentionConfig(1, 16, 2, 16, dropout=0.4)))
AVERAGED = replace(
    TINY,
    model=ModelConfig(TINY.model.features, DROPPING),
    train=replace(TINY.train, ema=0.9, dropout_ramp=0.6, long_windows=0.5, long_factor=4),
)
"""Epochs of 4, 4, 3 and 3 steps on the session below."""
Sessions = tuple[list[Session], list[Session]]


@pytest.fixture(scope="module")
def sessions(tmp_path_factory: pytest.TempPathFactory) -> Sessions:
    folder = tmp_path_factory.mktemp("sessions")
    paths = [folder / f"{number}.hdf5" for number in range(2)]
    for number, path in enumerate(paths):
        simulate_session(path, user=1, session=number, minutes=0.25, seed=0)
    train, val = open_sessions(paths, folder / "cache")
    return [train], [val]


def run(sessions: Sessions, folder: Path, recipe: Recipe = TINY, start: Path | None = None) -> Trained:
    console = Console(file=(folder.parent / "log.txt").open("w"))
    train, val = sessions
    with console.file:
        return fit(recipe, train_sessions=train, val_sessions=val, folder=folder, start=start, console=console)


def weights(model: Model) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def checkpoint(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "last.ckpt", weights_only=False)["state_dict"]


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


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


def test_both_heads_learn_by_their_shares_of_the_loss(sessions: Sessions, tmp_path: Path, monkeypatch) -> None:
    parts: list[torch.Tensor] = []
    smoothed: list[float] = []
    losses: list[torch.Tensor] = []
    ctc, attention, step = loop.ctc_loss, loop.attention_loss, loop.Training.training_step

    def noted_ctc(emissions: torch.Tensor, batch: Batch, model: Model) -> torch.Tensor:
        parts.append(ctc(emissions, batch, model))
        return parts[-1]

    def noted_attention(frames: torch.Tensor, batch: Batch, model: Model, smoothing: float = 0.0) -> torch.Tensor:
        smoothed.append(smoothing)
        parts.append(attention(frames, batch, model, smoothing))
        return parts[-1]

    def noted_step(self, batch, batch_idx):
        parts.clear()
        losses.append(step(self, batch, batch_idx) - (0.8 * parts[0] + 0.2 * parts[1]))
        return losses[-1] + (0.8 * parts[0] + 0.2 * parts[1])

    monkeypatch.setattr(loop, "ctc_loss", noted_ctc)
    monkeypatch.setattr(loop, "attention_loss", noted_attention)
    monkeypatch.setattr(loop.Training, "training_step", noted_step)
    shares = replace(TINY.train, epochs=8, keypress_weight=0.0, attention_weight=0.2, label_smoothing=0.05)
    trained = run(sessions, tmp_path / "run", replace(TWO_HEADED, train=shares))
    assert max(loss.abs().item() for loss in losses) < 1e-5
    assert set(smoothed) == {0.05, 0.0}  # validation measures the plain loss
    for name in ("train_loss", "train_attention_loss", "val_attention_loss"):
        assert trained.curves[-1][name] < 0.9 * trained.curves[0][name]
    header = (tmp_path / "run" / "curves.csv").read_text().splitlines()[0]
    assert header == "epoch,step,lr,train_loss,val_loss,val_cer,train_attention_loss,val_attention_loss"


def test_seed_decides_the_result(sessions: Sessions, tmp_path: Path) -> None:
    first, again = run(sessions, tmp_path / "a"), run(sessions, tmp_path / "b")
    other = run(sessions, tmp_path / "c", replace(TINY, train=replace(TINY.train, seed=4)))
    assert torch.equal(weights(first.model), weights(again.model))
    assert curves(first) == curves(again)
    assert not torch.equal(weights(first.model), weights(other.model))


@pytest.mark.parametrize(
    ("recipe", "step"),
    [(TINY, 3), (TINY, 5), (AVERAGED, 5), (AVERAGED, 9), (AVERAGED, 12), (TWO_HEADED, 9)],
    ids=["1st-epoch", "2nd-epoch", "averaged", "averaged-1st-long-epoch", "averaged-2nd-long-epoch", "two-headed"],
)
def test_interrupted_run_resumes_to_the_same_end(
    sessions, tmp_path: Path, monkeypatch, recipe: Recipe, step: int
) -> None:
    whole = run(sessions, tmp_path / "whole", recipe)
    original = loop.Training.training_step
    handler = signal.getsignal(signal.SIGINT)

    def interrupted(self, batch, batch_idx):
        if self.global_step == step:
            raise KeyboardInterrupt
        return original(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Training, "training_step", interrupted)
        patch.setattr(run_module, "current_commit", lambda: "earlier")
        with pytest.raises(KeyboardInterrupt):
            run(sessions, tmp_path / "cut", recipe)
    assert signal.getsignal(signal.SIGINT) is handler
    earlier = ["earlier"] if (tmp_path / "cut" / "last.ckpt").exists() else []  # else nothing of it was kept
    resumed = run(sessions, tmp_path / "cut", recipe)
    assert same(resumed.model.state_dict(), whole.model.state_dict())
    assert same(checkpoint(tmp_path / "cut"), checkpoint(tmp_path / "whole"))
    assert curves(resumed) == curves(whole)
    assert resumed.commits == [*earlier, *whole.commits]
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
        "from emgscribe.training import fit, loop\n"
        "original = loop.Training.training_step\n"
        "def killed(self, batch, batch_idx):\n"
        "    if self.global_step == 6: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return original(self, batch, batch_idx)\n"
        "loop.Training.training_step = killed\n"
        "recipe, train, val = pickle.loads(Path(sys.argv[1]).read_bytes())\n"
        "from emgscribe.data.session import open_sessions\n"
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


def test_a_run_from_before_there_was_a_setting_goes_on(sessions: Sessions, tmp_path: Path) -> None:
    run(sessions, tmp_path / "run")
    noted = read_json(tmp_path / "run" / "settings.json")
    del noted["train"]["ema"]
    write_json(tmp_path / "run" / "settings.json", noted)
    run(sessions, tmp_path / "run")
    write_json(tmp_path / "run" / "settings.json", noted)
    with pytest.raises(EmgscribeError, match=r"other settings \(train\)"):
        run(sessions, tmp_path / "run", replace(TINY, train=replace(TINY.train, ema=0.5)))


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


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[: len(whole) // 2],
        lambda whole: b"",
        lambda whole: whole[:3],
        lambda whole: b"no checkpoint at all",
        lambda whole: pickle.dumps({"another": "program's"}),
    ],
    ids=["half", "empty", "first-bytes", "text", "foreign"],
)
def test_a_damaged_checkpoint_is_told_and_kept(sessions: Sessions, tmp_path: Path, damage) -> None:
    recipe = replace(TINY, train=replace(TINY.train, epochs=1))
    run(sessions, tmp_path / "run", recipe)
    path = tmp_path / "run" / "last.ckpt"
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)
    before = sorted(path.name for path in (tmp_path / "run").rglob("*"))
    with pytest.raises(EmgscribeError, match="is damaged") as caught:
        run(sessions, tmp_path / "run", recipe)
    assert caught.value.where == str(path)
    assert caught.value.hint == "delete it: training begins anew"
    assert path.read_bytes() == damaged
    assert sorted(path.name for path in (tmp_path / "run").rglob("*")) == before
    path.unlink()
    assert len(run(sessions, tmp_path / "run", recipe).curves) == 1


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
        ("attention_weight", -0.1),
        ("attention_weight", 1.1),
        ("label_smoothing", -0.1),
        ("label_smoothing", 1.0),
        ("ema", 1.0),
        ("ema", -0.1),
        ("blank_prior", 1.0),
        ("blank_prior", -0.1),
        ("ema", math.nan),
        ("dropout_ramp", 1.5),
        ("dropout_ramp", -0.1),
        ("long_windows", 1.5),
        ("long_windows", -0.1),
        ("long_factor", 0),
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
    (tmp_path / "run" / ".last.ckpt.abc" / "last.ckpt").mkdir(parents=True)
    run(sessions, tmp_path / "run")
    assert {path.name for path in (tmp_path / "run" / "best").iterdir()} == {"config.json", "model.safetensors"}
    assert not (tmp_path / "run" / ".last.ckpt.abc").exists()


def test_jitter_must_fit_into_a_window() -> None:
    with pytest.raises(EmgscribeError, match=r"augment\.jitter\.samples is 2000"):
        replace(TINY, augment=Augmentation(jitter=AlignmentJitter(2000)))


def silent(sessions: Sessions) -> Sessions:
    """No keystroke to validate by, so that the latest model is kept."""
    mute = replace(sessions[1][0], labels=sessions[1][0].labels[:0], onsets=sessions[1][0].onsets[:0])
    return sessions[0], [mute]


def test_training_begins_at_the_blank_prior(sessions: Sessions, tmp_path: Path, monkeypatch) -> None:
    begun: dict[float, nn.Linear] = {}
    step = loop.Training.training_step

    def noting(self: loop.Training, batch: Batch, batch_idx: int) -> torch.Tensor:
        begun.setdefault(self.config.blank_prior, copy.deepcopy(self.model.head))
        return step(self, batch, batch_idx)

    monkeypatch.setattr(loop.Training, "training_step", noting)
    for prior in (0.0, 0.8):
        config = replace(TINY.train, blank_prior=prior, epochs=1)
        run(sessions, tmp_path / str(prior), replace(TINY, train=config))
    assert torch.equal(begun[0.0].weight, begun[0.8].weight), "nothing else changes"
    shares = begun[0.8].bias.softmax(dim=0)
    assert shares[BLANK].item() == pytest.approx(0.8)
    assert torch.allclose(shares[:BLANK], shares[0])
    assert begun[0.0].bias.abs().max() < 1


def test_a_trained_head_keeps_its_bias(sessions: Sessions, tmp_path: Path) -> None:
    run(sessions, tmp_path / "first", replace(TINY, train=replace(TINY.train, epochs=1)))
    config = replace(TINY.train, epochs=1, lr=1e-9, lr_start=1e-9, lr_end=1e-9, blank_prior=0.8)
    start = tmp_path / "first" / "best"
    trained = run(sessions, tmp_path / "second", replace(TINY, train=config), start=start)
    assert torch.allclose(trained.model.head.bias, load_model(start).head.bias, atol=1e-5)


def test_the_average_is_of_all_steps_and_is_what_is_kept(sessions: Sessions, tmp_path: Path, monkeypatch) -> None:
    seen: list[dict[str, torch.Tensor]] = []
    original = loop.follow

    def follow(average: Model, model: Model, decay: float) -> None:
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        original(average, model, decay)

    monkeypatch.setattr(loop, "follow", follow)
    averaged = replace(TINY, train=replace(TINY.train, ema=0.8))
    kept = run(silent(sessions), tmp_path / "averaged", averaged).model.state_dict()
    assert len(seen) == 16
    torch.manual_seed(TINY.train.seed)
    expected = Model(TINY.model).state_dict()
    for step, now in enumerate(seen):
        decay = min(0.8, (1 + step) / (10 + step))
        expected = {name: decay * mean + (1 - decay) * now[name] for name, mean in expected.items()}
    counts = [name for name in expected if name.endswith("num_batches_tracked")]
    assert counts
    assert [int(kept[name]) for name in counts] == [16] * len(counts)
    for name in set(expected) - set(counts):
        torch.testing.assert_close(kept[name], expected[name])
        assert not torch.equal(kept[name], seen[-1][name])
    assert any("running_var" in name for name in kept)


def test_averaging_does_not_change_the_training(sessions: Sessions, tmp_path: Path) -> None:
    plain = run(sessions, tmp_path / "plain")
    averaged = run(sessions, tmp_path / "averaged", replace(TINY, train=replace(TINY.train, ema=0.8)))
    ours = {name: value for name, value in checkpoint(tmp_path / "averaged").items() if name.startswith("model.")}
    assert same(ours, checkpoint(tmp_path / "plain"))
    assert [e["train_loss"] for e in averaged.curves] == [e["train_loss"] for e in plain.curves]
    assert all(a["val_loss"] != p["val_loss"] for a, p in zip(averaged.curves, plain.curves, strict=True))


def test_the_average_is_what_is_validated(sessions: Sessions, tmp_path: Path) -> None:
    recipe = replace(TINY, train=replace(TINY.train, ema=0.8))
    trained = run(sessions, tmp_path / "run", recipe)
    windows = cut(sessions[1], recipe.windows, trained.model, torch.device("cpu"))
    with torch.no_grad():
        pairs = [
            (loop.ctc_loss(trained.model(batch), batch, trained.model), len(batch))
            for batch in windows.batches(windows.tiling(), 4)
        ]
    loss = float(sum(mean * items for mean, items in pairs)) / sum(items for _, items in pairs)
    best = min(trained.curves, key=lambda entry: entry["val_cer"])
    assert loss == pytest.approx(best["val_loss"], rel=1e-5)


def test_dropout_rises_to_its_setting(sessions: Sessions, tmp_path: Path, monkeypatch) -> None:
    rates: list[set[float]] = []

    def ctc_loss(emissions: torch.Tensor, batch: Batch, model: Model) -> torch.Tensor:
        if model.training:
            found = {module.p for module in model.modules() if isinstance(module, nn.Dropout)}
            rates.append(found | {module.dropout for module in model.modules() if isinstance(module, nn.LSTM)})
        return original(emissions, batch, model)

    original = loop.ctc_loss
    monkeypatch.setattr(loop, "ctc_loss", ctc_loss)
    for share, folder in ((0.5, "rising"), (0.0, "constant")):
        train = replace(TINY.train, dropout_ramp=share)
        run(sessions, tmp_path / folder, replace(AVERAGED, train=train))
    rising = [{min(1.0, step / 8) * 0.4} for step in range(16)]
    assert rates == [*rising, *[{0.4}] * 16]


@pytest.mark.parametrize("kind", ENCODERS)
def test_no_dropout_of_any_encoder_is_forgotten(kind: str) -> None:
    """Training mode draws nothing once every rate that is found is 0: attention's and recurrent layers' among them."""
    names = {field.name for field in fields(ENCODERS[kind])}
    dropping: dict[str, Any] = {"dropout": 0.5} if "dropout" in names else {}
    if "base" in names and not dropping:
        dropping = {"base": replace(TINY.model.encoder, dropout=0.5)}
    model = Model(ModelConfig(TINY.model.features, ENCODERS[kind](**dropping))).train()
    emg = torch.randn(2, 4000, 2, 16)
    none = torch.zeros(2, 0, dtype=torch.int64)
    batch = Batch(emg, 0, 0, torch.tensor([4000, 4000]), none, torch.zeros(2, dtype=torch.int64), none)

    def drawn() -> bool:
        with torch.no_grad():
            return not torch.equal(model(batch), model(batch))

    assert drawn() == bool(dropping)
    for module, name, _ in loop.dropouts(model):
        setattr(module, name, 0.0)
    assert not drawn()


def test_no_dropout_of_the_second_head_is_forgotten() -> None:
    model = Model(TWO_HEADED.model).train()
    assert model.attention is not None
    heard = torch.randn(2, 9, model.encoder.width), torch.tensor([9, 9]), torch.tensor([[1, 2, 3], [4, 5, 6]])
    assert not torch.equal(model.attention(*heard), model.attention(*heard))
    for module, name, _ in loop.dropouts(model):
        setattr(module, name, 0.0)
    assert torch.equal(model.attention(*heard), model.attention(*heard))


def test_long_windows_come_last_and_a_step_sees_as_much(sessions: Sessions, tmp_path: Path, monkeypatch) -> None:
    steps: list[tuple[int, int]] = []
    original = loop.Training.training_step

    def noted(self, batch, batch_idx):
        steps.append((batch.labelled, len(batch)))
        return original(self, batch, batch_idx)

    monkeypatch.setattr(loop.Training, "training_step", noted)
    trained = run(sessions, tmp_path / "run", AVERAGED)
    # 15 windows of 2,000 samples in batches of 4, then 3 of 8,000 one by one.
    assert steps == [*[(2000, 4), (2000, 4), (2000, 4), (2000, 3)] * 2, *[(8000, 1)] * 6]
    assert [entry["step"] for entry in trained.curves] == [4, 8, 11, 14]
    assert trained.curves[-1]["lr"] == pytest.approx(AVERAGED.train.lr_end)
    assert trained.curves[-2]["lr"] > 2 * AVERAGED.train.lr_end


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_model_knows_its_own_and_its_ancestors_sessions(sessions: Sessions, tmp_path: Path, ema: float) -> None:
    recipe = replace(TINY, train=replace(TINY.train, epochs=1, ema=ema))
    (first,), (second,) = sessions
    run(sessions, tmp_path / "parent", recipe)
    quiet = Console(quiet=True)
    child = fit(
        recipe, train_sessions=[second.first(20_000)], val_sessions=[first], folder=tmp_path / "child",
        start=tmp_path / "parent" / "best", console=quiet,
    ).model  # fmt: skip
    kept = load_ancestry(tmp_path / "child" / "best")
    assert child.ancestry == kept
    assert [seen.content for seen in kept.trained_on] == [first.content, f"{second.content}:20000"]
    assert [seen.content for seen in kept.validated_on] == [second.content, first.content]
    assert kept.trained_on[0] == Seen(first.content, first.name, first.user)
    assert kept.complete


def test_a_start_is_known_by_what_it_is_not_by_where(sessions: Sessions, tmp_path: Path, monkeypatch) -> None:
    recipe = replace(TINY, train=replace(TINY.train, epochs=1))
    run(sessions, tmp_path / "parent", recipe)
    monkeypatch.chdir(tmp_path)
    run(sessions, tmp_path / "child", recipe, start=Path("parent/best"))
    run(sessions, tmp_path / "child", recipe, start=tmp_path / "parent/best")
    (tmp_path / "parent" / "best" / "beam.json").write_text("tuned meanwhile")
    run(sessions, tmp_path / "child", recipe, start=tmp_path / "parent/best")
    moved = (tmp_path / "parent").rename(tmp_path / "moved") / "best"
    run(sessions, tmp_path / "child", recipe, start=moved)
    run((sessions[1], sessions[0]), tmp_path / "parent", recipe)  # on other sessions, in the same place
    for start in (tmp_path / "parent/best", None):
        with pytest.raises(EmgscribeError, match=r"other settings \(start\)"):
            run(sessions, tmp_path / "child", recipe, start=start)
    with pytest.raises(EmgscribeError, match="no model here"):
        run(sessions, tmp_path / "new", recipe, start=tmp_path / "absent")
    assert not (tmp_path / "new").exists()


def test_a_run_that_noted_its_start_by_its_place_goes_on(sessions: Sessions, tmp_path: Path, monkeypatch) -> None:
    recipe = replace(TINY, train=replace(TINY.train, epochs=1))
    run(sessions, tmp_path / "parent", recipe)
    run(sessions, tmp_path / "other", replace(recipe, train=replace(recipe.train, seed=8)))
    start, noted = tmp_path / "parent" / "best", tmp_path / "child" / "settings.json"
    run(sessions, tmp_path / "child", recipe, start=start)
    written = read_json(noted)
    monkeypatch.chdir(tmp_path)
    for place in (str(start), "parent/best"):
        write_json(noted, written | {"start": place})
        with pytest.raises(EmgscribeError, match=r"other settings \(start\)"):
            run(sessions, tmp_path / "child", recipe, start=tmp_path / "other" / "best")
        run(sessions, tmp_path / "child", recipe, start=start)
        assert read_json(noted) == written


def test_the_last_epoch_is_validated() -> None:
    assert TrainConfig(epochs=15, validate_every=5)
    with pytest.raises(EmgscribeError, match=r"train.validate_every is 10, allowed: a divisor of train.epochs = 15"):
        TrainConfig(epochs=15, validate_every=10)
