"""Tables beside published numbers, comparisons, and the report's files."""

import csv
import json
import re
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from emgscribe.errors import EmgscribeError
from emgscribe.experiments.report import Table, compare, make_report, print_tables, published_numbers, tables
from emgscribe.experiments.results import read_results
from emgscribe.experiments.recipes import EXPERIMENTS, SUITES
from emgscribe.files import read_json, write_json

WriteResult = Callable[..., Path]
RESULTS = Path(__file__).parent.parent / "results"
TEST = published_numbers()["splits"]["one-user"]["test"][0]
TEXT = "abcdefghijklmnopqrstuvwxyz"


def all_tables(results: Path) -> list[Table]:
    return tables(read_results(results))


def numbers() -> list[dict]:
    paper = published_numbers()
    return [number for part in ("experiments", "bars") for found in paper[part].values() for number in found]


def test_every_experiment_with_a_published_number_exists() -> None:
    assert set(published_numbers()["experiments"]) <= set(EXPERIMENTS)


def test_the_seed_papers_tables_are_whole() -> None:
    found = published_numbers()["experiments"]
    rows = {n["place"]: n["cer"] for of in found.values() for n in of if n["source"] == "seed"}
    first = dict(enumerate((67, 63, 88, 89, 89, 69, 95, 91, 89), 1))
    second = dict(enumerate((22, 21, 17, 15, 13, 21, 21, 22, 62, 98, 22, 23), 1))
    assert rows == {f"Table {t}, row {n}": cer for t, of in ((1, first), (2, second)) for n, cer in of.items()}
    # Of our rows of the two tables, those without a number are other readings of a row.
    without = {name for name in EXPERIMENTS if name.startswith(("table1/", "table2/"))} - set(found)
    readings = ("excitation-global", "excitation-finite", "cnn-gru-24-filters", "cnn-transformer-2")
    assert without == {f"table2/{name}" for name in readings}


@pytest.mark.parametrize("number", numbers(), ids=lambda number: f"{number['source']}-{number['cer']}")
def test_every_published_number_says_what_it_is(number: dict) -> None:
    paper = published_numbers()
    assert 0 < number["cer"] < 100
    assert number["split"] in paper["splits"]
    assert number["source"] in paper["sources"]
    assert number["part"] in ("val", "test")
    assert number["decoder"] in ("greedy", "beam")
    assert number["protocol"] in ("whole session", "windows")
    assert number["place"]
    if "users" in number:  # the mean is of the eight; published means are of unrounded rates
        assert sum(number["users"]) / 8 == pytest.approx(number["cer"], abs=0.01)


def test_simulated_and_recorded_results_never_share_a_table(write_result: WriteResult, tmp_path: Path) -> None:
    write_result("table2/bilstm", 1)
    write_result("table2/bilstm", 2, kind="real", texts=[(TEST, TEXT, TEXT[:-1] + "X")])
    write_result("table2/dropout", 1)
    found = all_tables(tmp_path / "results")
    assert [(table.suite, table.kind, len(table.rows)) for table in found] == [
        ("table2", "real", 1),
        ("table2", "simulated", 2),
    ]
    assert all({run.kind for row in table.rows for run in row.runs} == {table.kind} for table in found)
    rates = {"published %", "ours %", "difference", "simulated %"}
    assert not rates & set(found[0].records()[0]) & set(found[1].records()[0])


def test_published_numbers_stand_beside_recorded_results_only(write_result: WriteResult, tmp_path: Path) -> None:
    write_result("table2/bilstm", 1)
    write_result("table2/bilstm", 2, kind="real", texts=[(TEST, TEXT, TEXT[:-1] + "X")])
    make_report(tmp_path / "results", tmp_path / "out")
    page = (tmp_path / "out" / "report.md").read_text()
    recorded, simulated = page.split("## table2, SIMULATED sessions")
    assert "| table2/bilstm | greedy | 15 | 3.85 | -11.15 |" in recorded
    simulated = simulated.split("## Published bars")[0]
    assert "published %" not in simulated
    assert "| 15 |" not in simulated
    assert "nobody typed these sessions" in simulated


