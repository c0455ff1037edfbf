"""The command line, verb by verb, as a user calls it: output, exit status, and what is said about mistakes."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import START

from emgscribe import cli
from emgscribe.cli.terminal import log
from emgscribe.data.hdf5 import Prompt
from emgscribe.data.splits import Split
from emgscribe.errors import EmgscribeError
from emgscribe.experiments import launch as launch
from emgscribe.experiments.recipes import EXPERIMENTS, SUITES
from emgscribe.files import read_json, write_json
from emgscribe.simulation import SimulationConfig

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
    assert "hint:" in told
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
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    of_the_results = Split("latest", (), (), (tmp_path / "one.hdf5",))
    monkeypatch.setattr(launch, "split_sessions", lambda *_: of_the_results)
    for experiment in SUITES[suite]:
        write_result(experiment.name, experiment.train.seed)
    write_result("demo")
    places = ["--data", str(tmp_path), "--runs", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
    assert cli.main(["reproduce", *asked, *places]) == 0
    shown = capsys.readouterr().out
    assert re.findall(r"CER: (\S+), SIMULATED\s+sessions", shown) == [suite]
    assert str(SUITES[suite][-1].train.seed) in shown
    assert "demo" not in shown


@pytest.mark.parametrize(
    ("asked", "folder", "made"),
    [
        (["ablation"], "simulated-sessions", (5, 14, 4.0, 1.0)),
        (["table2", "--budget", "small"], "simulated-sessions", (5, 14, 4.0, 1.0)),
        (["table2", "--budget", "medium"], "simulated-sessions-medium", (1, 18, 16.0, 2.0)),
        (["medium/table2"], "simulated-sessions-medium", (1, 18, 16.0, 2.0)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_sessions_are_simulated_for_the_budget(
    asked: list[str],
    folder: str,
    made: tuple[int, int, float, float],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def synthesize(
        out: Path, *, users: int, sessions: int, minutes: float, config: SimulationConfig, **_: object
    ) -> list[Path]:
        assert (out, (users, sessions, minutes, config.difficulty)) == (tmp_path / folder, made)
        out.mkdir()
        return []

    monkeypatch.setattr(cli.sessions, "simulate", synthesize)
    places = ["--runs", str(tmp_path), "--results", str(tmp_path / "results")]
    assert cli.main(["reproduce", *asked, "--data", "simulated", *places]) == 2
    assert f"{folder}: holds no session" in capsys.readouterr().err


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
        assert "hint: score it on sessions that it has not seen" in told
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


@pytest.fixture(scope="module")
def words(data: Path) -> Path:
    """A small language model, made as a user makes one."""
    text, out = data.parent / "text.txt", data.parent / "words.arpa.gz"
    text.write_text("It is the end of the day, and I am at home.\n" * 30)
    assert cli.main(["lm", "train", str(text), "--out", str(out), "--order", "3"]) == 0
    return out


def test_a_beam_from_training_to_the_report(
    runs: Path, data: Path, words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(runs, tmp_path / "copy", ignore=shutil.ignore_patterns("sessions"))
    places = ["--data", str(data), "--runs", str(folder / "runs"), "--results", str(folder / "results")]
    path, model, last = folder / "results/demo-0.json", folder / "runs/demo-0/best", sorted(data.glob("*.hdf5"))[-1]
    before = read_json(path)["test"]["greedy"]
    assert cli.main(["train", "demo", *places, *TINY, "--decoder", "greedy,beam", "--lm", str(words)]) == 0
    test = read_json(path)["test"]
    assert test["greedy"] == before
    assert test["beam"]["settings"]["tuned_on"] == [sorted(data.glob("*.hdf5"))[1].stem]
    assert [session["reference"] for session in test["beam"]["sessions"]] == [before["sessions"][0]["reference"]]
    capsys.readouterr()
    assert cli.main(["evaluate", str(model), str(last), "--decoder", "greedy,beam"]) == 0
    shown = capsys.readouterr().out
    assert f"CER {test['beam']['cer']:.2f} %" in shown
    assert "greedy minus beam: " in shown
    assert "on the screen, backspaces applied: CER" in shown
    assert cli.main(["transcribe", str(last), "--model", str(model), "--decoder", "beam"]) == 0
    keys = capsys.readouterr().out
    assert keys.replace("⏎\n", "⏎") == test["beam"]["sessions"][0]["hypothesis"] + "\n"
    out = ["--results", str(folder / "results"), "--out", str(tmp_path / "out")]
    assert cli.main(["report", *out, "--compare", "demo:greedy", "demo:beam"]) == 0
    assert "(SIMULATED sessions, greedy and beam)" in (tmp_path / "out" / "report.md").read_text()
    assert cli.main(["report", *out, "--decoder", "beam"]) == 0
    assert "| demo | greedy |" not in (tmp_path / "out" / "report.md").read_text()


def test_weights_are_tuned_on_validation_only(
    runs: Path, data: Path, words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = shutil.copytree(runs / "runs" / "demo-0" / "best", tmp_path / "model")
    trained, validated, test = (str(path) for path in sorted(data.glob("*.hdf5")))
    options = ["--lm", str(words), "--beam-size", "2"]
    for session, told in ((trained, "was trained on this session"), (test, "it may be a test")):
        assert cli.main(["lm", "tune", str(model), session, *options]) == 2
        assert told in capsys.readouterr().err
    assert not (model / "beam.json").exists()
    assert cli.main(["lm", "tune", str(model), validated, *options]) == 0
    assert f"stored in {model / 'beam.json'}" in capsys.readouterr().out
    assert cli.main(["evaluate", str(model), validated, "--decoder", "beam"]) == 2
    assert "the beam's weights were tuned on this session" in capsys.readouterr().err
    assert cli.main(["evaluate", str(model), test, "--decoder", "beam", "--windowed"]) == 0


def test_a_language_model_without_the_prompts_of_sessions(
    make_session: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from emgscribe.decoding.language_model import LanguageModel
    from emgscribe.decoding.language_model import train as learn

    session = make_session(prompts=[Prompt("text_prompt", START, START + 1, "The zebra, quietly!")])
    (tmp_path / "a.txt").write_text("A cat and a dog. The zebra\nquietly sat and a cat ran.")
    (tmp_path / "b.txt").write_text("a dog and the zebra")
    texts, out = [str(tmp_path / "a.txt"), str(tmp_path / "b.txt")], tmp_path / "out.arpa"
    assert cli.main(["lm", "train", *texts, "--out", str(out), "--order", "2", "--exclude", str(session)]) == 0
    assert f"{out}: " in capsys.readouterr().out
    expected = learn("a cat and a dog sat and a cat ran a dog and the zebra", order=2)
    assert LanguageModel.read(out).digest == expected.digest
    (tmp_path / "odd.txt").write_bytes(b"\xff\xfe")
    assert cli.main(["lm", "train", str(tmp_path / "odd.txt"), "--out", str(out)]) == 2
    assert "odd.txt: is no text in UTF-8" in capsys.readouterr().err
    assert cli.main(["lm", "train", *texts, "--out", "/proc/nothing/x.arpa"]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_what_no_decoder_can_read_is_told(
    runs: Path, words: Path, make_session: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.numpy import load_file, save_file

    good, short = str(runs / "runs" / "demo-0" / "best"), str(make_session(samples=1, keys=[]))
    empty = str(make_session("empty", samples=0, keys=[]))
    broken = shutil.copytree(good, tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    save_file(weights | {"head.bias": np.full(99, np.nan, np.float32)}, broken / "model.safetensors")
    cut = tmp_path / "cut.arpa.gz"
    cut.write_bytes(words.read_bytes()[:-20])
    for decoder in (["--decoder", "greedy"], ["--decoder", "beam", "--lm", str(words)]):
        assert cli.main(["transcribe", short, "--model", good, *decoder]) == 0  # a single frame
        capsys.readouterr()
        assert cli.main(["transcribe", short, "--model", str(broken), *decoder]) == 2
        assert "emissions are NaN from frame 0 on" in capsys.readouterr().err
        assert cli.main(["transcribe", empty, "--model", good, *decoder]) == 2
        assert "no samples" in capsys.readouterr().err
    for file, told in ((cut, "is damaged"), (tmp_path / "absent.arpa", "cannot be read")):
        assert cli.main(["transcribe", short, "--model", good, "--decoder", "beam", "--lm", str(file)]) == 2
        assert told in capsys.readouterr().err


def test_scores_of_another_model_or_other_sessions_are_not_added(
    runs: Path, data: Path, words: Path, tmp_path: Path
) -> None:
    from safetensors.numpy import load_file, save_file

    from emgscribe.experiments.rescore import add_scores, add_suite_scores

    folder = shutil.copytree(runs, tmp_path / "copy", ignore=shutil.ignore_patterns("sessions"))
    model, demo, before = folder / "runs/demo-0/best", EXPERIMENTS["demo"], read_json(runs / "results" / "demo-0.json")
    places = {"runs": folder / "runs", "results": folder / "results", "language_model": words}

    def add(where: Path, **changed: Path) -> None:
        add_scores(demo, ["greedy", "beam"], where, console=log, **places | changed)

    other = tmp_path / "other"
    assert (
        cli.main(
            ["synthesize", "--out", str(other), "--users", "1", "--sessions", "3", "--minutes", "0.2", "--seed", "9"]
        )
        == 0
    )
    with pytest.raises(EmgscribeError, match="was measured on other test sessions"):
        add(other)
    with pytest.raises(EmgscribeError, match="no model here"):
        add(data, runs=tmp_path)
    assert add_suite_scores([demo], ["beam"], data, console=log, **places | {"runs": tmp_path}) == ["demo-0"]
    weights = load_file(model / "model.safetensors")
    bias = np.zeros(99, np.float32)
    bias[4] = 50
    save_file(weights | {"head.bias": bias}, model / "model.safetensors")
    with pytest.raises(EmgscribeError, match="is not of the model in --runs, which reads 1 characters otherwise"):
        add(data)
    assert read_json(folder / "results" / "demo-0.json") == before
    assert not (model / "beam.json").exists()


@pytest.mark.parametrize(
    "changed",
    [
        lambda record: record["test"].update(attention=record["test"]["greedy"]),
        lambda record: record["test"].update(beam=record["test"]["greedy"]),
        lambda record: record.update(commit="another"),
    ],
    ids=["another-decoder", "the-same-decoder", "beside-the-test"],
)
def test_what_another_process_adds_to_a_result_meanwhile_stays(
    runs: Path, data: Path, words: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed
) -> None:
    from emgscribe.experiments import rescore as rescore

    folder = shutil.copytree(runs, tmp_path / "copy", ignore=shutil.ignore_patterns("sessions"))
    path, demo = folder / "results" / "demo-0.json", EXPERIMENTS["demo"]
    theirs = read_json(path)
    changed(theirs)
    places = {"runs": folder / "runs", "results": folder / "results", "language_model": words}
    meanwhile(monkeypatch, path, theirs)
    added = rescore.add_scores(demo, ["beam"], data, console=log, **places)
    record = read_json(path)
    assert ("beam" in added) == ("beam" not in theirs["test"])
    assert [*record["test"]] == [*theirs["test"], *added]
    assert record | {"test": theirs["test"]} == theirs
    assert {name: record["test"][name] for name in theirs["test"]} == theirs["test"]


def meanwhile(monkeypatch: pytest.MonkeyPatch, path: Path, theirs: dict) -> None:
    """Another process writes a result while we score its model."""
    from emgscribe.experiments import rescore as rescore

    evaluate = rescore.evaluate

    def slowly(*arguments):
        write_json(path, theirs)
        return evaluate(*arguments)

    monkeypatch.setattr(rescore, "evaluate", slowly)


def test_a_result_that_is_made_anew_meanwhile_gets_no_score_of_the_earlier_model(
    runs: Path, data: Path, words: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from emgscribe.experiments import rescore as rescore

    folder = shutil.copytree(runs, tmp_path / "copy", ignore=shutil.ignore_patterns("sessions"))
    path = folder / "results" / "demo-0.json"
    theirs = read_json(path)
    theirs["test"]["greedy"]["cer"] += 1
    places = {"runs": folder / "runs", "results": folder / "results", "language_model": words}
    meanwhile(monkeypatch, path, theirs)
    with pytest.raises(EmgscribeError, match="was made anew while") as caught:
        rescore.add_scores(EXPERIMENTS["demo"], ["beam"], data, console=log, **places)
    assert caught.value.where == str(path)
    assert read_json(path) == theirs


def test_a_session_given_twice_is_refused(runs: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, last = str(runs / "runs" / "demo-0" / "best"), str(sorted(data.glob("*.hdf5"))[-1])
    for options in ([], ["--windowed"]):
        assert cli.main(["evaluate", model, last, last, *options]) == 2
        told = capsys.readouterr().err
        assert f"error: {Path(last).stem}: is given twice" in told
        assert "hint: name each session once" in told


def test_report_of_the_second_head(
    write_result: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, places = write_result(), ["--results", str(tmp_path / "results"), "--out", str(tmp_path / "out")]
    assert cli.main(["report", *places, "--decoder", "attention"]) == 2
    assert "no result by attention" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    record = read_json(path)
    record["test"]["attention"] = record["test"]["greedy"]
    write_json(path, record)
    assert cli.main(["report", *places, "--decoder", "attention"]) == 0
    page = (tmp_path / "out" / "report.md").read_text()
    assert "| demo | attention |" in page
    assert "greedy" not in page


def test_the_second_head_is_not_read_with(runs: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(runs / "runs" / "demo-0" / "best")
    for verb in (["evaluate", model, first(data)], ["transcribe", first(data), "--model", model]):
        assert cli.main([*verb, "--decoder", "attention"]) == 2
        assert "error: unknown decoder 'attention'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["inpect"], "did you mean inspect?"),
        (["frobnicate"], "one of: demo"),
        (["train", "dmo", "--data", "x"], "did you mean demo?"),
        (["train", "demo", "--data", "absent-folder"], "no such folder"),
        (["evaluate", "absent-model", "x.hdf5"], "config.json is missing"),
        (["evaluate", "absent-model"], "no session given"),
        (["evaluate", "m", "x.hdf5", "--decoder", "greedy,baem"], "unknown decoder 'baem'"),
        (["transcribe", "x.hdf5", "--model", "m", "--decoder", "viterbi"], "one of: greedy, beam"),
        (["transcribe", "x.hdf5", "--model", "m", "--decoder", "greedy,beam"], "a transcript has one"),
        (["reproduce", "table1", "--data", "x", "--decoder", "beem"], "did you mean beam?"),
        (["report", "--decoder", "beem"], "name one that has some: beam, greedy"),
        (["lm", "tain"], "did you mean train?"),
        (["lm", "train", "--out", "x.arpa"], "no text given"),
        (["lm", "train", "absent.txt", "--out", "x.arpa"], "absent.txt: cannot be read"),
        (["lm", "tune", "absent-model"], "no session given"),
        (["lm", "tune", "absent-model", "x.hdf5"], "config.json is missing"),
        (["transcribe", "x.hdf5", "--model", "absent-model"], "config.json is missing"),
        (["synthesize", "--out", "/proc/nothing", "--minutes", "0.1"], "cannot be written"),
        (["synthesize", "--out", "x", "--users", "0"], "users is 0, allowed: 1 to 10000"),
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
