"""Tables beside published numbers, comparisons, and the report's files."""

import csv
import json
import re
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from emgscribe.cli.scores import print_alignment, print_evaluation, print_tables
from emgscribe.errors import EmgscribeError
from emgscribe.experiments import figures
from emgscribe.experiments.comparison import compare
from emgscribe.experiments.recipes import EXPERIMENTS, SUITES
from emgscribe.experiments.report import write_report
from emgscribe.experiments.results import RunResult, read_results
from emgscribe.experiments.tables import Table, published_numbers, tables
from emgscribe.files import read_json, write_json

WriteResult = Callable[..., Path]
DOCS = Path(__file__).parent.parent / "docs"
TEST = published_numbers()["splits"]["one-user"]["test"][0]
TEXT = "abcdefghijklmnopqrstuvwxyz"
ALMOST = [(TEST, TEXT, TEXT[:-1] + "X")]
ERRORS = ("confusions", "keyboard", "sessions")


@pytest.fixture(autouse=True)
def outlines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are files without content here, which takes a tenth of the time; other tests look into pictures."""

    def save(figure: object, out: Path) -> list[Path]:
        out.parent.mkdir(parents=True, exist_ok=True)
        paths = [out.with_name(f"{out.name}.{kind}") for kind in ("png", "svg")]
        for path in paths:
            path.touch()
        return paths

    monkeypatch.setattr(figures, "_save", save)


def all_tables(folder: Path) -> list[Table]:
    return tables(read_results(folder / "results"))


def page_of(folder: Path) -> str:
    page, *_ = write_report(folder / "results", folder / "out")
    return page.read_text()


def test_the_published_tables_are_complete() -> None:
    paper = published_numbers()
    found = paper["experiments"]
    assert set(found) <= set(EXPERIMENTS)
    rows = {n["place"]: n["cer"] for of in found.values() for n in of if n["source"] == "seed"}
    first = dict(enumerate((67, 63, 88, 89, 89, 69, 95, 91, 89), 1))
    second = dict(enumerate((22, 21, 17, 15, 13, 21, 21, 22, 62, 98, 22, 23), 1))
    assert rows == {f"Table {t}, row {n}": cer for t, of in ((1, first), (2, second)) for n, cer in of.items()}
    # Of our rows of the two tables, those without a number are other readings of a row.
    without = {name for name in EXPERIMENTS if name.startswith(("table1/", "table2/"))} - set(found)
    readings = ("excitation-global", "excitation-finite", "cnn-gru-24-filters", "cnn-transformer-2")
    assert without == {f"table2/{name}" for name in readings}
    for number in (number for part in ("experiments", "bars") for of in paper[part].values() for number in of):
        assert 0 < number["cer"] < 100
        assert number["split"] in paper["splits"]
        assert number["source"] in paper["sources"]
        assert number["part"] in ("val", "test")
        assert number["decoder"] in ("greedy", "beam")
        assert number["protocol"] in ("whole session", "windows")
        assert number["place"]
        if "users" in number:  # the mean is of the eight; published means are of unrounded rates
            assert sum(number["users"]) / 8 == pytest.approx(number["cer"], abs=0.01)


def test_trends_name_existing_experiments_and_valid_ranges() -> None:
    for trend in published_numbers()["trends"]:
        assert {trend[part].partition(":")[0] for part in ("of", "to") if part in trend} <= set(EXPERIMENTS)
        low, high = trend["ratio" if "to" in trend else "cer"]
        assert 0 < low <= high


def test_simulated_trends_stand_beside_published_ones(write_result: WriteResult, tmp_path: Path) -> None:
    half = "".join(pair[0] + "X" for pair in re.findall("..", TEXT))  # one of two wrong in every segment
    for name, text in (("ablation/full", half), ("ablation/electrodes-8", "X" * 26), ("ablation/left-hand", half)):
        write_result(name, 0, [("one", TEXT, text)])
    write_result("ablation/full", 1, [("one", TEXT, "")], changes={"train.epochs": 5})
    write_result("ablation/rate-500", 0, kind="real")
    page = page_of(tmp_path)
    assert "| 8 electrodes a band | 1.14 to 1.33 | 2.00 | 2.00–2.00 | 100.0 : 50.0 | +0.49 |" in page
    assert "| left band alone | 47 to 58 % | 50.00 % | 50.00–50.00 | 50.0 | -0.04 |" in page
    assert "Agreement error over 2 trends: the mean of |ln(simulated / recordings)| is 0.26." in page
    assert "by a factor of 1.62: 8 electrodes a band." in page
    assert "No simulated result yet: 4 electrodes a band; 2 electrodes a band; 1 kHz; 500 Hz;" in page


def test_a_trend_needs_rows_of_the_same_sessions(write_result: WriteResult, tmp_path: Path) -> None:
    sessions = [("one", TEXT, TEXT[:4]), ("two", "abcd", "abcX")]
    write_result("ablation/full", 0, sessions)
    write_result("ablation/electrodes-8", 0, sessions[::-1])
    write_result("ablation/electrodes-4", 0, [("one", TEXT, "")])
    page = page_of(tmp_path)
    assert "| 8 electrodes a band | 1.14 to 1.33 | 1.00 | 1.00–1.00 |" in page  # segments are paired, in any order
    reason = "4 electrodes a band (ablation/electrodes-4 was tested on other sessions than ablation/full)"
    assert f"No simulated result yet: {reason}; 2 electrodes a band" in page


def test_rows_that_differ_in_an_amount_are_drawn_as_a_curve(
    write_result: WriteResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[dict[str, dict[int, figures.Bar]]] = []
    monkeypatch.setattr(figures, "draw_curves", lambda curves, title, out: drawn.append(curves) or [])
    for name in ("full", "electrodes-8", "electrodes-2", "rate-500"):
        write_result(f"ablation/{name}", 0)
    write_result("ablation/rate-500", 1, changes={"train.epochs": 5})
    page_of(tmp_path)
    assert [{amount: list(bars) for amount, bars in curves.items()} for curves in drawn] == [
        {"electrodes of each band": [16, 8, 2], "samples a second": [2000, 500]}
    ]


def test_the_leaderboard_ranks_what_was_tested_on_the_same_sessions(write_result: WriteResult, tmp_path: Path) -> None:
    worse = [("one", "abcdefgh", "XXcdefgh")]
    for seed in (0, 1):
        write_result("ablation/full", seed, worse)
    write_result("ablation/rate-500", 0, [("one", "abcdefgh", "Xbcdefgh")], beam=True)
    write_result("demo", 0, worse, changes={"train.epochs": 5, "augment.spec.shared": True, "data.val_users": [1, 2]})
    write_result("mine", 0, worse)
    content = read_json(path := write_result("parts", 0, worse))
    content["experiment"]["model"]["encoder"]["kind"] = "my-own"
    write_json(path, content)
    write_result("table2/baseline", 0, [("two", "abcdefgh", "abcdefgh")])
    write_result("table2/bilstm", 0, worse, kind="real")
    page_of(tmp_path)
    page = (tmp_path / "out" / "leaderboard.md").read_text()
    recorded, same, other = page.split("\n## ")[1:]
    assert recorded.startswith("1 session of 1 person, 8 characters (recorded sessions)\n")
    assert other.startswith("1 session of 1 person, 8 characters (SIMULATED sessions)\n\ntwo;")
    rows = [line.strip("| ").split(" | ") for line in same.splitlines() if re.match(r"\| \d", line)]
    assert [row[:4] for row in rows] == [
        ["1", "ablation/rate-500", "beam", "0.00"],
        ["2", "ablation/rate-500", "greedy", "12.50"],
        ["3", "ablation/full", "greedy", "25.00"],
        ["4", "demo (augment.spec.shared True, train.epochs 5, data.val_users [1, 2])", "greedy", "25.00"],
        ["5", "mine (baseline)", "greedy", "25.00"],
        ["6", "parts", "greedy", "25.00"],
    ]
    assert rows[2][5:] == ["2", "00000000", "`emgscribe reproduce ablation --data simulated`"]
    command = "emgscribe train demo --data DIR --augment.spec.shared --train.epochs 5 --data.val-users 1 2"
    assert rows[3][-1] == f"`{command}`"
    assert rows[4][-1] == "`emgscribe train baseline --data DIR --name mine`"
    assert "`" not in rows[5][-1]  # no command makes it
    assert rows[0][-1] == "`emgscribe reproduce ablation --data simulated --decoder beam`"
    assert "| `emgscribe reproduce table2 --data DIR` |" in recorded


def test_keyboards_of_rows_that_are_compared_have_one_scale(
    write_result: WriteResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scales: list[float] = []
    monkeypatch.setattr(figures, "draw_keyboard", lambda counted, title, out, highest: scales.append(highest) or [])
    typed = "ab" * figures.FEW
    write_result("ablation/full", 0, [("one", typed, typed)])
    write_result("ablation/rate-500", 0, [("one", typed, typed.replace("b", "x"))])
    write_report(tmp_path / "results", tmp_path / "out", ("ablation/full", "ablation/rate-500"))
    assert scales == [100.0, 100.0]


def test_suites_draw_curves_of_their_own_experiments() -> None:
    for suite in SUITES.values():
        names = {experiment.name.removeprefix(f"{suite.name}/") for experiment in suite.experiments}
        assert {name for curve in suite.curves for name in curve.experiments.values()} <= names


def test_results_on_simulated_emg_under_real_keys_have_a_table_of_their_own(
    write_result: WriteResult, tmp_path: Path
) -> None:
    for seed, kind in enumerate(("simulated", "real-keys")):
        write_result("table2/bilstm", seed, kind=kind)
    page = page_of(tmp_path)
    assert "## table2, SIMULATED sessions\n" in page
    under_real_keys = page.split("## table2, sessions of SIMULATED EMG, REAL KEYS\n")[1].split("## ")[0]
    assert "no person's muscles were recorded" in under_real_keys
    assert "published %" not in under_real_keys
    assert (tmp_path / "out" / "real-keys.csv").exists()
    assert "8 characters (sessions of SIMULATED EMG, REAL KEYS)\n" in (tmp_path / "out" / "leaderboard.md").read_text()


def test_a_score_under_real_keys_is_labelled_wherever_it_is_shown(write_result: WriteResult) -> None:
    scored = RunResult.read(write_result("table2/bilstm", kind="real-keys")).test["greedy"]
    assert repr(scored).startswith("<Evaluation of 1 session, simulated EMG, real keys: CER 25.00 %")
    print_evaluation(scored, console := Console(file=(output := StringIO()), width=200))
    print_alignment(scored, console)
    assert "whole session, greedy, sessions of SIMULATED EMG, REAL KEYS " in output.getvalue()
    assert "one (simulated EMG, real keys; I insertion" in output.getvalue()


def test_simulated_and_recorded_results_share_no_table_and_no_number(write_result: WriteResult, tmp_path: Path) -> None:
    write_result("table2/bilstm", 1)
    write_result("table2/bilstm", 2, kind="real", texts=ALMOST)
    write_result("table2/dropout", 1)
    found = all_tables(tmp_path)
    assert [(table.suite.name, table.kind, len(table.rows)) for table in found] == [
        ("table2", "real", 1),
        ("table2", "simulated", 2),
    ]
    rates = {"published %", "ours %", "difference", "simulated %"}
    assert not rates & set(*found[0].records()) & set(next(found[1].records()))
    assert "recordings %" not in next(found[0].records())
    recorded, simulated = page_of(tmp_path).split("## table2, SIMULATED sessions")
    assert "| table2/bilstm | greedy | 15 | 3.85 | -11.15 |" in recorded
    simulated, bars = simulated.split("## Published bars")
    assert "published %" not in simulated
    assert "| experiment | decoder | recordings % | simulated % |" in simulated
    assert "| table2/dropout | greedy | 17 | 25.00 |" in simulated
    assert "| 15 | 25.00 |" in simulated
    assert "no person typed these sessions" in simulated
    assert "are swapped against the usual convention" in bars
    output = StringIO()
    print_tables(found, Console(file=output, width=80))
    recorded, simulated = output.getvalue().split("CER: table2, SIMULATED sessions")
    assert all(f" {number} " in recorded for number in ("15", "3.85", "-11.15", "2: 3.85"))
    assert "25.00" in simulated
    assert "…" not in recorded + simulated


def test_caveats_of_a_row_of_recordings_are_listed(write_result: WriteResult, tmp_path: Path) -> None:
    whole = "a" * 4627
    for seed in (1, 2):
        write_result("table2/bilstm", seed, kind="real", texts=[(TEST, whole, whole)])
    for folder in ("one", "other"):  # a copied result is not a second run
        again = {"folder": tmp_path / "results" / folder, "changes": {"model.encoder.blocks": 2, "train.lr": 0.1}}
        again["changes"] |= {f"windows.{side}": 1 for side in ("left", "right", "stride")}
        again["changes"]["train.batch_size"] = 3
        write_result("my own recipe", 1, kind="real", texts=[("another session", whole, whole)], **again)
    write_result("table2/dropout", 1, kind="real", texts=ALMOST, changes={"train.epochs": 2})
    path = write_result("table2/mlp-480", 1, kind="real", texts=[("another session", whole, whole)])
    content = json.loads(path.read_text())
    content["commit"] += "-dirty"
    content["test"]["greedy"] |= {"passes": "windows of 4 s, CTC weight 0.5", "seen": True}
    path.write_text(json.dumps(content))
    content["commit"] = "unknown"
    content["experiment"]["name"] = "table2/cnn-gru"
    write_json(path.with_name("no-commit.json"), content)
    caveats = {r["experiment"].partition(" (")[0]: r["caveats"] for t in all_tables(tmp_path) for r in t.records()}
    assert caveats == {
        "my own recipe": "one training run",
        "table2/bilstm": "",
        "table2/dropout": "one training run, changed settings, 26 of 4627 characters",
        "table2/mlp-480": "one training run, decoded in windows, seen in training, uncommitted code",
        "table2/cnn-gru": caveats["table2/mlp-480"].replace("uncommitted code", "changed settings, unknown commit"),
    }
    assert "Caveats are what a reader should know" in page_of(tmp_path)
    write_result("demo", 1, folder=tmp_path / "simulated")
    assert not any("caveats" in r for t in tables(read_results(tmp_path / "simulated")) for r in t.records())


def test_a_table_for_a_paper_has_published_numbers_and_the_number_of_runs(
    write_result: WriteResult, tmp_path: Path
) -> None:
    for seed in (1, 2):
        write_result("table2/bilstm", seed, kind="real", texts=ALMOST)
    write_report(tmp_path / "results", tmp_path / "out")
    head, row = (tmp_path / "out" / "real.tex").read_text().split("\\toprule\n")[1].split("\\midrule\n")
    shown = ("published\\,\\%", "ours\\,\\%", "difference", "95\\,\\% interval", "characters", "runs")
    assert head == rf"experiment & decoder & {' & '.join(shown)} \\" + "\n"
    assert row.startswith("bilstm & greedy & 15 & 3.85 & -11.15 & 0.00--")
    assert row.split("\n")[0].endswith(rf" & {len(TEXT)} & 2 \\")


def test_published_numbers_stand_only_beside_the_same_sessions_and_settings(
    write_result: WriteResult, tmp_path: Path
) -> None:
    whole = {"kind": "real", "texts": [(TEST, TEXT, TEXT)]}
    write_result("table2/bilstm", 1, kind="real", texts=[("another session", TEXT, TEXT)])
    write_result("table2/dropout", 1, **whole, changes={"train.epochs": 2})
    write_result("table2/mlp-480", 1, **whole)
    write_result("records/conformer", 1, **whole)  # published for windows, not whole sessions
    write_result("records/bigru-48", 1, kind="real", texts=ALMOST, beam=True)
    table, records = all_tables(tmp_path)
    assert table.published == (21, None, None)
    assert [record["difference"] for record in table.records()] == ["-21.00", "", ""]
    published = {(row.name, row.decoder): of for row, of in zip(records.rows, records.published, strict=True)}
    assert published["records/bigru-48", "beam"] == 6.81
    assert published["records/conformer", "greedy"] is None
    assert "only beside results on the very sessions" in page_of(tmp_path)


def test_recordings_stand_beside_simulated_rows_of_any_budget_in_a_column_of_their_own(
    write_result: WriteResult, tmp_path: Path
) -> None:
    for name in ("small/table2/dropout", "small/table2/excitation-global", "ablation/full"):
        write_result(name, 1501, beam=True)
    write_result("small/table2/dropout", 1, changes={"train.epochs": 2})
    write_result("table2/dropout", 1, kind="real-keys")
    real_keys, small, ablation = all_tables(tmp_path)
    assert [row["recordings %"] for row in real_keys.records()] == ["17"]
    shown = {(row["experiment"], row["decoder"]): row["recordings %"] for row in small.records()}
    assert shown.pop(("small/table2/dropout", "greedy")) == "17"
    assert len(shown) == 4  # the beam, changed settings, and a row that nobody published
    assert set(shown.values()) == {""}
    assert "recordings %" not in next(ablation.records())
    page = page_of(tmp_path)
    assert page.count("Compare the order of the rows in the two columns") == 2
    assert r"dropout & beam &  & 0.00 &" in (tmp_path / "out" / "simulated.tex").read_text()


def test_the_benchmark_has_means_and_deviations_over_its_users(write_result: WriteResult, tmp_path: Path) -> None:
    sessions = {f"s{user}": f"user{user}" for user in range(8)}
    texts = [(name, TEXT + TEXT, "X" * place + (TEXT + TEXT)[place:]) for place, name in enumerate(sessions)]
    write_result("benchmark/generic", 1501, texts, kind="real", users=sessions)
    for text, user in zip(texts, sessions.values(), strict=True):
        write_result(f"benchmark/{user}/random-init", 1501, [text], kind="real", users=sessions)
    table = next(table for table in all_tables(tmp_path) if table.suite.name == "benchmark")
    generic, alone = table.records()
    assert [generic["experiment"], alone["experiment"]] == ["benchmark/generic", "benchmark/random-init"]
    assert table.published == (55.38, 15.38)
    for record in (generic, alone):
        assert float(record["ours %"]) == pytest.approx(100 * 3.5 / 52, abs=0.005)
        low, high = map(float, record["95 % interval"].split("–"))
        assert low < 100 * 3.5 / 52 < high
        assert float(record["deviation over users"]) == pytest.approx(100 * (21 / 4) ** 0.5 / 52, abs=0.005)
        assert record["each user"].startswith("user0: 0.00, user1: 1.92")
    (single,) = tables(read_results(tmp_path / "results"), "benchmark/user2")
    assert [row.cer for row in single.rows] == [pytest.approx(100 * 2 / 52)] * 2  # generic on this user's session
    page = page_of(tmp_path)
    assert "means over users, beside their standard deviation" in page
    pictures = re.findall(r"\]\((.*?)\)", page)
    assert len(pictures) == len(set(pictures))


def test_seeds_share_a_row_and_other_settings_do_not(write_result: WriteResult, tmp_path: Path) -> None:
    for seed, read in ((1, "abXd"), (2, "XbXd")):
        write_result("table1/baseline", seed, texts=[("one", "abcd", read)])
    write_result("table1/baseline", 3, changes={"train.epochs": 1})
    (table,) = all_tables(tmp_path)
    averaged, other = table.records()
    assert averaged["simulated %"] == "37.50"
    assert averaged["each seed"] == "1: 25.00, 2: 50.00"
    assert averaged["data"] == "simulated, 01234567"
    assert averaged["characters"] == "4"
    assert other["experiment"] == "table1/baseline (train.epochs 1)"
    assert f"0 of the suite's {len(SUITES['table1'].experiments)} runs" in page_of(tmp_path)  # changed settings


def test_seeds_of_other_people_have_a_row_of_their_own(write_result: WriteResult, tmp_path: Path) -> None:
    write_result("table1/baseline", 1, [("one", "abcd", "abXd")], users={"one": "11"})
    write_result("table1/baseline", 2, [("one", "abcd", "abcd")], users={"one": "11"})
    write_result("table1/baseline", 1, [("two", "efgh", "XXgh")], users={"two": "22"}, folder=tmp_path / "results/22")
    (table,) = all_tables(tmp_path)
    first, second = sorted(table.records(), key=lambda record: record["experiment"])
    assert first["experiment"] == "table1/baseline (user 11, data 01234567)"
    assert (first["simulated %"], first["each seed"]) == ("12.50", "1: 25.00, 2: 0.00")
    assert second["experiment"] == "table1/baseline (user 22, data 01234567)"
    assert second["simulated %"] == "50.00"


def test_a_trend_is_that_of_the_first_of_several_people(write_result: WriteResult, tmp_path: Path) -> None:
    for name, read in (("ablation/full", "abXX"), ("ablation/electrodes-8", "aXXX")):
        write_result(name, 0, [("one", "abcd", read)])
        write_result(name, 0, [("two", "abcd", "XXXX")], folder=tmp_path / "results/other")
    assert "| 8 electrodes a band | 1.14 to 1.33 | 1.50 |" in page_of(tmp_path)


def test_rows_come_in_the_order_of_the_suite(write_result: WriteResult, tmp_path: Path) -> None:
    for name in ("table1/warp-3-0.1", "demo", "unheard-of", "table1/baseline", "table1/specaugment-4-3"):
        write_result(name)
    assert [[row.name for row in table.rows] for table in all_tables(tmp_path)] == [
        ["table1/baseline", "table1/specaugment-4-3", "table1/warp-3-0.1"],
        ["demo", "unheard-of"],
    ]


def test_a_comparison_is_paired_and_says_what_it_found(write_result: WriteResult, tmp_path: Path) -> None:
    worse = "".join("X" if place % 2 else letter for place, letter in enumerate(TEXT))
    for seed in (0, 1):
        write_result("ablation/full", seed, texts=[("one", TEXT, worse)], beam=True)
    write_result("ablation/rate-500", 0, texts=[("one", TEXT, TEXT)])
    found = all_tables(tmp_path)
    (same,) = compare(found, "ablation/full", "ablation/rate-500")  # rate-500 has no beam
    assert "(SIMULATED sessions, greedy): difference +50.00 points, 95 % interval +50.00 to +50.00," in same
    assert "13 segments of 10 s; ablation/full is better in 0.0 % of its resamples" in same
    assert "The interval shows a difference in these sessions." in same
    assert same.endswith("(MAPSSWE) over 1 segment: too few for a p")
    (decoders,) = compare(found, "ablation/full:beam", "ablation/full:greedy")
    assert "beam and greedy): difference -50.00 points" in decoders
    (across,) = compare(found, "ablation/full:beam", "ablation/rate-500:greedy")
    assert "The interval shows no difference" in across
    with pytest.raises(EmgscribeError, match="no result of 'ablation/rate-500:beam'"):
        compare(found, "ablation/full:beam", "ablation/rate-500:beam")


def test_rows_are_compared_with_the_first_of_their_suite(write_result: WriteResult, tmp_path: Path) -> None:
    worse = "".join("X" if place % 2 else letter for place, letter in enumerate(TEXT))
    texts = [(name, TEXT, TEXT) for name in "abcdef"]
    write_result("ablation/rate-500", 0, [(name, text, worse) for name, text, _ in texts])
    assert "Against" not in page_of(tmp_path)  # the first experiment has no result
    for seed in (0, 1):
        write_result("ablation/full", seed, texts, beam=True)
    write_result("ablation/full", 2, texts[:1], changes={"train.epochs": 5})
    write_result("ablation/rate-250", 0, texts[:5])
    write_result("ablation/rate-1000", 0, texts, kind="real")
    page = page_of(tmp_path)
    head, *rows = page.split("Against ablation/full, on the same segments:\n\n")[1].split("\n\n")[0].splitlines()
    assert head == "| experiment | decoder | difference, points | 95 % interval | matched pairs | better in |"
    assert rows[1:] == ["| ablation/rate-500 | greedy | +50.00 | +50.00 to +50.00 | p = 0.032 | 0.0 % |"]
    assert page.count("Against ") == 1


def test_only_the_same_sessions_of_the_same_kind_can_be_compared(write_result: WriteResult, tmp_path: Path) -> None:
    write_result("ablation/full", 0)
    write_result("ablation/rate-500", 0, kind="real")
    write_result("ablation/rate-250", 0, texts=[("two", "abcdefgh", "abcdefgh")])
    for other in ("ablation/rate-500", "ablation/rate-250", "ablation/full"):
        with pytest.raises(EmgscribeError, match="were not tested on the same sessions"):
            compare(all_tables(tmp_path), "ablation/full", other)


def test_the_report_holds_tables_numbers_and_figures(write_result: WriteResult, tmp_path: Path) -> None:
    write_result("ablation/full", 0)
    path = write_result("ablation/rate-500", 0, texts=[("one", "abcdefgh", "Xbc|efgh")])
    out, names = tmp_path / "out", ("ablation/full", "ablation/rate-500")
    written = write_report(str(tmp_path / "results"), str(out), names)
    assert written[0] == out / "report.md"
    assert sorted(written) == sorted(path for path in out.rglob("*") if path.is_file())
    kinds = (
        "rows",
        "amounts",
        "losses",
        *(f"greedy-{name}-{what}" for name in ("full", "rate-500") for what in ERRORS),
    )
    expected = {f"simulated-ablation-{kind}.{suffix}" for kind in kinds for suffix in ("png", "svg")}
    assert {path.name for path in (out / "figures").iterdir()} == expected
    page = (out / "report.md").read_text()
    assert f"2 of the suite's {len(SUITES['ablation'].experiments)} runs have a result." in page
    assert all((out / link).exists() for link in re.findall(r"\]\((.*?)\)", page))
    with (out / "simulated.csv").open(newline="") as file:
        rows = [(row["suite"], row["experiment"], row["simulated %"]) for row in csv.DictReader(file)]
    assert rows == [("ablation", "ablation/full", "25.00"), ("ablation", "ablation/rate-500", "25.00")]
    assert r"rate-500 & greedy & 25.00 & 0.00--50.00 & 8 & 1 \\" in (out / "simulated.tex").read_text().splitlines()
    assert "Commonest errors of ablation/full, greedy:\n\n1. `c` read as `X`: 1\n2. `h` read as nothing: 1\n\n" in page
    for name in names:
        path = tmp_path / "results" / f"{name}-0.json"
        write_json(path, read_json(path) | {"curves": []})
    written = write_report(tmp_path / "results", tmp_path / "again")
    assert not [path for path in written if "losses" in path.name]
    path.write_text(path.read_text()[:500])
    with pytest.warns(UserWarning, match=r"left out: .*rate-500-0\.json: not valid JSON"):
        page, *_ = write_report(tmp_path / "results", tmp_path / "again")
    assert "1 of the suite's" in page.read_text()


def test_the_ten_commonest_errors_are_listed_commonest_first(write_result: WriteResult, tmp_path: Path) -> None:
    wrong = "jihgfedc `k"  # each once more than the one before it
    reference = "".join(key * (place + 2) for place, key in enumerate(wrong))
    read = re.sub(f"[{wrong}]", "X", reference)
    write_result("demo", 0, [("one", f"ab{reference}", f"ab{read}")])
    listed = re.findall(r"^(\d+)\. (.*) read as `X`: (\d+)$", page_of(tmp_path), re.MULTILINE)
    names = ["`k`", "the backtick", "space", *(f"`{key}`" for key in "cdefghi")]
    assert listed == [(str(place), name, str(13 - place)) for place, name in enumerate(names, 1)]
    write_result("demo", 0, [("one", "ab", "ab")])
    assert "Commonest errors of demo, greedy: none." in page_of(tmp_path)


def test_rows_of_other_settings_have_labels_and_pictures_of_their_own(
    write_result: WriteResult, tmp_path: Path
) -> None:
    same = {"augment.jitter.samples": 1, "train.epochs": 7, "train.batch_size": 3}
    others = ({"train.lr": 1.0}, {"train.lr": 2.0}, {"train.lr": 2.0, "train.lr_end": 1.0}, {"train.lr": 0.1})
    for seed, changes in enumerate(others):
        write_result("ablation/full", seed, changes={**same, **changes})
    (table,) = all_tables(tmp_path)
    first = "augment.jitter.samples 1, train.epochs 7, train.batch_size 3"
    assert [row.label for row in table.rows] == [
        f"ablation/full ({first}, train.lr 1.0)",
        f"ablation/full ({first}, train.lr 2.0)",
        f"ablation/full ({first}, train.lr 2.0, train.lr_end 1.0)",
        f"ablation/full ({first}, train.lr 0.1)",
    ]
    for name in ("a+b", "a=b"):  # file names cannot tell them apart
        write_result(name)
    written = write_report(tmp_path / "results", tmp_path / "out", ("a+b", "a=b"))
    assert len(set(written)) == len(written) == 4 + 2 * (2 + 2 + 3 * len(ERRORS))


def test_all_committed_results_render_to_the_committed_report(tmp_path: Path) -> None:
    page, *_ = written = write_report(DOCS / "results", tmp_path)
    assert all(f"| {result.name}" in page.read_text() for result in read_results(DOCS / "results"))
    made = {path.relative_to(tmp_path): path for path in written if path.suffix != ".svg"}  # which are large
    kept = {path.relative_to(DOCS / "report"): path for path in (DOCS / "report").rglob("*.*") if path.suffix != ".svg"}
    assert made.keys() == kept.keys(), "rm -r docs/report; emgscribe report --results docs/results --out docs/report"
    texts = [name for name in made if name.suffix != ".png"]
    assert {name.name for name in texts} == {"report.md", "leaderboard.md", "simulated.csv", "simulated.tex"}
    for name in texts:
        assert made[name].read_text(encoding="utf-8") == kept[name].read_text(encoding="utf-8"), name
