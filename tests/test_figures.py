"""What the figures count, and that they are written completely. A person must judge how they look."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from emgscribe.data.charset import SYMBOLS
from emgscribe.experiments import figures
from emgscribe.experiments.figures import (
    FEW,
    FINGERS,
    GAP,
    Bar,
    confusions,
    draw_confusions,
    draw_curves,
    draw_keyboard,
    draw_losses,
    draw_rows,
    draw_sessions,
    finger_of,
    key_errors,
    key_of,
    key_rates,
)
from emgscribe.scoring import Counts, count

TEXTS = st.text(st.sampled_from(SYMBOLS), max_size=12)
ALL = "".join(SYMBOLS)


def check(paths: list[Path], out: Path) -> None:
    assert paths == [out.with_name(f"{out.name}.{kind}") for kind in ("png", "svg")]
    assert paths[0].read_bytes().startswith(b"\x89PNG")
    assert paths[1].read_text().rstrip().endswith("</svg>")


def test_every_symbol_has_a_key_and_a_finger() -> None:
    assert {finger_of(key_of(symbol)) for symbol in SYMBOLS} == set(FINGERS)
    assert [key_of(symbol) for symbol in "Aa?/⌫⏎ ⇧"] == [*"aa//⌫⏎ ⇧"]
    assert [finger_of(key) for key in "qfjp "] == ["left little", "left index", "right index", "right little", "thumb"]


@given(TEXTS, TEXTS)
def test_confusions_and_key_errors_agree_with_the_counts(reference: str, hypothesis: str) -> None:
    counted, counts = confusions([(reference, hypothesis)]), count(reference, hypothesis)
    assert confusions([(reference, hypothesis)] * 2) == counted + counted
    assert sum(n for (wanted, got), n in counted.items() if wanted != got) == counts.edits
    assert sum(n for (wanted, _), n in counted.items() if wanted == GAP) == counts.insertions
    errors = key_errors(counted)
    assert sum(presses for presses, _ in errors.values()) == counts.length
    assert sum(wrong for _, wrong in errors.values()) == counts.deletions + counts.substitutions


@pytest.mark.parametrize("texts", [[(ALL, ALL[::-1])], [("a", "a")], [("abc", "")], [("a", "Abc")]])
def test_errors_are_drawn_whatever_the_texts(tmp_path: Path, texts: list[tuple[str, str]]) -> None:
    counted = confusions(texts)
    check(draw_confusions(counted, "title", tmp_path / "confusions"), tmp_path / "confusions")
    highest = max(key_rates(counted).values(), default=0.0)
    check(draw_keyboard(counted, "title", tmp_path / "keyboard", highest), tmp_path / "keyboard")


def test_rates_are_of_keys_that_were_pressed_often_enough() -> None:
    counted = confusions([("ab" * FEW + "c", "ax" * 2 + "ab" * (FEW - 2) + "x")])
    assert key_rates(counted) == {"a": 0, "b": pytest.approx(100 * 2 / FEW)}
    assert key_rates(confusions([("abc", "xyz")])) == {}


def test_amounts_are_drawn_in_their_order(tmp_path: Path) -> None:
    bars = {amount: Bar("a", "greedy", cer, (cer - 1, cer + 2), (cer,)) for amount, cer in ((16, 20.0), (2, 60.0))}
    first = draw_curves({"electrodes": bars, "hop": bars}, "title", tmp_path / "amounts")
    check(first, tmp_path / "amounts")
    turned = dict(reversed(bars.items()))
    again = draw_curves({"electrodes": turned, "hop": turned}, "title", tmp_path / "again")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]


def test_the_scale_of_all_curves_reaches_the_highest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(figures, "_save", lambda figure, out: drawn.append(figure) or [])
    low, high = ({1: Bar("", "greedy", cer, (cer - 2, cer + 2), ())} for cer in (30.0, 72.0))
    draw_curves({"electrodes": low, "minutes": high}, "title", tmp_path / "amounts")
    for axes in drawn[0].axes:
        assert axes.get_ylim()[0] == 0
        assert axes.get_ylim()[1] > 74


def test_a_forest_plot_shows_each_row_with_its_interval(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(figures, "_save", lambda figure, out: drawn.append(figure) or [])
    bars = [
        Bar("first", "greedy", 30.0, (27.0, 34.0), (29.0, 31.0)),
        Bar("second", "beam", 20.0, (18.0, 23.0), (20.0,), published=22.5),
    ]
    draw_rows(bars, "title", tmp_path / "rows")
    (axes,) = drawn[0].axes
    lines = {(line.get_marker(), *line.get_ydata()): list(line.get_xdata()) for line in axes.lines}
    assert lines == {
        ("None", 0, 0): [27.0, 34.0],
        ("|", 0, 0): [29.0, 31.0],
        ("o", 0): [30.0],
        ("None", 1, 1): [18.0, 23.0],
        ("|", 1): [20.0],
        ("o", 1): [20.0],
        ("D", 1): [22.5],
    }
    assert [label.get_text() for label in axes.get_yticklabels()] == ["first", "second"]
    assert axes.yaxis_inverted(), "the first row is at the top"
    assert axes.get_xlim()[0] == 0
    assert axes.get_xlim()[1] > 34
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["greedy", "beam", "published"]


def test_sessions_are_drawn_with_pauses_and_without_errors(tmp_path: Path) -> None:
    sessions = {"a": [Counts(1, 2, 3, 40), Counts(), Counts(insertions=2)], "b": [Counts(length=5)]}
    check(draw_sessions(sessions, "title", tmp_path / "sessions"), tmp_path / "sessions")


def test_sessions_stand_side_by_side_with_one_scale(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(figures, "_save", lambda figure, out: drawn.append(figure) or [])
    draw_sessions({str(place): [Counts(place, 0, 0, 10)] for place in range(4)}, "title", tmp_path / "sessions")
    assert drawn[0].get_figheight() < drawn[0].get_figwidth()
    assert [axes.get_ylim() for axes in drawn[0].axes] == [(0, pytest.approx(1.15 * 30))] * 4
    draw_sessions({"errors in a pause": [Counts(length=40), Counts(insertions=60)]}, "title", tmp_path / "sessions")
    assert drawn[1].axes[0].get_ylim()[1] > 150  # the session's CER is in the picture


def test_losses_are_drawn_with_few_validations_and_several_seeds(tmp_path: Path) -> None:
    short = [{"epoch": 0.0, "train_loss": 3.0}]
    long = [{"epoch": float(e), "train_loss": 3.0 / (e + 1)} | ({"val_loss": 2.0} if e % 2 else {}) for e in range(6)]
    curves = {f"row {n}": [long, short] for n in range(5)}
    first = draw_losses(curves, "title", tmp_path / "losses")
    check(first, tmp_path / "losses")
    assert first[1].read_text().count('id="matplotlib.axis_') == 2 * len(curves)  # a grid of 2 x 4 has 3 panels more
    again = draw_losses(curves, "title", tmp_path / "again")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]
