"""From data to result file: what trains on what, what a run starts from, and a suite of runs."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest
import tiny_suite
import torch
from rich.console import Console
from tiny_suite import brief

from emgscribe.config import to_json
from emgscribe.data.session import Session, open_session
from emgscribe.data.splits import DataConfig
from emgscribe.decoding.language_model import train
from emgscribe.errors import EmgscribeError
from emgscribe.experiments import run as runs
from emgscribe.experiments.recipes import Experiment, Simulated
from emgscribe.experiments.results import RunResult, data_hash
from emgscribe.experiments.run import Planned, missing, plan, result_path, run_experiment
from emgscribe.models.attention import AttentionConfig
from emgscribe.models.augment import AlignmentJitter
from emgscribe.models.encoders import TdsConfig
from emgscribe.models.ensemble import ensemble
from emgscribe.models.features import StridedConvConfig
from emgscribe.models.model import ModelConfig, load_model, stored_hash
from emgscribe.simulation import sessions as simulated_sessions
from emgscribe.simulation.sessions import simulate, simulate_session
from emgscribe.training import run as training

QUIET = Console(quiet=True)
TINY = brief(tiny_suite.TINY)


def run(experiment: Experiment, data: Path, folder: Path, *decoders: str, lm: Path | None = None) -> RunResult:
    """The result, read from its file."""
    places = {"runs": folder / "runs", "results": folder / "results"}
    result = run_experiment(experiment, data, **places, decoders=decoders, lm=lm, console=QUIET)
    stored = RunResult.read(result_path(experiment, places["results"]))
    for of in (lambda it: {name: test.to_json() for name, test in it.test.items()}, attrgetter("data", "settings")):
        assert of(stored) == of(result)
    return stored


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two simulated users with four sessions of 12 s each, in the data set's layout."""
    folder = tmp_path_factory.mktemp("two-users")
    simulate(folder, users=2, sessions=4, minutes=0.2)
    return folder


def test_data_hash_is_of_the_content_not_of_the_order(make_stored: Callable[..., Session]) -> None:
    first = make_stored(keys=[(1, 5), (2, 9)])
    second, third = replace(first, name="other"), replace(first, content="other samples")
    assert data_hash([first, second]) == data_hash([second, first])
    assert len(set(map(data_hash, ([first, second], [first, first], [first], [third])))) == 4


ENCODER = TINY.model.encoder
MODELS = [
    ModelConfig(replace(TINY.model.features, decimation=2, n_fft=32, hop=32, electrodes=(0, 4, 8, 12)), ENCODER),
    ModelConfig(replace(TINY.model.features, bands=(1,), edges=(1, 4, 9, 33), n_fft=64, hop=20), ENCODER),
    ModelConfig(StridedConvConfig(strides=(8, 8), filters=(4,), bins=6), ENCODER),
    ModelConfig(TINY.model.features, replace(ENCODER, reduction=12, reduction_kernel=3)),
    ModelConfig(TINY.model.features, replace(ENCODER, reduction=12, reduction_kernel=3, reduction_back=True)),
    ModelConfig(TINY.model.features, replace(ENCODER, rolling=5)),
]


@pytest.mark.parametrize("model", MODELS, ids=["rate-and-electrodes", "band-and-edges", "raw", "less", "back", "norm"])
def test_every_model_trains_and_is_tested_on_session_files(data: Path, tmp_path: Path, model: ModelConfig) -> None:
    result = run(replace(TINY, model=model), data, tmp_path)
    assert (result.data.kind, result.data.protocol, len(result.curves)) == ("simulated", "latest", 2)
    assert result.experiment["model"] == json.loads(json.dumps(to_json(model)))
    assert result.test["greedy"].counts.length > 20
    assert load_model(tmp_path / "runs" / "tiny-5" / "best").config == model


def test_a_second_head_has_a_score_of_its_own(data: Path, tmp_path: Path) -> None:
    second = AttentionConfig(1, 16, 2, 16)
    result = run(replace(TINY, model=replace(TINY.model, attention=second)), data, tmp_path)
    assert list(result.test) == ["greedy", "attention"]
    assert result.test["attention"].passes.startswith("windows of 1 s,")  # as in training
    assert result.test["greedy"].counts.length == result.test["attention"].counts.length > 20


