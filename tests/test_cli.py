"""The command line, verb by verb, as a user calls it: output, exit status, and messages about mistakes."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import START, restore_interrupts, until
from rich.console import Console

from emgscribe import cli
from emgscribe.cli import app, terminal
from emgscribe.data.hdf5 import Prompt
from emgscribe.errors import EmgscribeError
from emgscribe.experiments.recipes import EXPERIMENTS, GROUPS, SUITES
from emgscribe.files import read_json, write_json
from emgscribe.models.encoders import EncoderConfig

# With a prior, a network that has hardly learned decodes to no text, and some tests compare texts.
TINY = [
    *("--train.epochs", "2", "--train.batch-size", "4", "--model.features.hop", "64", "--windows.length", "2000"),
    *("--model.encoder.mlp-features", "24", "--model.encoder.blocks", "1", "--model.encoder.channels", "4"),
    *("--model.encoder.kernel", "4", "--model.encoder.lookahead", "2", "--windows.stride", "2000"),
    *("--train.blank-prior", "0"),
]
COMMAND = [sys.executable, "-m", "emgscribe"]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMGSCRIBE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "sessions"
    assert cli.main(["simulate", "--out", str(folder), "--users", "1", "--sessions", "3", "--minutes", "0.2"]) == 0
    return folder


@pytest.fixture(scope="module")
def runs(data: Path) -> Path:
    folder = data.parent
    places = ["--data", str(data), "--runs", str(folder / "runs"), "--results", str(folder / "results")]
    assert cli.main(["train", "demo", *places, *TINY]) == 0
    return folder


@pytest.fixture(scope="module")
def words(data: Path) -> Path:
    """A small language model, made as a user makes one."""
    text, out = data.parent / "text.txt", data.parent / "words.arpa.gz"
    text.write_text("It is the end of the day, and I am at home.\n" * 30)
    assert cli.main(["lm", "train", str(text), "--out", str(out), "--order", "3"]) == 0
    return out


def first(data: Path) -> str:
    return str(sorted(data.glob("*.hdf5"))[0])


def last(data: Path) -> str:
    return str(sorted(data.glob("*.hdf5"))[-1])


def test_help_lists_every_verb_with_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(re.search(rf"• {verb} +\w", shown) for verb in app.VERBS)
    assert cli.main([]) == 2
    capsys.readouterr()
    assert cli.main(["lm", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "lm tune" in shown
    assert "reproduce" not in shown
    assert cli.main(["--version"]) == 0
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    "verb",
    [
        verb + {"train": " records/split-share", "tune": " baseline"}.get(verb, "")
        for verb in (*app.VERBS, "train baseline")
    ],
)
def test_help_of_every_verb_has_examples_and_a_text_for_each_option(
    verb: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main([*verb.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: emgscribe {verb.split()[0]}")
    examples = re.findall(r"^ {2}(emgscribe .*)$", shown, flags=re.MULTILINE)
    assert examples
    assert all(line.startswith(f"emgscribe {' '.join(verb.split()[: 1 + verb.startswith('lm')])}") for line in examples)
    # An option with its type; its text and default follow, and may begin on the next line.
    entries = re.findall(r"^[│ ] (--?[a-zA-Z].*)\n((?:[│ ] +\w.*\n)*)", shown, flags=re.MULTILINE)
    assert len(entries) >= 2
    texts = {line.split("  ")[0]: " ".join((line.partition("  ")[2] + more).split()) for line, more in entries}
    default = re.compile(r"\((default|required|fixed|optional|repeatable)[^)]*\)?")
    assert [option for option, text in texts.items() if not re.search(r"\w", default.sub("", text))] == []


def test_experiments_and_suites_are_listed_with_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, status in ((["train"], 2), (["tune", "--help"], 0), (["train", "-h", "demo"], 0)):
        assert cli.main(arguments) == status
        shown = capsys.readouterr().out
        assert all(re.search(rf"^  {re.escape(name)} +\w.* epochs$", shown, flags=re.MULTILINE) for name in EXPERIMENTS)
        assert all(f"\n{group}\n" in shown for group in GROUPS)
    assert cli.main(["train", "--data", "data"]) == 2
    assert capsys.readouterr().err.startswith("Error: no experiment given\nHint: name it first: emgscribe train ")
    assert cli.main(["reproduce"]) == 2
    shown = capsys.readouterr().out
    assert all(re.search(rf"^  {re.escape(name)} +\d+ runs", shown, flags=re.MULTILINE) for name in SUITES)
    assert cli.main(["reproduce", "--dry-run", "--data", "x"]) == 2
    assert capsys.readouterr() == (
        shown,
        "Error: no suite given\nHint: name it first: emgscribe reproduce SUITE ...\n",
    )


def test_inspect_files_and_folders(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", str(data)]) == 0
    shown = capsys.readouterr().out
    assert shown.count("usable") == 3
    assert "not usable" not in shown
    assert cli.main(["inspect", first(data), last(data), "--json"]) == 0
    (found, other) = json.loads(capsys.readouterr().out)
    assert (found["usable"], other["usable"]) == (True, True)
    assert found["summary"]["samples"] == 24_000
    assert found["summary"]["simulated"] is True
    broken = tmp_path / "broken.hdf5"
    shutil.copy(first(data), broken)
    with h5py.File(broken, "r+") as file:
        rows = file["emg2qwerty/timeseries"]
        block = rows[:10]
        block["emg_left"][3] = np.nan
        rows[:10] = block
    assert cli.main(["inspect", str(data), str(broken), str(tmp_path / "absent.hdf5")]) == 2
    shown = capsys.readouterr().out
    assert shown.count("not usable") == 2
    assert "broken.hdf5: error: emg_left: 1 of 24000 samples are not finite" in shown
    assert "no such file" in shown


def test_train_suggests_name_where_a_result_of_other_settings_exists(
    runs: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = ["--data", str(data), "--runs", str(runs / "runs"), "--results", str(runs / "results")]
    assert cli.main(["train", "demo", *places]) == 2
    assert "--name" in capsys.readouterr().err


def test_evaluate_agrees_with_the_result_of_training(
    runs: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(runs / "runs" / "demo-0" / "best")
    (folder := tmp_path / "folder").mkdir()
    shutil.copy(last(data), folder)
    assert cli.main(["evaluate", model, str(folder)]) == 0
    cer = read_json(runs / "results" / "demo-0.json")["test"]["greedy"]["cer"]
    shown, errors = capsys.readouterr()
    assert f"CER {cer:.2f} %" in shown
    assert "SIMULATED" in shown
    assert errors == ""  # no progress bar remains
    assert cli.main(["evaluate", model, last(data), "--protocol", "windows"]) == 0
    assert "windows of" in capsys.readouterr().out
    assert cli.main(["evaluate", model, last(data), "--protocol", "published"]) == 0
    assert "published" in capsys.readouterr().out


def test_evaluate_warns_of_what_makes_a_score_too_good_or_too_bad(
    runs: Path, data: Path, words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, validated = str(runs / "runs" / "demo-0" / "best"), sorted(data.glob("*.hdf5"))[1]
    assert cli.main(["evaluate", model, str(validated)]) == 0
    assert f"Warning: {validated.stem} chose the model's best weights" in capsys.readouterr().err
    part = shutil.copytree(model, tmp_path / "chosen-by-a-part")
    content = read_json(part / "config.json")
    content["ancestry"]["validated_on"][0]["content"] += ":1000-2000"
    write_json(part / "config.json", content)
    assert cli.main(["evaluate", str(part), str(validated)]) == 0
    assert f"Warning: {validated.stem} chose the model's best weights" in capsys.readouterr().err
    assert cli.main(["evaluate", model, last(data), "--decoder", "beam", "--lm", str(words)]) == 0
    assert "The beam has its default weights. emgscribe lm tune " in capsys.readouterr().err


def test_modules_named_in_the_environment_are_imported(
    runs: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model with a custom layer loads once EMGSCRIBE_MODULES names its module; until then, the error says so."""
    model = shutil.copytree(runs / "runs" / "demo-0" / "best", tmp_path / "m")
    content = read_json(model / "config.json")
    content["model"]["encoder"]["kind"] = "my-tds"
    write_json(model / "config.json", content)
    line = ["evaluate", str(model), last(data)]
    assert cli.main(line) == 2
    shown = capsys.readouterr().err
    assert "model.encoder.kind is 'my-tds', allowed: " in shown
    assert "EMGSCRIBE_MODULES=NAME" in shown
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("EMGSCRIBE_MODULES", "my_tds_layers,nowhere_at_all")
    Path("my_tds_layers.py").write_text(
        "import emgscribe as es\n"
        "es.encoders.EncoderConfig.kinds['my-tds'] = type('Mine', (es.encoders.TdsConfig,), {})\n"
    )
    assert cli.main(line) == 2
    assert "Error: nowhere_at_all cannot be imported (No module named" in capsys.readouterr().err
    monkeypatch.setenv("EMGSCRIBE_MODULES", "my_tds_layers")
    try:
        assert cli.main(line) == 0
    finally:
        del sys.modules["my_tds_layers"], EncoderConfig.kinds["my-tds"]
    assert "CER" in capsys.readouterr().out


