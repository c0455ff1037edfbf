"""Result files: what is read from them, what is refused, and what makes one row."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from emgscribe.errors import EmgscribeError
from emgscribe.experiments.results import Row, read_result, read_results
from emgscribe.files import read_json, write_json
from emgscribe.scoring import Counts, cer_interval, count

WriteResult = Callable[..., Path]


def test_a_result_is_read_as_it_was_written(write_result: WriteResult) -> None:
    path = write_result("ablation/full", 3)
    (run,) = read_results(path.parents[1])
    assert (run.name, run.seed, run.kind, run.decoder, run.path) == ("ablation/full", 3, "simulated", "greedy", path)
    assert run.counts == count("abcdefgh", "abXdefg")
    assert run.changes == ()
    assert run.curves[1]["val_loss"] == 1.5


def test_each_decoder_is_a_run_of_its_own(write_result: WriteResult) -> None:
    path = write_result()
    record = read_json(path)
    record["test"]["beam"] = record["test"]["greedy"]
    write_json(path, record)
    assert [run.decoder for run in read_result(path)] == ["greedy", "beam"]


def test_settings_that_differ_from_the_named_experiment_are_named(write_result: WriteResult) -> None:
    (run,) = read_result(write_result(epochs=2))
    assert run.changes == ("train.epochs 2",)
    assert Row((run,)).label == "demo (train.epochs 2)"
    (unknown,) = read_result(write_result("somebody's", 1))
    assert len(unknown.changes) > 20
    assert Row((unknown,)).label.endswith("more)")


def test_a_setting_younger_than_the_file_is_no_change(write_result: WriteResult) -> None:
    path = write_result()
    record = read_json(path)
    del record["experiment"]["train"]["clip_norm"]
    write_json(path, record)
    assert read_result(path)[0].changes == ()


def test_seeds_are_averaged_and_their_units_pooled(write_result: WriteResult) -> None:
    texts = "abcdefgh", "abXdefgh", "abXXefgh"
    paths = [write_result(seed=seed, texts=[("one", texts[0], texts[seed])]) for seed in (1, 2)]
    row = Row(tuple(run for path in paths for run in read_result(path)))
    assert row.cers == [12.5, 25.0]
    assert row.cer == 18.75
    # A stretch that two seeds read is one unit: its text is drawn once, not twice.
    pooled = [Counts(length=4), Counts(substitutions=3, length=4), Counts(length=4), Counts(length=4)]
    assert list(row.units.values()) == pooled
    assert row.interval == cer_interval(pooled)
    assert row.test_sessions == {"one": pooled}


def test_seeds_on_other_sessions_keep_their_own_units(write_result: WriteResult) -> None:
    paths = [write_result(seed=seed, texts=[(f"s{seed}", "abcd", "abcX")]) for seed in (1, 2)]
    row = Row(tuple(run for path in paths for run in read_result(path)))
    assert [unit.length for unit in row.units.values()] == [2, 2, 2, 2]
    assert list(row.test_sessions) == ["s1", "s2"]


def break_(record: dict[str, Any], place: str, value: object) -> None:
    *path, last = [int(part) if part.isdigit() else part for part in place.split(".")]
    for part in path:
        record = record[part]
    if value is None:
        del record[last]
    else:
        record[last] = value


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        ("test", None, "'test' is missing"),
        ("test", {}, "names no decoder"),
        ("test", [1], "of another type"),
        ("data", None, "'data' is missing"),
        ("data.kind", "mixed", "'mixed'"),
        ("data.kind", "real", "said to be 'real', its test simulated"),
        ("experiment.name", None, "'name' is missing"),
        ("curves", 3, "of another type"),
        ("curves.0.train_loss", "low", "'low'"),
        ("test.greedy.cer", 1.0, "its CER is 1.0, its counts make 25.0"),
        ("test.greedy.cer", float("nan"), "its CER is nan"),
        ("test.greedy.sessions", [], "have no character"),
        ("test.greedy.sessions.0.units.0", [0, 0, 1], "expected 4"),
        ("test.greedy.sessions.0.units.0", None, "do not fit its texts"),
        ("test.greedy.sessions.0.hypothesis", "zzzzzzzz", "do not fit its texts"),
        ("test.greedy.sessions.0.reference", "abc", "do not fit its texts"),
        ("test.greedy.sessions.0.reference", 7, "of another type"),
    ],
)
def test_a_damaged_result_is_refused_by_name(write_result: WriteResult, place: str, value: object, told: str) -> None:
    path = write_result()
    record = read_json(path)
    break_(record, place, value)
    path.write_text(json.dumps(record))
    with pytest.raises(EmgscribeError, match="run the experiment again") as caught:
        read_results(path.parent)
    assert caught.value.where == str(path)
    assert told in caught.value.what


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.99])
def test_a_truncated_result_is_refused_by_name(write_result: WriteResult, kept: float) -> None:
    path = write_result()
    whole = path.read_bytes()
    path.write_bytes(whole[: round(kept * len(whole))])
    with pytest.raises(EmgscribeError, match="not valid JSON") as caught:
        read_results(path.parent)
    assert caught.value.where == str(path)


def test_json_of_another_kind_is_refused(write_result: WriteResult) -> None:
    path = write_result()
    for content in ("[]", "3", '"text"', "null", "{}"):
        path.write_text(content)
        with pytest.raises(EmgscribeError, match="is no whole result"):
            read_result(path)


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "paper.json", {})
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(EmgscribeError, match="no result files"):
            read_results(folder)


@pytest.mark.parametrize("kept", [1.0, 0.5], ids=["whole", "half"])
def test_what_another_run_was_writing_is_no_result(write_result: WriteResult, kept: float) -> None:
    path = write_result("ablation/full", 3)
    left = path.parent / f".{path.name}.k1ll3d" / path.name
    left.parent.mkdir()
    whole = path.read_bytes()
    left.write_bytes(whole[: round(kept * len(whole))])
    assert [run.path for run in read_results(path.parents[1])] == [path]
    path.unlink()
    with pytest.raises(EmgscribeError, match="no result files"):
        read_results(path.parents[1])


def test_a_hidden_folder_above_the_results_does_not_hide_them(write_result: WriteResult, tmp_path: Path) -> None:
    path = write_result(folder=tmp_path / ".kept" / "results")
    assert [run.path for run in read_results(path.parent)] == [path]