def test_numbers_of_other_sessions_or_settings_are_not_compared(write_result: WriteResult, tmp_path: Path) -> None:
    write_result("table2/bilstm", 1, kind="real", texts=[("another session", TEXT, TEXT)])
    write_result("table2/dropout", 1, kind="real", texts=[(TEST, TEXT, TEXT)], epochs=2)
    write_result("table2/mlp-480", 1, kind="real", texts=[(TEST, TEXT, TEXT)])
    (table,) = all_tables(tmp_path / "results")
    assert table.published == (21, None, None)
    assert [record["difference"] for record in table.records()] == ["-21.00", "", ""]
    make_report(tmp_path / "results", tmp_path / "out")
    assert "only beside results on the very sessions" in (tmp_path / "out" / "report.md").read_text()


def test_windowed_numbers_are_no_numbers_of_whole_sessions(write_result: WriteResult, tmp_path: Path) -> None:
    write_result("records/conformer", 1, kind="real", texts=[(TEST, TEXT, TEXT)])
    assert all_tables(tmp_path / "results")[0].published == (None,)


def test_seeds_share_a_row_and_other_settings_do_not(write_result: WriteResult, tmp_path: Path) -> None:
    for seed, read in ((1, "abXd"), (2, "XbXd")):
        write_result("table1/baseline", seed, texts=[("one", "abcd", read)])
    write_result("table1/baseline", 3, epochs=1)
    (table,) = all_tables(tmp_path / "results")
    averaged, other = table.records()
    assert averaged["simulated %"] == "37.50"
    assert averaged["each seed"] == "1: 25.00, 2: 50.00"
    assert averaged["data"] == "simulated, 01234567"
    assert other["experiment"] == "table1/baseline (train.epochs 1)"
    make_report(tmp_path / "results", tmp_path / "out")  # runs with other settings are not the suite's
    assert f"0 of the suite's {len(SUITES['table1'])} runs" in (tmp_path / "out" / "report.md").read_text()


def test_rows_come_in_the_order_of_the_suite(write_result: WriteResult, tmp_path: Path) -> None:
    for name in ("table1/warp-3-0.1", "demo", "unheard-of", "table1/baseline", "table1/specaugment-4-3"):
        write_result(name)
    found = [[row.first.name for row in table.rows] for table in all_tables(tmp_path / "results")]
    assert found == [
        ["table1/baseline", "table1/specaugment-4-3", "table1/warp-3-0.1"],
        ["demo", "unheard-of"],
    ]


def test_a_comparison_is_paired_and_says_what_it_found(write_result: WriteResult, tmp_path: Path) -> None:
    worse = "".join("X" if place % 2 else letter for place, letter in enumerate(TEXT))
    write_result("ablation/full", 0, texts=[("one", TEXT, TEXT)])
    write_result("ablation/rate-500", 0, texts=[("one", TEXT, worse)])
    found = all_tables(tmp_path / "results")
    (comparison,) = compare(found, "ablation/rate-500", "ablation/full")
    assert (comparison.difference, comparison.low, comparison.high) == (50, 50, 50)
    assert "difference +50.00 points" in str(comparison)
    assert "SIMULATED" in str(comparison)
    assert str(comparison).endswith("13 stretches of 10 s: these sessions show a difference")
    (back,) = compare(found, "ablation/full", "ablation/rate-500")
    assert back.difference == -50


def test_only_the_same_sessions_of_the_same_kind_compare(write_result: WriteResult, tmp_path: Path) -> None:
    write_result("ablation/full", 0)
    write_result("ablation/rate-500", 0, kind="real")
    write_result("ablation/rate-250", 0, texts=[("two", "abcdefgh", "abcdefgh")])
    found = all_tables(tmp_path / "results")
    for other in ("ablation/rate-500", "ablation/rate-250", "ablation/full"):
        with pytest.raises(EmgscribeError, match="were not tested on the same sessions"):
            compare(found, "ablation/full", other)
    with pytest.raises(EmgscribeError, match="no result of 'table1/baseline'"):
        compare(found, "ablation/full", "table1/baseline")


def test_the_report_holds_tables_numbers_and_figures(write_result: WriteResult, tmp_path: Path) -> None:
    write_result("ablation/full", 0)
    write_result("ablation/rate-500", 0, texts=[("one", "abcdefgh", "Xbc|efgh")])
    out = tmp_path / "out"
    written = make_report(tmp_path / "results", out, ("ablation/full", "ablation/rate-500"))
    assert written[0] == out / "report.md"
    assert sorted(written) == sorted(path for path in out.rglob("*") if path.is_file())
    kinds = ("losses", *(f"greedy-{name}-{what}" for name in ("full", "rate-500") for what in ERRORS))
    expected = {f"simulated-ablation-{kind}.{suffix}" for kind in kinds for suffix in ("png", "svg")}
    assert {path.name for path in (out / "figures").iterdir()} == expected
    page = (out / "report.md").read_text()
    assert f"2 of the suite's {len(SUITES['ablation'])} runs have a result." in page
    assert all((out / link).exists() for link in re.findall(r"\]\((.*?)\)", page))
    with (out / "simulated.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["suite"], row["experiment"], row["simulated %"]) for row in rows] == [
        ("ablation", "ablation/full", "25.00"),
        ("ablation", "ablation/rate-500", "25.00"),
    ]