def test_a_result_is_not_replaced_by_one_of_other_settings_or_sessions(data: Path, tmp_path: Path) -> None:
    run(TINY, data, tmp_path)
    path = tmp_path / "results" / "tiny-5.json"
    kept = path.read_bytes()
    simulate(elsewhere := tmp_path / "elsewhere", users=1, sessions=3, minutes=0.1, seed=9)
    for experiment, folder, reported in (
        (brief(TINY, epochs=3), data, r"is of .* other settings: train.epochs is 2 there, 3 here\n.*--name.*--results"),
        (TINY, elsewhere, r"is of this experiment on other sessions\n.*--results"),
    ):
        with pytest.raises(EmgscribeError, match=f"tiny-5.json: {reported}"):
            run_experiment(experiment, folder, runs=tmp_path / "b", results=path.parent, console=QUIET)
    assert path.read_bytes() == kept
    assert not (tmp_path / "b").exists()  # refused before training


def test_a_model_has_a_card(data: Path, tmp_path: Path) -> None:
    result = run(TINY, data, tmp_path)
    tuned = replace(TINY, name="tuned", start="tiny", data=DataConfig(train_users=(1,), test_users=(1,)))
    run(tuned, data, tmp_path)
    first, second = ((tmp_path / "runs" / name / "best" / "README.md").read_text() for name in ("tiny-5", "tuned-5"))
    (low, high), cer = result.test["greedy"].interval, result.test["greedy"].cer
    assert f"| CER, greedy | {cer:.1f} % ({low:.1f} to {high:.1f}, bootstrap over segments of 10 s)" in first
    assert "every number here, is of simulated people" in first
    assert "| trained on | 2 sessions of 1 person, 0.4 minutes |" in first
    assert "| network | tds, " in first
    assert "made from" not in first
    assert "| made from | `tiny` |\n| previously trained on | 2 other sessions |" in second
    assert re.search(r"\| cost \| [0-9.]+ ms for a second of EMG", first)


