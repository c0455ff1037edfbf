"""Result files: what is read from them, what is refused, and what makes one row."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from emgscribe.data.session import Session
from emgscribe.errors import EmgscribeError
from emgscribe.experiments.results import DataUsed, Row, RunResult, Score, read_results
from emgscribe.experiments.tables import tables
from emgscribe.files import read_json, write_json
from emgscribe.scoring import Counts, cer_interval, count

WriteResult = Callable[..., Path]


def row(*paths: Path) -> Row:
    results = [RunResult.read(path) for path in paths]
    return Row("demo", tuple(Score(result, "greedy", result.test["greedy"].sessions) for result in results))


def test_a_result_is_read_as_it_was_written(write_result: WriteResult, tmp_path: Path) -> None:
    path = write_result("ablation/full", 3, beam=True)
    (result,) = read_results(path.parents[1])
    assert (result.name, result.seed, result.data.kind) == ("ablation/full", 3, "simulated")
    assert [test.counts for test in result.test.values()] == [count("abcdefgh", "abXdefg"), Counts(length=8)]
    assert result.changes == ()
    result.settings["beam"] = {"lm_weight": 0.5}
    result.write(tmp_path / "again.json")
    again = RunResult.read(tmp_path / "again.json")
    assert again.changes == ()  # cached in both, once used
    assert vars(again) == vars(result)
    assert read_json(tmp_path / "again.json")["test"]["beam"]["settings"] == {"lm_weight": 0.5}


def test_settings_that_differ_from_the_named_experiment_are_named(write_result: WriteResult) -> None:
    path = write_result(changes={"train.epochs": 2})
    assert row(path).label == "demo (train.epochs 2)"
    content = read_json(path)
    del content["experiment"]["train"]["clip_norm"]  # a setting that was added after the file was written is no change
    content["test"]["greedy"]["seen"] = True
    write_json(path, content)
    assert row(path).label == "demo (train.epochs 2, seen in training)"
    (table,) = tables([RunResult.read(write_result("somebody's", 1))])
    assert table.rows[0].label == "somebody's (baseline)"  # which it is, under another name
    (table,) = tables([RunResult.read(write_result("mine", 1, changes={"train.epochs": 2}))])
    assert table.rows[0].label == "mine (baseline, train.epochs 2)"
    changes = {f"train.{name}": 0.5 for name in ("lr", "lr_start", "lr_end", "ema", "weight_decay", "clip_norm")}
    (table,) = tables([RunResult.read(write_result("far", 1, changes=changes))])
    assert table.rows[0].label == "far"  # far from every named experiment


def test_seeds_are_averaged_and_their_units_pooled(write_result: WriteResult) -> None:
    texts = "abcdefgh", "abXdefgh", "abXXefgh"
    both = row(*(write_result(seed=seed, texts=[("one", texts[0], texts[seed])]) for seed in (1, 2)))
    assert both.cers == {"1": 12.5, "2": 25.0}
    assert both.cer == 18.75
    # A segment that two seeds read is one unit: its text is drawn once, not twice.
    pooled = [Counts(length=4), Counts(substitutions=3, length=4), Counts(length=4), Counts(length=4)]
    assert list(both.units.values()) == pooled
    assert both.interval == cer_interval(pooled)
    apart = row(*(write_result(seed=seed, texts=[(f"s{seed}", "abcd", "abcX")]) for seed in (1, 2)))
    assert [unit.length for unit in apart.units.values()] == [2, 2, 2, 2]
    assert {session for session, _, _ in apart.units} == {"s1", "s2"}


def test_the_kind_of_data_says_what_is_simulated(make_stored: Callable[..., Session]) -> None:
    real = make_stored()
    made = replace(make_stored(), simulated=True)
    under_keys = replace(made, real_keys=True)
    kinds = {"real": [real], "simulated": [made, under_keys], "real-keys": [under_keys, real]}
    assert {kind: DataUsed.of("latest", [real], [], sessions).kind for kind, sessions in kinds.items()} == dict(
        zip(kinds, kinds, strict=True)
    )


def break_(content: dict[str, Any], place: str, value: object) -> None:
    *path, last = [int(part) if part.isdigit() else part for part in place.split(".")]
    for part in path:
        content = content[part]
    if value is None:
        del content[last]
    else:
        content[last] = value


@pytest.mark.parametrize(
    ("place", "value", "reported"),
    [
        ("test", None, "'test' is missing"),
        ("test", {}, "names no decoder"),
        ("test", [1], "wrong type"),
        ("data", None, "'data' is missing"),
        ("data.kind", "mixed", "'mixed'"),
        ("data.kind", "real", "are 'real', its test simulated"),
        ("experiment.name", None, "'name' is missing"),
        ("curves", 3, "wrong type"),
        ("curves.0.train_loss", "low", "'low'"),
        ("test.greedy.cer", 1.0, "its CER is 1.0, but its counts give 25.0"),
        ("test.greedy.sessions", [], "have no character"),
        ("test.greedy.sessions.0.units.0", [0, 0, 1], "a unit is [0, 0, 1], allowed: 4 counts"),
        ("test.greedy.sessions.0.hypothesis", "ab\x00defg", "control character"),
        ("test.greedy.sessions.0.hypothesis", "abédefg", "not a symbol: ['é']"),
        ("curves.0.epoch", -1e300, "its curves hold numbers that no run has"),
        ("seed", "0", "its seed"),
        ("curves.0.epoch", None, "no epoch"),
        ("experiment.name", "a\nb", "control character"),
        ("seconds", "INFINITE", "not JSON compliant"),
        ("test.greedy.sessions.0.units.0", None, "do not fit its texts"),
        ("test.greedy.sessions.0.hypothesis", "zzzzzzzz", "do not fit its texts"),
        ("test.greedy.sessions.0.reference", 7, "sessions[0].reference is 7"),
    ],
)
def test_a_damaged_result_is_refused_by_name(
    write_result: WriteResult, place: str, value: object, reported: str
) -> None:
    path = write_result()
    content = read_json(path)
    break_(content, place, value)
    path.write_text(json.dumps(content).replace('"INFINITE"', "1e999"))
    with pytest.raises(EmgscribeError) as caught:
        read_results(path.parent)
    assert caught.value.where == str(path)
    assert caught.value.hint
    assert reported in caught.value.what
    write_result("ablation/full")
    warned: list[str] = []
    assert [result.name for result in read_results(path.parent, warned.append)] == ["ablation/full"]
    assert [line.partition(": is")[0].partition(": not")[0] for line in warned] == [f"left out: {path}"]


def test_a_file_that_is_not_a_result_is_refused_by_name(write_result: WriteResult, tmp_path: Path) -> None:
    path = write_result()
    for content in ("[]", "3", "null", "{}"):
        path.write_text(content)
        with pytest.raises(EmgscribeError, match="is not a complete result"):
            RunResult.read(path)
    write_json(tmp_path / "empty" / "paper.json", {})
    for folder in (tmp_path / "empty", tmp_path / "absent"):
        with pytest.raises(EmgscribeError, match="no result files"):
            read_results(folder)


def test_a_result_that_another_run_is_writing_is_left_out(write_result: WriteResult, tmp_path: Path) -> None:
    path = write_result("ablation/full", 3, folder=tmp_path / ".kept" / "results")
    left = path.parent / f".{path.name}.k1ll3d" / path.name
    left.parent.mkdir()
    left.write_text("half")
    assert [result.seed for result in read_results(path.parents[1])] == [3]
    path.unlink()
    with pytest.raises(EmgscribeError, match="no result files"):
        read_results(path.parents[1])
