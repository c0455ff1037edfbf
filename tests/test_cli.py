"""The command line, verb by verb, as a user calls it: output, exit status, and what is said about mistakes."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from emgscribe import cli
from emgscribe.files import read_json, write_json

TINY = [
    *("--train.epochs", "2", "--train.batch-size", "4", "--model.features.hop", "64", "--windows.length", "2000"),
    *("--model.encoder.mlp-features", "24", "--model.encoder.blocks", "1", "--model.encoder.channels", "4"),
    *("--model.encoder.kernel", "4", "--model.encoder.lookahead", "2", "--windows.stride", "2000"),
]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMGSCRIBE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "sessions"
    assert cli.main(["synthesize", "--out", str(folder), "--users", "1", "--sessions", "3", "--minutes", "0.2"]) == 0
    return folder


@pytest.fixture(scope="module")
def runs(data: Path) -> Path:
    folder = data.parent
    places = ["--data", str(data), "--runs", str(folder / "runs"), "--results", str(folder / "results")]
    assert cli.main(["train", "demo", *places, *TINY]) == 0
    return folder


def first(data: Path) -> str:
    return str(sorted(data.glob("*.hdf5"))[0])


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {verb} " in shown for verb in cli.VERBS)
    assert cli.main([]) == 2


@pytest.mark.parametrize("verb", [*cli.VERBS, "train demo"])
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status = cli.main([*verb.split(), "--help"])
    except SystemExit as left:
        status = int(left.code or 0)
    assert status == 0
    assert "usage: emgscribe" in capsys.readouterr().out


def test_synthesize_writes_sessions_and_metadata(data: Path) -> None:
    assert len(list(data.glob("*.hdf5"))) == 3
    lines = (data / "metadata.csv").read_text().splitlines()
    assert lines[0] == "user,session,condition,duration_mins,num_keystrokes,num_prompts,quality_check_tags"
    assert len(lines) == 4


def test_inspect_a_whole_session(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", first(data)]) == 0
    shown = capsys.readouterr().out
    assert "usable" in shown
    assert "not usable" not in shown
    assert cli.main(["inspect", first(data), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["usable"] is True
    assert told["summary"]["samples"] == 24_000
    assert told["summary"]["simulated"] is True


def test_inspect_says_what_is_wrong(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken.hdf5"
    shutil.copy(first(data), broken)
    with h5py.File(broken, "r+") as file:
        rows = file["emg2qwerty/timeseries"]
        block = rows[:10]
        block["emg_left"][3] = np.nan
        rows[:10] = block
    assert cli.main(["inspect", str(broken)]) == 2
    shown = capsys.readouterr().out
    assert "error: emg_left: 1 of 24000 samples are not finite" in shown
    assert cli.main(["inspect", str(tmp_path / "absent.hdf5")]) == 2
    assert "no such file" in capsys.readouterr().out


def test_train_leaves_a_model_and_a_result(runs: Path) -> None:
    result = read_json(runs / "results" / "demo-0.json")
    assert result["data"]["kind"] == "simulated"
    assert result["experiment"]["train"]["epochs"] == 2
    assert result["experiment"]["model"]["encoder"]["kind"] == "tds"
    assert len(result["curves"]) == 2
    session = result["test"]["greedy"]["sessions"][0]
    assert sum(unit[3] for unit in session["units"]) == len(session["reference"]) > 20
    assert (runs / "runs" / "demo-0" / "best" / "model.safetensors").exists()


def test_evaluate_agrees_with_the_result_of_training(
    runs: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(runs / "runs" / "demo-0" / "best")
    last = str(sorted(data.glob("*.hdf5"))[-1])
    assert cli.main(["evaluate", model, last]) == 0
    cer = read_json(runs / "results" / "demo-0.json")["test"]["greedy"]["cer"]
    shown = capsys.readouterr().out
    assert f"CER {cer:.2f} %" in shown
    assert "SIMULATED" in shown
    assert cli.main(["evaluate", model, last, "--windowed"]) == 0
    assert "windows of" in capsys.readouterr().out


def test_report_renders_results_and_compares_them(
    write_result: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_result("ablation/full")
    write_result("ablation/rate-500", texts=[("one", "abcdefgh", "abcdefgh")])
    out, places = tmp_path / "out", ["--results", str(tmp_path / "results"), "--out", str(tmp_path / "out")]
    assert cli.main(["report", *places, "--compare", "ablation/full", "ablation/rate-500"]) == 0
    assert f"report: {out / 'report.md'} and 15 files beside it" in capsys.readouterr().out
    assert "difference +25.00 points" in (out / "report.md").read_text()
    assert cli.main(["report", *places, "--compare", "ablation/full", "ablation/fully"]) == 2
    assert "no result of 'ablation/fully' to compare" in capsys.readouterr().err


def test_report_names_a_damaged_file(
    write_result: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_result()
    path.write_text(path.read_text()[:-40])
    assert cli.main(["report", "--results", str(tmp_path / "results"), "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert f"error: {path}: not valid JSON" in told
    assert "mend:" in told
    assert cli.main(["report", "--results", str(tmp_path / "absent")]) == 2
    assert "no result files" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("asked", "suite"),
    [
        (["table1"], "table1"),
        (["table1", "--budget", "small"], "small/table1"),
        (["figure1", "--budget", "small"], "small/figure1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_reproduce_ends_with_the_table_of_the_suite(
    asked: list[str],
    suite: str,
    write_result: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from emgscribe.experiments import SUITES

    for experiment in SUITES[suite]:
        write_result(experiment.name, experiment.train.seed)
    write_result("demo")
    places = ["--data", str(tmp_path), "--runs", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
    assert cli.main(["reproduce", *asked, *places]) == 0
    shown = capsys.readouterr().out
    assert re.findall(r"CER: (\S+), SIMULATED\s+sessions", shown) == [suite]
    assert str(SUITES[suite][-1].train.seed) in shown
    assert "demo" not in shown


def test_a_suite_without_a_small_budget_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["reproduce", "records", "--data", str(tmp_path), "--budget", "small"]) == 2
    assert "unknown suite 'small/records'" in capsys.readouterr().err


def test_evaluate_refuses_what_the_model_was_trained_on(
    runs: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained, validated, _ = sorted(data.glob("*.hdf5"))
    model = runs / "runs" / "demo-0" / "best"
    assert cli.main(["evaluate", str(model), str(validated)]) == 0
    capsys.readouterr()
    renamed = shutil.copy(trained, tmp_path / "renamed.hdf5")
    for options in ([], ["--windowed"]):
        assert cli.main(["evaluate", str(model), str(validated), str(renamed), *options]) == 2
        told = capsys.readouterr().err
        assert f"error: {trained.stem}: " in told
        assert "was trained on this session" in told
        assert "mend: score it on sessions that it has not seen" in told
    assert cli.main(["transcribe", str(trained), "--model", str(model)]) == 0
    capsys.readouterr()
    old = shutil.copytree(model, tmp_path / "old")
    content = read_json(old / "config.json")
    del content["ancestry"]
    write_json(old / "config.json", content)
    assert cli.main(["evaluate", str(old), str(trained)]) == 0
    assert "nobody can tell" in capsys.readouterr().err.replace("\n", " ")


def test_transcribe_prints_symbols(runs: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["transcribe", first(data), "--model", str(runs / "runs" / "demo-0" / "best")]) == 0
    assert capsys.readouterr().out.endswith("\n")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["inpect"], "did you mean inspect?"),
        (["frobnicate"], "one of: demo"),
        (["train", "dmo", "--data", "x"], "did you mean demo?"),
        (["train", "demo", "--data", "absent-folder"], "no such folder"),
        (["evaluate", "absent-model", "x.hdf5"], "config.json is missing"),
        (["evaluate", "absent-model"], "no session given"),
        (["transcribe", "x.hdf5", "--model", "absent-model"], "config.json is missing"),
        (["synthesize", "--out", "/proc/nothing", "--minutes", "0.1"], "cannot be written"),
        (["synthesize", "--out", "x", "--users", "0"], "no data set"),
    ],
)
def test_mistakes_get_one_error_and_status_2(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    shown = capsys.readouterr().err
    assert told in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize(
    ("option", "told"),
    [
        (["--train.lrr", "1"], "--train.lr"),
        (["--train.lr", "fast"], "fast"),
        (["--train.lr", "-3"], "train.lr is -3.0"),
        (["--model.features.hop", "0"], "features.hop is 0"),
        (["--augment.spec.time-masks", "-1"], "augment.spec.time_masks is -1"),
    ],
)
def test_a_bad_override_is_refused_by_name(option: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["train", "demo", "--data", "x", *option])
    assert left.value.code == 2
    assert told in capsys.readouterr().err


def test_too_few_sessions(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(first(data), tmp_path / "only.hdf5")
    assert cli.main(["train", "demo", "--data", str(tmp_path)]) == 2
    assert "has 1 of the 3 sessions" in capsys.readouterr().err


def test_reproduce_names_its_suites_and_says_once_that_the_data_will_not_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["reproduce"]) == 2
    assert "small/table1 (13 runs)" in capsys.readouterr().out
    assert cli.main(["reproduce", "tabel1", "--data", str(tmp_path)]) == 2
    assert "did you mean table1?" in capsys.readouterr().err
    places = ["--runs", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
    assert cli.main(["reproduce", "small/table1", "--data", str(tmp_path), *places]) == 2
    assert capsys.readouterr().err.count("error:") == 1
    assert not (tmp_path / "runs").exists()
