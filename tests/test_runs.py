"""From data to result file: what trains on what, what a run starts from, and a suite of runs."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch
from rich.console import Console

from emgscribe.config import to_json
from emgscribe.data.session import Session
from emgscribe.data.splits import DataConfig
from emgscribe.data.windows import WindowConfig
from emgscribe.errors import EmgscribeError
from emgscribe.experiments import run as runs
from emgscribe.experiments.recipes import Experiment
from emgscribe.experiments.results import read_result
from emgscribe.experiments.run import data_hash, run_experiment
from emgscribe.files import read_json, write_json
from emgscribe.models.attention import AttentionConfig
from emgscribe.models.augment import AlignmentJitter, Augmentation, SpecAugment
from emgscribe.models.encoders import TdsConfig
from emgscribe.models.features import FeaturesConfig, SpectrogramConfig, StridedConvConfig
from emgscribe.models.model import ModelConfig, load_model
from emgscribe.simulation import simulate
from emgscribe.training.config import TrainConfig

QUIET = Console(quiet=True)
TINY = Experiment(
    name="tiny",
    model=ModelConfig(SpectrogramConfig(n_fft=64, hop=64), TdsConfig(24, 1, 4, 4, 2)),
    windows=WindowConfig(length=2000, stride=2000, left=0, right=0),
    augment=Augmentation(jitter=AlignmentJitter(20), spec=SpecAugment(1, 3, 1, 4)),
    train=TrainConfig(epochs=2, batch_size=4, warmup_epochs=1, seed=5),
    data=DataConfig(train_users=(0,), test_users=(0,)),
)
RAW = StridedConvConfig(strides=(8, 8), filters=(4,), bins=6)


def run(experiment: Experiment, data: Path, folder: Path) -> dict:
    run_experiment(experiment, data, runs=folder / "runs", results=folder / "results", console=QUIET)
    return read_json(folder / "results" / f"{experiment.name}-{experiment.train.seed}.json")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two simulated users with four sessions of 12 s each, in the data set's layout."""
    folder = tmp_path_factory.mktemp("two-users")
    simulate(folder, users=2, sessions=4, minutes=0.2)
    return folder


def test_data_hash_is_of_the_content_not_of_the_order(make_stored: Callable[..., Session]) -> None:
    first = make_stored(keys=[(1, 5), (2, 9)])
    second = replace(first, name="other")
    both = data_hash([first, second])
    assert both == data_hash([second, first])
    assert both != data_hash([first, first])
    assert both != data_hash([first])
    assert data_hash([replace(first, content="other samples")]) != data_hash([first])