def test_further_decoders_are_scored_with_the_finished_run(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = train("the cat sat on the mat\n" * 20, order=3)
    words.write(tmp_path / "words.arpa")
    results, lm = tmp_path / "results", tmp_path / "words.arpa"
    greedy = run(TINY, data, tmp_path)
    assert missing([TINY], results, data, ["greedy"]) == []
    assert missing([TINY], results, data, ["greedy", "beam"]) == [TINY]
    both = run(TINY, data, tmp_path, "beam", lm=lm)
    assert list(both.test) == ["greedy", "beam"]
    assert both.test["greedy"] == greedy.test["greedy"]
    assert both.curves == greedy.curves  # nothing was trained
    assert both.settings["beam"]["language_model"] == words.digest
    assert both.settings["beam"]["tuned_on"] == list(both.data.val)
    assert missing([TINY], results, data, ["greedy", "beam"]) == []
    monkeypatch.setattr(runs, "tune_model", None)  # what is tuned for this language model stays
    assert run(TINY, data, tmp_path, "greedy", "beam", lm=lm).test["beam"] == both.test["beam"]
    assert list(run(TINY, data, tmp_path).test) == ["greedy", "beam"]  # same model, so the beam's score stays


def test_a_renamed_session_file_is_the_same_session(data: Path, tmp_path: Path) -> None:
    renamed = tmp_path / "renamed"
    shutil.copytree(data, renamed)
    run(TINY, renamed, tmp_path)
    for place, path in enumerate(sorted(renamed.glob("*.hdf5"))):
        path.rename(renamed / f"my-{place}.hdf5")
    assert missing([TINY], tmp_path / "results", renamed, ["greedy"]) == []
    other = run(TINY, renamed, tmp_path)
    other.data.contents[other.data.test[0]] = "of other samples"
    other.write(tmp_path / "results" / "tiny-5.json")
    with pytest.raises(EmgscribeError, match="on other sessions"):
        missing([TINY], tmp_path / "results", renamed)


def test_a_result_names_the_code_that_trained_and_the_code_that_tested(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "current_commit", lambda: commit)
    commit = "first"
    assert run(TINY, data, tmp_path).commit == "first"
    commit = "second"
    assert run(TINY, data, tmp_path).commit == "first, second"  # nothing was trained again


def test_a_plan_knows_what_is_done_cut_off_and_missing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[Experiment] = []

    def seconds(experiment: Experiment, train: list[Session], val: list[Session], *, teachers: int) -> float:
        measured.append(experiment)
        return 10.0 * len(train) + len(val)

    run(TINY, data, tmp_path)
    seeds = [brief(TINY, seed=seed, epochs=4) for seed in (6, 7)]
    cut = tmp_path / "runs" / "tiny-6"
    cut.mkdir()
    (cut / "last.ckpt").touch()
    (cut / "curves.csv").write_text("epoch,val_cer\n0,90\n")
    seeds[1] = replace(seeds[1], augment=replace(seeds[1].augment, jitter=AlignmentJitter(0)))
    few = replace(brief(TINY, seed=8), name="few", data=replace(TINY.data, minutes=0.3))
    monkeypatch.setattr(training, "estimate_seconds", seconds)
    assert list(plan([TINY, *seeds, few], data, runs=tmp_path / "runs", results=tmp_path / "results")) == [
        Planned("tiny-5", "done", 0.0),
        Planned("tiny-6", "cut off", 21 * 0.75),
        Planned("tiny-7", "missing", 21.0),
        Planned("few-8", "missing", 21.0),
    ]
    assert len(measured) == 2  # runs that differ only in seed and augmentation are measured once
    (cut / "curves.csv").write_bytes(b"epoch,val_cer\n0,9\xf8")  # damaged: it says nothing about the run
    again = plan(seeds[:1], data, runs=tmp_path / "runs", results=tmp_path / "results")
    assert list(again) == [Planned("tiny-6", "cut off", 21.0)]
    assert not (tmp_path / "none").exists()


def test_a_plan_of_sessions_to_be_simulated_simulates_one_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    minutes: list[float] = []

    def write(path: Path, **settings: float) -> None:
        minutes.append(settings["minutes"])
        simulate_session(path, user=0, session=0, minutes=0.1, seed=0)

    def seconds(experiment: Experiment, train: list[Session], val: list[Session], *, teachers: int) -> float:
        return 10.0 * len(train) + len(val)

    monkeypatch.setattr(simulated_sessions, "simulate_session", write)
    monkeypatch.setattr(training, "estimate_seconds", seconds)
    made = Simulated("later", users=2, sessions=6, minutes=16.0)
    usual, few = replace(TINY, data=DataConfig()), replace(brief(TINY, seed=6), data=DataConfig(sessions=2))
    planned = plan([usual, replace(few, name="few")], made, runs=tmp_path / "none", results=tmp_path / "none")
    assert list(planned) == [
        Planned("tiny-5", "missing", 10.0 * 2 * 4 * 16 + 2 * 16),
        Planned("few-6", "missing", 10.0 * 2 * 2 * 16 + 2 * 16),
    ]
    assert minutes == [1.0]
    assert not (tmp_path / "none").exists()


def test_test_sessions_without_a_key_are_refused_before_training(
    make_session: Callable[..., Path], tmp_path: Path
) -> None:
    sessions = {make_session(name, keys=[]).parent for name in "abc"}
    with pytest.raises(EmgscribeError, match="no test session has a usable key to score"):
        run(TINY, sessions.pop(), tmp_path)
    assert not (tmp_path / "runs").exists()


def test_users_for_training_and_testing_can_differ(data: Path, tmp_path: Path) -> None:
    used = run(replace(TINY, data=DataConfig(train_users=(1,), test_users=(0,), sessions=1)), data, tmp_path).data
    train, val, test = (name.split("@1-")[1] for (name,) in (used.train, used.val, used.test))
    assert train == val != test


def stop(monkeypatch: pytest.MonkeyPatch) -> list[list[Session]]:
    """From now on a run ends when it would train, with the error `trains`; returns what it would train on."""
    seen: list[list[Session]] = []

    def train(_: object, *parts: list[Session], **__: object) -> None:
        seen.extend(parts)
        raise EmgscribeError("trains")

    monkeypatch.setattr(training, "train", train)
    return seen


def test_sessions_without_a_key_are_left_out_of_training(
    make_session: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for month in range(1, 5):
        path = make_session(f"2021-0{month}", samples=2000 + month, keys=[] if month == 2 else [("h", 0.3)])
    seen, printed = stop(monkeypatch), StringIO()
    with pytest.raises(EmgscribeError, match="trains"):
        run_experiment(TINY, path.parent, runs=tmp_path, results=tmp_path, console=Console(file=printed))
    assert [[session.name for session in part] for part in seen] == [["2021-01"], ["2021-03"]]
    left_out, sizes = printed.getvalue().splitlines()
    assert left_out == "2021-02 has no key with a label, and is left out"
    assert sizes == "1 sessions to train on, 1 to validate, 1 to test (protocol latest)"


def test_minutes_cut_the_training_data_and_nothing_else(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = stop(monkeypatch)
    with pytest.raises(EmgscribeError, match="trains"):
        run(replace(TINY, data=replace(TINY.data, minutes=0.25)), data, tmp_path)
    assert [[len(session) for session in part] for part in seen] == [[24000, 6000], [24000]]
    cut = seen[0][1]
    assert (cut.onsets < 6000).all()
    assert len(cut.labels) == len(cut.onsets)
    assert ":" in cut.content


def test_a_run_can_start_from_the_weights_of_another_run(data: Path, tmp_path: Path) -> None:
    adapted = replace(TINY, name="adapted", start="tiny")
    with pytest.raises(EmgscribeError, match="adapted needs tiny, which has not been trained with seed 5"):
        run(adapted, data, tmp_path)
    with pytest.raises(EmgscribeError, match="adapted needs runs/m/best") as caught:
        run(replace(adapted, start="runs/m/best"), data, tmp_path)
    assert "emgscribe adapt" in caught.value.hint
    assert not (tmp_path / "runs").exists()
    run(TINY, data, tmp_path)
    with pytest.raises(EmgscribeError, match="another network"):
        run(replace(adapted, model=replace(TINY.model, encoder=TdsConfig(24, 1, 4, 5, 2))), data, tmp_path)
    run(brief(adapted, epochs=1, lr=1e-12, lr_start=1e-12, lr_end=1e-12), data, tmp_path)
    before, after = (load_model(tmp_path / "runs" / f"{name}-5" / "best") for name in ("tiny", "adapted"))
    assert all(torch.allclose(p, q, atol=1e-6) for p, q in zip(before.parameters(), after.parameters(), strict=True))


def test_an_ensemble_is_a_run_of_several_seeds(data: Path, tmp_path: Path) -> None:
    member = brief(TINY, keypress_weight=0.5)
    both = replace(member, name="both", start="tiny", ensemble=2)
    run(member, data, tmp_path)
    with pytest.raises(EmgscribeError, match="both needs tiny, which has not been trained with seed 6"):
        run(both, data, tmp_path)
    run(brief(member, seed=6), data, tmp_path)
    result = run(both, data, tmp_path)
    made = load_model(tmp_path / "runs" / "both-5" / "best")
    members = [load_model(tmp_path / "runs" / f"tiny-{seed}" / "best") for seed in (5, 6)]
    session = open_session(sorted(data.glob("*.hdf5"))[0])
    np.testing.assert_allclose(made.log_probs(session), ensemble(members).log_probs(session), atol=1e-5)
    assert result.curves == []
    assert "ensemble of 2: tds" in (tmp_path / "runs" / "both-5" / "best" / "README.md").read_text()
    assert made.ancestry == members[0].ancestry
    suite = [both, replace(both, train=replace(both.train, seed=6))]
    planned = plan(suite, data, runs=tmp_path / "runs", results=tmp_path / "results")
    assert list(planned) == [Planned("both-5", "done", 0.0), Planned("both-6", "missing", 0.0)]
    for changes in ({"ensemble": 1}, {"start": ""}):
        with pytest.raises(EmgscribeError, match=r"ensemble is .*, allowed: 2 to 100 with a start or a teacher"):
            replace(both, **changes)


def test_a_network_learns_from_teachers_of_several_seeds(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in (5, 6):
        run(brief(TINY, seed=seed), data, tmp_path)
    student = brief(replace(TINY, name="student", teacher="tiny", ensemble=2), epochs=2)
    taught = run(student, data, tmp_path)
    assert "train_teacher_loss" in taught.curves[0]
    folder = tmp_path / "runs" / "student-5"
    noted = json.loads((folder / "settings.json").read_text())
    assert noted["teachers"] == [stored_hash(tmp_path / "runs" / f"tiny-{seed}" / "best") for seed in (5, 6)]
    assert noted["start"] is None
    assert repr(load_model(folder / "best")).startswith("<Model tds, ")
    assert "| made from | `tiny` as teacher, 2 seeds from 5 on |" in (folder / "best" / "README.md").read_text()
    own, timed = replace(student, name="own", teacher="", ensemble=0), list[int]()
    monkeypatch.setattr(training, "estimate_seconds", lambda *_, teachers: timed.append(teachers) or 1.0)
    places = {"runs": tmp_path / "runs", "results": tmp_path / "results"}
    states = [one.state for one in plan([student, brief(student, seed=6), own], data, **places)]
    assert (states, timed) == (["done", "missing", "missing"], [2, 0])
    with pytest.raises(EmgscribeError, match="student needs tiny, which has not been trained with seed 7"):
        run(brief(student, seed=6), data, tmp_path)
    assert missing([student, own], tmp_path / "other") == [own, student]  # student is last: it builds on others


def test_more_test_sessions_do_not_retrain_the_model(tmp_path: Path) -> None:
    data, later = tmp_path / "data", tmp_path / "later.hdf5"
    last = sorted(simulate(data, users=1, sessions=4, minutes=0.2))[-1]
    last.rename(later)
    run(TINY, data, tmp_path)
    checkpoint, result = tmp_path / "runs" / "tiny-5" / "last.ckpt", tmp_path / "results" / "tiny-5.json"
    trained = checkpoint.stat().st_mtime_ns
    later.rename(last)
    result.unlink()
    assert len(run(replace(TINY, data=replace(TINY.data, test_sessions=2)), data, tmp_path).data.test) == 2
    assert checkpoint.stat().st_mtime_ns == trained


def test_a_leak_through_an_ancestor_is_refused_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = sorted(simulate(tmp_path / "five", users=1, sessions=5, minutes=0.1))
    run(TINY, tmp_path / "five", tmp_path)
    (tmp_path / "three").mkdir()
    for path in paths[:3]:  # the training sessions; in their own folder, the last one is the test session
        shutil.copy(path, tmp_path / "three")
    adapted = replace(TINY, name="adapted", start="tiny")
    stop(monkeypatch)
    with pytest.raises(EmgscribeError, match="was trained on this session") as caught:
        run(adapted, tmp_path / "three", tmp_path)
    assert caught.value.where == paths[2].stem


def test_an_unseen_user_is_one_whom_no_ancestor_has_seen(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(TINY, data, tmp_path)  # on user 0
    stop(monkeypatch)
    adapted = replace(TINY, name="adapted", start="tiny")
    unseen = replace(adapted, data=DataConfig(train_users=(1,), test_users=(0,)))
    with pytest.raises(EmgscribeError, match="is to be unseen"):
        run(unseen, data, tmp_path)
    with pytest.raises(EmgscribeError, match="trains"):
        run(replace(unseen, start=""), data, tmp_path)
    for users in ({"train_users": (0, 1), "test_users": (0,)}, {"train_users": (1,)}, {"test_users": (0,)}):
        with pytest.raises(EmgscribeError, match="trains"):
            run(replace(adapted, data=DataConfig(**users)), data, tmp_path)