ERRORS = ("confusions", "keyboard", "sessions")


def test_a_result_without_curves_has_no_panel(write_result: WriteResult, tmp_path: Path) -> None:
    path = write_result()
    write_json(path, read_json(path) | {"curves": []})
    written = make_report(tmp_path / "results", tmp_path / "out")
    assert not [path for path in written if "losses" in path.name]


def test_nothing_is_written_for_damaged_results(write_result: WriteResult, tmp_path: Path) -> None:
    write_result("ablation/full", 0)
    damaged = write_result("table1/baseline", 0)
    damaged.write_text(damaged.read_text()[:500])
    with pytest.raises(EmgscribeError, match=r"baseline-0\.json"):
        make_report(tmp_path / "results", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_terminal_shows_the_same_tables(write_result: WriteResult, tmp_path: Path) -> None:
    write_result("ablation/full", 0)
    write_result("table2/bilstm", 2, kind="real", texts=[(TEST, TEXT, TEXT[:-1] + "X")])
    output = StringIO()
    print_tables(all_tables(tmp_path / "results"), Console(file=output, width=80))
    recorded, simulated = output.getvalue().split("CER: ablation, SIMULATED sessions")
    for number in ("15", "3.85", "-11.15", "2: 3.85"):
        assert f" {number} " in recorded
    assert "25.00" in simulated
    assert "…" not in recorded + simulated


def test_all_committed_results_render_to_the_committed_report(tmp_path: Path) -> None:
    page, *others = make_report(RESULTS, tmp_path)
    text = page.read_text()
    assert all(f"| {run.name}" in text for run in read_results(RESULTS))
    kept = RESULTS.parent / "docs" / "report"
    assert text == (kept / "report.md").read_text(), "emgscribe report --out docs/report"
    pictures = [other.relative_to(tmp_path) for other in others if other.suffix == ".png"]
    assert len(pictures) > 8
    assert all((kept / picture).exists() for picture in pictures)


def with_beam(path: Path) -> None:
    """Give a result the score of a beam that reads without a fault."""
    record = read_json(path)
    beam = json.loads(json.dumps(record["test"]["greedy"]))
    for session in beam["sessions"]:
        session["hypothesis"] = session["reference"]
        session["units"] = [[0, 0, 0, unit[3]] for unit in session["units"]]
    beam["cer"] = 0.0
    record["test"]["beam"] = beam
    write_json(path, record)


def test_two_decoders_of_an_experiment_are_compared_on_the_same_stretches(
    write_result: WriteResult, tmp_path: Path
) -> None:
    for seed in (1, 2):
        with_beam(write_result("ablation/full", seed))
    write_result("ablation/rate-500", texts=[("one", "abcdefgh", "abcdefXh")])
    found = all_tables(tmp_path / "results")
    (comparison,) = compare(found, "ablation/full:greedy", "ablation/full:beam")
    assert (comparison.difference, comparison.second.first.decoder) == (25.0, "beam")
    assert "(SIMULATED sessions, greedy and beam)" in str(comparison)
    (same,) = compare(found, "ablation/full", "ablation/rate-500")  # rate-500 has no beam
    assert {same.first.first.decoder, same.second.first.decoder} == {"greedy"}
    (across,) = compare(found, "ablation/full:beam", "ablation/rate-500:greedy")
    assert across.difference == -12.5
    with pytest.raises(EmgscribeError, match="no result of 'ablation/rate-500:beam'"):
        compare(found, "ablation/full:beam", "ablation/rate-500:beam")


def test_a_report_of_one_decoder(write_result: WriteResult, tmp_path: Path) -> None:
    with_beam(write_result("ablation/full"))
    make_report(tmp_path / "results", tmp_path / "out", decoders=["beam"])
    page = (tmp_path / "out" / "report.md").read_text()
    assert "| ablation/full | beam |" in page
    assert "greedy" not in page
    with pytest.raises(EmgscribeError, match=r"no result by attention(?s:.*)name one that has some: beam, greedy"):
        make_report(tmp_path / "results", tmp_path / "out", decoders=["attention"])


def test_numbers_published_with_a_language_model_stand_beside_the_beam(
    write_result: WriteResult, tmp_path: Path
) -> None:
    with_beam(write_result("records/bigru-48", 1, kind="real", texts=[(TEST, TEXT, TEXT[:-1] + "X")]))
    (table,) = all_tables(tmp_path / "results")
    published = {row.first.decoder: number for row, number in zip(table.rows, table.published, strict=True)}
    greedy = [n["cer"] for n in published_numbers()["experiments"]["records/bigru-48"] if n["decoder"] == "greedy"]
    assert published["beam"] == 6.81
    assert published["greedy"] != 6.81
    assert published["greedy"] in (None, *greedy)


def test_runs_without_a_score_of_the_decoder_still_have_a_result(write_result: WriteResult, tmp_path: Path) -> None:
    with_beam(write_result("ablation/full"))
    write_result("ablation/rate-500")
    of = f"of the suite's {len(SUITES['ablation'])} runs have a result"
    said = {"beam": f"1 {of} by beam.", "greedy": f"2 {of} by greedy.", "greedy,beam": f"2 {of} by greedy or beam."}
    for decoders, sentence in said.items():
        make_report(tmp_path / "results", tmp_path / "out", decoders=decoders.split(","))
        assert sentence in (tmp_path / "out" / "report.md").read_text()
    make_report(tmp_path / "results", tmp_path / "out")
    assert f"2 {of}." in (tmp_path / "out" / "report.md").read_text()


def test_a_row_of_two_suites_has_pictures_of_its_own_in_each(write_result: WriteResult, tmp_path: Path) -> None:
    write_result("benchmark/generic", 1501, kind="real", texts=[("one", TEXT, TEXT), ("other", TEXT, TEXT[:-1] + "X")])
    for user, session in (("user0", "one"), ("user1", "other")):
        write_result(f"benchmark/{user}/random-init", 1501, kind="real", texts=[(session, TEXT, "X" * len(TEXT))])
    make_report(tmp_path / "results", tmp_path / "out")
    page = (tmp_path / "out" / "report.md").read_text()
    pictures = re.findall(r"\]\((.*?)\)", page)
    assert len(pictures) == len(set(pictures))
    sessions = [(tmp_path / "out" / link).read_bytes() for link in pictures if "sessions" in link]
    assert len(sessions) == len(set(sessions)) == 2


def test_rows_that_differ_late_in_their_settings_have_labels_and_pictures_of_their_own(
    write_result: WriteResult, tmp_path: Path
) -> None:
    for seed, changes in enumerate(({"lr": 1.0}, {"lr": 2.0}, {"lr": 2.0, "lr_end": 1.0})):
        path = write_result("ablation/full", seed)
        record = read_json(path)
        record["experiment"]["augment"]["jitter"]["samples"] = 1
        record["experiment"]["train"] |= {"epochs": 7, "batch_size": 3, **changes}
        write_json(path, record)
    (table,) = all_tables(tmp_path / "results")
    first = "augment.jitter.samples 1, train.epochs 7, train.batch_size 3"
    assert [row.label for row in table.rows] == [
        f"ablation/full ({first}, train.lr 1.0)",
        f"ablation/full ({first}, train.lr 2.0)",
        f"ablation/full ({first}, and 2 more)",
    ]
    written = make_report(tmp_path / "results", tmp_path / "out", ("ablation/full", "ablation/full"))
    assert len(set(written)) == len(written) == 2 + 2 * (1 + 3 * len(ERRORS))
    losses = (tmp_path / "out" / "figures" / "simulated-ablation-losses.svg").read_text()
    assert losses.count('id="matplotlib.axis_') == 2 * 3


def test_labels_that_file_names_cannot_tell_apart_have_pictures_of_their_own(
    write_result: WriteResult, tmp_path: Path
) -> None:
    for seed, weight in enumerate((1.5, -1.5)):
        path = write_result("ablation/full", seed)
        record = read_json(path)
        record["experiment"]["train"]["weight_decay"] = weight
        write_json(path, record)
    written = make_report(tmp_path / "results", tmp_path / "out", ("ablation/full", "ablation/full"))
    assert len(set(written)) == len(written) == 2 + 2 * (1 + 2 * len(ERRORS))