@pytest.mark.parametrize(
    "changes",
    [
        {"decimation": 2, "n_fft": 32, "hop": 32},
        {"electrodes": (0, 4, 8, 12)},
        {"bands": (1,)},
        {"edges": (1, 4, 9, 33)},
        {"n_fft": 32, "hop": 20},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_every_lever_of_the_spectra_trains_and_is_tested_on_session_files(data: Path, tmp_path: Path, changes) -> None:
    check_lever(replace(TINY.model.features, **changes), data, tmp_path)


def test_learned_features_train_and_are_tested_on_session_files(data: Path, tmp_path: Path) -> None:
    check_lever(RAW, data, tmp_path)


def check_lever(features: FeaturesConfig, data: Path, folder: Path) -> None:
    record = run(replace(TINY, model=replace(TINY.model, features=features)), data, folder)
    assert record["data"]["kind"] == "simulated"
    assert record["experiment"]["model"]["features"] == to_json(ModelConfig(features))["features"]
    assert sum(unit[3] for session in record["test"]["greedy"]["sessions"] for unit in session["units"]) > 20
    assert load_model(folder / "runs" / "tiny-5" / "best").config.features == features


@pytest.mark.parametrize(
    ("encoder", "augment"),
    [
        (replace(TINY.model.encoder, reduction=12, reduction_kernel=3), TINY.augment),
        (replace(TINY.model.encoder, reduction=12, reduction_kernel=3, reduction_back=True), TINY.augment),
        (replace(TINY.model.encoder, rolling=5), TINY.augment),
    ],
    ids=["reduction", "there-and-back", "rolling"],
)
def test_every_lever_before_the_encoder_trains(data: Path, tmp_path: Path, encoder, augment) -> None:
    record = run(replace(TINY, model=replace(TINY.model, encoder=encoder), augment=augment), data, tmp_path)
    assert len(record["curves"]) == 2


def test_a_second_head_has_a_score_of_its_own(data: Path, tmp_path: Path) -> None:
    second = AttentionConfig(1, 16, 2, 16)
    record = run(replace(TINY, model=replace(TINY.model, attention=second)), data, tmp_path)
    assert list(record["test"]) == ["greedy", "attention"]
    assert record["test"]["attention"]["passes"].startswith("windows of 1 s,")  # as in training
    read = read_result(tmp_path / "results" / "tiny-5.json")
    assert [run.decoder for run in read] == ["greedy", "attention"]
    assert read[0].counts.length == read[1].counts.length > 20
    assert load_model(tmp_path / "runs" / "tiny-5" / "best").config.attention == second


def test_a_result_is_not_replaced_by_one_of_other_settings_or_sessions(data: Path, tmp_path: Path) -> None:
    first = run(TINY, data, tmp_path)
    path = tmp_path / "results" / "tiny-5.json"
    write_json(path, first | {"test": first["test"] | {"beam": first["test"]["greedy"]}})
    assert list(run(TINY, data, tmp_path)["test"]) == ["greedy", "beam"]  # the same model: what a beam read holds
    kept = path.read_bytes()
    longer = replace(TINY, train=replace(TINY.train, epochs=3))
    with pytest.raises(EmgscribeError, match=r"tiny-5.json: is of .* this name with other settings\n.*--results"):
        run_experiment(longer, data, runs=tmp_path / "b", results=path.parent, console=QUIET)
    elsewhere = tmp_path / "elsewhere"
    simulate(elsewhere, users=1, sessions=3, minutes=0.2, seed=9)
    with pytest.raises(EmgscribeError, match=r"tiny-5.json: is of this experiment on other sessions"):
        run_experiment(TINY, elsewhere, runs=tmp_path / "b", results=path.parent, console=QUIET)
    assert path.read_bytes() == kept
    assert not (tmp_path / "b").exists()  # said before training


def test_a_result_names_the_code_that_trained_and_the_code_that_tested(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (runs, import_module("emgscribe.training.run")):
        monkeypatch.setattr(module, "current_commit", lambda: commit)
    commit = "first"
    assert run(TINY, data, tmp_path)["commit"] == "first"
    commit = "second"
    assert run(TINY, data, tmp_path)["commit"] == "first, second"  # nothing was trained anew


def test_one_user_trains_and_another_tests(data: Path, tmp_path: Path) -> None:
    record = run(replace(TINY, data=DataConfig(train_users=(1,), test_users=(0,), sessions=1)), data, tmp_path)
    assert [len(record["data"][part]) for part in ("train", "val", "test")] == [1, 1, 1]
    users = {part: record["data"][part][0].split("@1-")[1] for part in ("train", "val", "test")}
    assert users["train"] == users["val"] != users["test"]


def test_minutes_cut_the_training_data_and_nothing_else(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, list[Session]] = {}

    def fit(*_: object, train_sessions: list, val_sessions: list, **__: object) -> None:
        seen["train"], seen["val"] = train_sessions, val_sessions
        raise EmgscribeError("enough")

    experiment = replace(TINY, data=replace(TINY.data, minutes=0.25))
    monkeypatch.setattr(runs, "fit", fit)
    with pytest.raises(EmgscribeError, match="enough"):
        run(experiment, data, tmp_path)
    assert [len(session) for session in seen["train"]] == [24000, 6000]
    assert [len(session) for session in seen["val"]] == [24000]
    cut = seen["train"][1]
    assert (cut.onsets < 6000).all()
    assert len(cut.labels) == len(cut.onsets)
    assert ":" in cut.content


def test_a_run_starts_from_another_ones_weights(data: Path, tmp_path: Path) -> None:
    run(TINY, data, tmp_path)
    still = replace(TINY.train, epochs=1, lr=1e-12, lr_start=1e-12, lr_end=1e-12)
    run(replace(TINY, name="adapted", start="tiny", train=still), data, tmp_path)
    before, after = (load_model(tmp_path / "runs" / f"{name}-5" / "best") for name in ("tiny", "adapted"))
    assert all(torch.allclose(p, q, atol=1e-6) for p, q in zip(before.parameters(), after.parameters(), strict=True))


def test_a_run_cannot_start_from_what_is_missing_or_of_another_kind(data: Path, tmp_path: Path) -> None:
    with pytest.raises(EmgscribeError, match="adapted starts from tiny, which has not been trained with this seed"):
        run(replace(TINY, name="adapted", start="tiny"), data, tmp_path)
    run(TINY, data, tmp_path)
    other = replace(TINY.model, encoder=TdsConfig(24, 1, 4, 5, 2))
    with pytest.raises(EmgscribeError, match="another network"):
        run(replace(TINY, name="adapted", start="tiny", model=other), data, tmp_path)


def test_a_leak_through_an_ancestor_is_refused_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = sorted(simulate(tmp_path / "five", users=1, sessions=5, minutes=0.1))
    run(TINY, tmp_path / "five", tmp_path)
    (tmp_path / "three").mkdir()
    for path in paths[:3]:  # those that trained; in a folder of their own the last one tests
        shutil.copy(path, tmp_path / "three")
    adapted = replace(TINY, name="adapted", start="tiny")
    monkeypatch.setattr(runs, "fit", None)
    with pytest.raises(EmgscribeError, match="was trained on this session") as caught:
        run(adapted, tmp_path / "three", tmp_path)
    assert caught.value.where == paths[2].stem


def test_an_unseen_user_is_one_whom_no_ancestor_has_seen(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(TINY, data, tmp_path)  # on user 0

    def fit(*_: object, **__: object) -> None:
        raise EmgscribeError("trains")

    monkeypatch.setattr(runs, "fit", fit)
    adapted = replace(TINY, name="adapted", start="tiny")
    unseen = replace(adapted, data=DataConfig(train_users=(1,), test_users=(0,)))
    with pytest.raises(EmgscribeError, match="is to be unseen"):
        run(unseen, data, tmp_path)
    with pytest.raises(EmgscribeError, match="trains"):
        run(replace(unseen, start=""), data, tmp_path)
    for users in ({"train_users": (0, 1), "test_users": (0,)}, {"train_users": (1,)}, {"test_users": (0,)}):
        with pytest.raises(EmgscribeError, match="trains"):
            run(replace(adapted, data=DataConfig(**users)), data, tmp_path)