def test_evaluate_refuses_what_the_model_was_trained_on(
    runs: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained, validated, _ = sorted(data.glob("*.hdf5"))
    model = runs / "runs" / "demo-0" / "best"
    renamed = shutil.copy(trained, tmp_path / "renamed.hdf5")
    for options in ([], ["--protocol", "windows"]):
        assert cli.main(["evaluate", str(model), str(validated), str(renamed), *options]) == 2
        text = capsys.readouterr().err
        assert text.startswith(f"Error: {trained.stem}: ")
        assert "was trained on this session" in text
        assert "\nHint: " in text
        assert cli.main(["evaluate", str(model), str(validated), str(validated), *options]) == 2
        assert f"Error: {validated.stem}: is given twice" in capsys.readouterr().err
    assert cli.main(["evaluate", str(model), str(trained), "--allow-seen"]) == 0
    assert "seen in training" in capsys.readouterr().out
    assert cli.main(["transcribe", str(trained), "--model", str(model)]) == 0
    assert capsys.readouterr().out.endswith("\n")
    assert cli.main(["evaluate", str(model), str(validated), "--own-norm", "0.75"]) == 0
    assert "whole session, norm moved by 0.75, greedy" in capsys.readouterr().out
    texts = []
    for share in ("0", "1"):
        assert cli.main(["transcribe", str(trained), "--model", str(model), "--own-norm", share]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] != texts[1]
    for wrong in (["--own-norm", "2"], ["--own-norm", "1", "--protocol", "windows"]):
        assert cli.main(["evaluate", str(model), str(validated), *wrong]) == 2
        assert capsys.readouterr().err.startswith("Error: ")
    old = shutil.copytree(model, tmp_path / "old")
    content = read_json(old / "config.json")
    content["ancestry"]["complete"] = False
    write_json(old / "config.json", content)
    assert cli.main(["evaluate", str(old), last(data)]) == 0
    assert "does not list all sessions" in capsys.readouterr().err


def test_a_beam_is_tuned_scored_and_reported(
    runs: Path, data: Path, words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(runs, tmp_path / "copy", ignore=shutil.ignore_patterns("sessions"))
    places = ["--data", str(data), "--runs", str(folder / "runs"), "--results", str(folder / "results")]
    path, model = folder / "results/demo-0.json", folder / "runs/demo-0/best"
    before = read_json(path)["test"]["greedy"]
    assert cli.main(["train", "demo", *places, *TINY, "--decoder", "greedy,beam", "--lm", str(words)]) == 0
    record = read_json(path)
    test = record["test"]
    assert test["greedy"] == before
    assert record["test"]["beam"]["settings"]["tuned_on"] == [sorted(data.glob("*.hdf5"))[1].stem]
    assert [session["reference"] for session in test["beam"]["sessions"]] == [before["sessions"][0]["reference"]]
    capsys.readouterr()
    assert cli.main(["evaluate", str(model), last(data), "--decoder", "greedy,beam"]) == 0
    shown = capsys.readouterr().out
    assert f"CER {test['beam']['cer']:.2f} %" in shown
    assert "greedy minus beam: " in shown
    assert cli.main(["transcribe", last(data), "--model", str(model), "--decoder", "beam"]) == 0
    keys = capsys.readouterr().out
    assert keys.replace("⏎\n", "⏎") == test["beam"]["sessions"][0]["hypothesis"] + "\n"
    out = ["--results", str(folder / "results"), "--out", str(tmp_path / "out")]
    assert cli.main(["report", *out, "--compare", "demo:greedy", "demo:beam"]) == 0
    assert "greedy and beam" in (tmp_path / "out" / "report.md").read_text()


def test_beam_weights_are_tuned_on_validation_sessions_only(
    runs: Path, data: Path, words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = shutil.copytree(runs / "runs" / "demo-0" / "best", tmp_path / "model")
    trained, validated, test = (str(path) for path in sorted(data.glob("*.hdf5")))
    options = ["--lm", str(words), "--beam-size", "2"]
    for session, text in ((trained, "was trained on this session"), (test, "a test session")):
        assert cli.main(["lm", "tune", str(model), session, *options]) == 2
        assert text in capsys.readouterr().err
    assert not (model / "beam.json").exists()
    assert cli.main(["lm", "tune", str(model), validated, *options]) == 0
    assert f"stored in {model / 'beam.json'}" in capsys.readouterr().out
    assert cli.main(["evaluate", str(model), validated, "--decoder", "beam"]) == 2
    assert "were tuned on this session" in capsys.readouterr().err
    assert cli.main(["evaluate", str(model), test, "--decoder", "beam", "--protocol", "windows"]) == 0


def test_a_language_model_leaves_out_the_prompts_of_sessions(
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
    assert "odd.txt: is not text in UTF-8" in capsys.readouterr().err
    assert cli.main(["lm", "train", *texts, "--out", "/proc/nothing/x.arpa"]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_language_models_are_mixed_to_suit_what_was_typed(
    make_session: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from emgscribe.data.charset import screen_text
    from emgscribe.data.session import open_session
    from emgscribe.decoding.language_model import LanguageModel, default_language_model
    from emgscribe.decoding.language_model import train as learn

    session, own, mixed = make_session(), tmp_path / "own.arpa", tmp_path / "mixed.arpa.gz"
    (tmp_path / "a.txt").write_text("a cat and a dog")
    assert cli.main(["lm", "train", str(tmp_path / "a.txt"), str(session), "--out", str(own), "--across"]) == 0
    typed = screen_text(open_session(session).labels.tolist())
    assert LanguageModel.read(own).digest == learn(f"a cat and a dog\n{typed}", across=True).digest
    capsys.readouterr()
    assert cli.main(["lm", "mix", "default", str(own), "--fit", str(session), "--out", str(mixed)]) == 0
    first, second, last = capsys.readouterr().out.splitlines()
    assert first.startswith("default: share 0.0")
    assert re.match(rf"{re.escape(str(own))}: share (0\.9\d|1\.00), \d\.\d\d bits per character", second)
    assert f"{mixed}: " in last
    assert len(LanguageModel.read(mixed).ngrams.tokens) >= len(default_language_model().ngrams.tokens)
    assert cli.main(["lm", "mix", str(own), "--fit", str(session), "--out", str(mixed)]) == 2
    assert "name two or more language models" in capsys.readouterr().err
    words = tmp_path / "words.arpa"
    learn("a cat").write(words)
    assert cli.main(["lm", "mix", str(own), str(words), "--fit", str(session), "--out", str(tmp_path / "no.arpa")]) == 2
    assert "some models work within words and others across them" in capsys.readouterr().err
    assert not (tmp_path / "no.arpa").exists()


def test_input_that_no_decoder_can_use_is_reported(
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
        assert "head.bias is not finite" in capsys.readouterr().err
        assert cli.main(["transcribe", empty, "--model", good, *decoder]) == 2
        assert "no samples" in capsys.readouterr().err
    assert cli.main(["evaluate", good, short]) == 0
    assert capsys.readouterr().err == "Warning: session has no key with a label, and so no error rate\n"
    typed = str(make_session("typed", samples=40_000))
    assert cli.main(["evaluate", good, typed]) == 0
    alone = capsys.readouterr().out
    assert cli.main(["evaluate", good, typed, short]) == 0
    assert capsys.readouterr().out == alone
    for file, text in ((cut, "is damaged"), (tmp_path / "absent.arpa", "no such file")):
        assert cli.main(["transcribe", short, "--model", good, "--decoder", "beam", "--lm", str(file)]) == 2
        assert text in capsys.readouterr().err


def test_report_says_what_it_wrote_or_why_not(
    write_result: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_result("ablation/full")
    out, places = tmp_path / "out", ["--results", str(tmp_path / "results"), "--out", str(tmp_path / "out")]
    assert cli.main(["report", *places]) == 0
    assert re.search(rf"report: {out / 'report.md'} and \d+ files beside it", capsys.readouterr().out)
    assert cli.main(["report", *places, "--compare", "ablation/full", "ablation/fully"]) == 2
    assert "no result of 'ablation/fully' to compare" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("asked", "suite"),
    [(["table1"], "table1"), (["table1", "--budget", "small"], "small/table1"), (["small/figure1"], "small/figure1")],
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
    monkeypatch.setattr("emgscribe.cli.experiments.run_suite", lambda *_, **__: [])
    for experiment in SUITES[suite].experiments:
        write_result(experiment.name, experiment.train.seed)
    write_result("demo")
    places = ["--data", str(tmp_path), "--runs", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
    assert cli.main(["reproduce", *asked, *places]) == 0
    shown = capsys.readouterr().out
    assert suite in shown
    assert str(SUITES[suite].experiments[-1].train.seed) in shown
    assert "demo" not in shown


@pytest.mark.parametrize(
    ("asked", "folder", "made"),
    [
        (["table2", "--budget", "small"], "simulated-sessions", (5, 24, 4.0)),
        (["medium/table2"], "simulated-sessions-medium", (1, 21, 16.0)),
    ],
    ids=["small", "medium"],
)
def test_sessions_are_simulated_for_the_budget(
    asked: list[str],
    folder: str,
    made: tuple[int, int, float],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def simulate(out: Path, *, users: int, sessions: int, minutes: float, **_: object) -> None:
        assert (out, (users, sessions, minutes)) == (tmp_path / folder, made)
        raise EmgscribeError("enough")

    monkeypatch.setattr("emgscribe.simulate", simulate, raising=False)
    places = ["--runs", str(tmp_path), "--results", str(tmp_path / "results")]
    assert cli.main(["reproduce", *asked, "--data", "simulated", *places]) == 2
    assert "Error: enough" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert cli.main(["reproduce", *asked, "--data", "simulated", *places, "--on", "slurm"]) == 2
    assert "pip install 'emgscribe[slurm]'" in capsys.readouterr().err  # before anything is simulated


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["inpect"], "did you mean inspect?"),
        (["frobnicate"], "one of: demo"),
        (["train", "dmo", "--data", "x"], "did you mean demo?"),
        (["train", "table2/bilsm", "--data", "x"], "did you mean table2/bilstm? one of: table2/baseline"),
        (["train", "demo", "--data", "absent-folder"], "no such folder"),
        (["reproduce", "records", "--data", "x", "--budget", "small"], "unknown suite 'small/records'"),
        (["reproduce", "tabel1", "--data", "x"], "did you mean table1?"),
        (["reproduce", "table1", "--data", "x", "--decoder", "beem"], "did you mean beam?"),
        (["inspect"], "no session given"),
        (["inspect", "."], "no session files"),
        (["evaluate", "absent-model", "x.hdf5"], "config.json is missing"),
        (["evaluate", "absent-model"], "no session given"),
        (["evaluate", "m", "x.hdf5", "--decoder", "greedy,baem"], "unknown decoder 'baem'"),
        (["evaluate", "m", "x.hdf5", "--decoder", "attention"], "unknown decoder 'attention'"),
        (["transcribe", "x.hdf5", "--model", "m", "--decoder", "viterbi"], "one of: greedy, beam"),
        (["transcribe", "x.hdf5", "--model", "m", "--decoder", "greedy,beam"], "transcribe takes one"),
        (["transcribe", "x.hdf5", "--model", "absent-model"], "config.json is missing"),
        (["report", "--results", "absent"], "no result files"),
        (["lm", "tain"], "did you mean lm train?"),
        (["lm", "train", "--out", "x.arpa"], "no text given"),
        (["lm", "train", "absent.txt", "--out", "x.arpa"], "absent.txt: no such file"),
        (["lm", "tune", "absent-model"], "no session given"),
        (["lm", "tune", "absent-model", "x.hdf5"], "config.json is missing"),
        (["simulate", "--out", "/proc/nothing", "--minutes", "0.1"], "cannot be written"),
        (["simulate", "--out", "x", "--key-logs", "logs", "--minutes", "1"], "--minutes does nothing with --key-logs"),
        (["convert", "x", "--out", "y", "--to", "bids", "--user", "me"], "--user does nothing with --to bids"),
        (["convert", "x", "--out", "y", "--to", "bids", "--bands", "left"], "--bands does nothing with --to bids"),
        (["export", "live", "--out", "m.onx"], "--out is m.onx, which says no format"),
        (["export", "live", "--out", "m.ckpt", "--int8"], "--int8 does nothing with .ckpt"),
        (["export", "live", "--out", "m.ckpt", "--sessions", "s.hdf5"], "--sessions does nothing with .ckpt"),
        (["export", "live", "--out", "m", "--web", "--frames", "2"], "--frames does nothing with --web"),
    ],
)
def test_mistakes_get_one_error_with_a_hint_and_status_2(
    arguments: list[str], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    shown = capsys.readouterr().err
    assert text in shown
    assert re.fullmatch(r"Error: .+\nHint: .+\n", shown)
    assert list(tmp_path.iterdir()) in ([], [tmp_path / "cache"])


def test_an_error_about_arguments_stands_alone_on_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal, "log", Console(stderr=True, force_terminal=True))
    assert cli.main(["simulate", "--out", str(tmp_path / "x"), "--users", "0"]) == 2
    assert re.fullmatch(r"Error: .*users is 0.+\nHint: .+\n", capsys.readouterr().err)
    assert cli.main(["simulate", "--out", str(tmp_path), "--users", "1", "--sessions", "1", "--minutes", "0.1"]) == 0
    assert "simulating" in capsys.readouterr().err
    logs = ["--key-logs", str(tmp_path)]
    assert cli.main(["simulate", "--out", str(tmp_path / "y"), *logs, "--simulation.units-per-muscle", "4"]) == 0
    assert len(list((tmp_path / "y").glob("*-simulated-emg-*.hdf5"))) == 1
    assert "1 session of simulated EMG for the keys of" in capsys.readouterr().out


def test_without_a_terminal_a_long_simulation_prints_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["simulate", "--out", str(tmp_path), "--users", "1", "--sessions", "2", "--minutes", "0.3"]) == 0
    assert capsys.readouterr().err == "simulating 1 x 2 sessions of 0.3 minutes ...\n"


@pytest.mark.parametrize(
    ("option", "text"),
    [
        (["--train.lrr", "1"], "--train.lr"),
        (["--train.lr", "fast"], "fast"),
        (["--train.lr", "-3"], "train.lr is -3.0"),
        (["--model.features.hop", "0"], "features.hop is 0"),
        (["--augment.spec.time-masks", "-1"], "augment.spec.time_masks is -1"),
    ],
)
def test_a_bad_override_is_refused_by_name(option: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "demo", "--data", "x", *option]) == 2
    assert text in capsys.readouterr().err


@pytest.mark.parametrize(
    ("raised", "status", "text"),
    [
        (KeyboardInterrupt(), 130, r"Interrupted\. .+\n"),
        (
            RuntimeError("lost\nits way"),
            1,
            r"Error: unexpected RuntimeError: lost its way\nHint: .*EMGSCRIBE_DEBUG.*\n",
        ),
        (OSError(28, "No space left on device"), 2, r"Error: .*the disk is full\nHint: .+\n"),
        (BrokenPipeError(), 141, ""),
    ],
    ids=["interrupt", "fault", "full", "pipe"],
)
def test_uncaught_exceptions_give_a_message_and_an_exit_status(
    raised: BaseException,
    status: int,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(_: list[str]) -> int:
        raise raised

    monkeypatch.setattr(app, "call", fail)
    assert cli.main([]) == status
    assert re.fullmatch(text, capsys.readouterr().err)
    if status == 1:
        monkeypatch.setenv("EMGSCRIBE_DEBUG", "1")
        with pytest.raises(RuntimeError):
            cli.main([])


class Interrupting:
    """A module finder that acts as if Ctrl-C were pressed while modules load."""

    def find_spec(self, name: str, *_: object) -> None:
        if name == "emgscribe.cli.app":
            raise KeyboardInterrupt


def test_an_interrupt_while_modules_load_ends_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "emgscribe.cli.app")
    monkeypatch.setattr(sys, "meta_path", [Interrupting(), *sys.meta_path])
    assert cli.main(["--help"]) == 130
    assert capsys.readouterr().err.startswith("Interrupted.")


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_end_a_command_and_leave_nothing_half_written(sent: int, status: int, tmp_path: Path) -> None:
    command = [*COMMAND, "simulate", "--out", str(tmp_path / "out"), "--users", "1", "--sessions", "1"]
    command += ["--minutes", "60"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=restore_interrupts) as process:
        until((tmp_path / "out").exists, process)
        process.send_signal(sent)
        text = process.communicate()[1]
    assert process.returncode == status
    assert text.startswith("Interrupted.")
    assert "Traceback" not in text
    assert list((tmp_path / "out").iterdir()) == []


def test_a_full_disk_or_a_closed_pipe_for_output_ends_the_command(data: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([*COMMAND, "inspect", first(data)], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert re.fullmatch(r"Error: .*the disk is full\nHint: .+\n", done.stderr)
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*COMMAND, "inspect", first(data)], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")
