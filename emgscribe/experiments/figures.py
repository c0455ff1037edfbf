"""Pictures of results: losses, what is confused with what, each key's errors, errors over a session. PNG and SVG."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
import numpy.typing as npt

from emgscribe.data.charset import BACKSPACE, ENTER, SHIFT, SPACE
from emgscribe.errors import needing
from emgscribe.files import replacing
from emgscribe.scoring import Counts, side_by_side, total
from emgscribe.simulation.keyboard import LEFT, SHIFTS, TEXTBOOK, Finger, unshifted

with needing("train"):
    import matplotlib as mpl
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize, PowerNorm
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import FancyBboxPatch
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

GAP = "·"  # what `side_by_side` shows where there is nothing; not a symbol of the charset
FEW = 5  # presses below which a key has no rate worth a colour
# Okabe and Ito's colours, which stay apart for colour-blind eyes.
_BLUE, _ORANGE, _GREEN, _VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
_LONG = ("little", "ring", "middle", "index")
FINGERS = (*(f"left {name}" for name in _LONG), *(f"right {name}" for name in _LONG[::-1]), "thumb", "shift")
"""Textbook fingers from left to right, then thumb, then shift, which both little fingers press."""


def key_of(symbol: str) -> str:
    """The key that types a symbol: `A` and `a` are one key; the gap stays the gap."""
    return unshifted(symbol)[0]


def finger_of(key: str) -> str:
    """One of `FINGERS` for a key, by the touch-typing textbook: a session does not say which finger pressed."""
    place = TEXTBOOK.get(key)
    if place is None or place.finger is Finger.THUMB:
        return "thumb" if place else "shift"
    return f"{'left' if place.hand == LEFT else 'right'} {place.finger.name.lower()}"


def confusions(texts: Iterable[tuple[str, str]]) -> Counter[tuple[str, str]]:
    """How often each symbol was read as each, over (reference, hypothesis) texts; `GAP` where one side has none."""
    counted: Counter[tuple[str, str]] = Counter()
    for reference, hypothesis in texts:
        wanted, got, _ = side_by_side(reference, hypothesis)
        counted.update(zip(wanted, got, strict=True))
    return counted


def key_errors(counted: Counter[tuple[str, str]]) -> dict[str, tuple[int, int]]:
    """Key -> (presses, presses misread or missed); extra characters belong to no key."""
    presses, wrong = Counter[str](), Counter[str]()
    for (wanted, got), number in counted.items():
        if wanted != GAP:
            presses[key_of(wanted)] += number
            wrong[key_of(wanted)] += number * (wanted != got)
    return {key: (number, wrong[key]) for key, number in presses.items()}


def key_rates(counted: Counter[tuple[str, str]]) -> dict[str, float]:
    """Key -> per cent of its presses that were misread or missed, for keys that were pressed often enough."""
    return {key: 100 * wrong / presses for key, (presses, wrong) in key_errors(counted).items() if presses >= FEW}


def draw_losses(curves: Mapping[str, Sequence[Sequence[Mapping[str, float]]]], title: str, out: Path) -> list[Path]:
    """Training and validation loss by epoch, a panel for each row of a table (Figure 1 of Borthakur et al.).

    `curves` holds for each row those of its seeds: the first is drawn solid, the others faint.
    """
    faint = " (faint: further seeds)" if any(len(seeds) > 1 for seeds in curves.values()) else ""
    figure, panels = _panels(len(curves), 4, (3.6, 2.7), title + faint)
    for (name, seeds), axes in zip(curves.items(), panels, strict=True):
        for place, curve in enumerate(seeds):
            for field, color in (("train_loss", _BLUE), ("val_loss", _VERMILION)):
                points = [(entry["epoch"] + 1, entry[field]) for entry in curve if field in entry]
                label = field.replace("_", " ") if not place else None
                style: dict[str, Any] = {"color": color, "alpha": 0.35 if place else 1.0, "label": label}
                # A line of one point would be invisible.
                axes.plot(*zip(*points, strict=True), marker="o" if len(points) == 1 else "", **style) if points else ()
        axes.set_title(fill(name, 45), fontsize=9)
        axes.set(yscale="log", xlabel="epoch")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
        axes.grid(True, which="major", alpha=0.3)
    figure.axes[0].set_ylabel("CTC loss")
    figure.axes[0].legend(fontsize=8)
    return _save(figure, out)


def draw_curves(curves: Mapping[str, Mapping[int, "Bar"]], title: str, out: Path) -> list[Path]:
    """CER with its interval against each amount, a panel each; an amount's steps are evenly spaced."""
    figure, panels = _panels(len(curves), 3, (4.2, 3.2), title)
    for (amount, bars), axes in zip(curves.items(), panels, strict=True):
        steps, found = zip(*sorted(bars.items()), strict=True)
        cers = np.array([bar.cer for bar in found])
        low, high = np.array([bar.interval for bar in found]).T
        errors = np.fmax(0, (cers - low, high - cers))
        axes.errorbar(range(len(steps)), cers, errors, color=_BLUE, marker="o", capsize=3)
        axes.set_xticks(range(len(steps)), [f"{step:g}" for step in steps])
        axes.set(xlabel=amount, xmargin=0.15)
        axes.grid(True, axis="y", alpha=0.3)
    figure.axes[0].set(ylabel="CER in %, 95 % interval", ylim=(0, None))  # all panels share its scale, so it comes last
    return _save(figure, out)


@dataclass(frozen=True)
class Bar:
    """A row of a table as a picture shows it: its CER with the interval, that of each seed, and the published one."""

    label: str
    decoder: str
    cer: float
    interval: tuple[float, float]
    each: tuple[float, ...]
    published: float | None = None


def draw_rows(bars: Sequence[Bar], title: str, out: Path) -> list[Path]:
    """A table's rows one below the other, each with its interval: a forest plot."""
    figure = _figure(11, 0.32 * len(bars) + 1.6, title)
    axes = figure.subplots()
    decoders = list(dict.fromkeys(bar.decoder for bar in bars))
    colors = dict(zip(decoders, (_BLUE, _ORANGE, _GREEN, _VERMILION) * len(decoders), strict=False))
    for place, bar in enumerate(bars):
        axes.plot(bar.interval, (place, place), color=colors[bar.decoder], linewidth=2)
        axes.plot(bar.each, [place] * len(bar.each), "|", color=colors[bar.decoder], markersize=8, alpha=0.6)
        axes.plot(bar.cer, place, "o", color=colors[bar.decoder])
        if bar.published is not None:
            axes.plot(bar.published, place, "D", color="black", markersize=5)
    axes.set_yticks(range(len(bars)), [fill(bar.label, 60) for bar in bars], fontsize=9)
    axes.set(xlabel="CER in %, with its 95 % interval; a tick for each seed", ylim=(len(bars) - 0.4, -0.6))
    axes.set_xlim(left=0)
    axes.grid(True, axis="x", alpha=0.3)
    handles = [Line2D([], [], color=colors[name], marker="o", label=name) for name in decoders]
    if any(bar.published is not None for bar in bars):
        handles.append(Line2D([], [], color="black", marker="D", linestyle="", label="published"))
    if len(handles) > 1:
        axes.legend(handles=handles, fontsize=9)
    return _save(figure, out)


def draw_confusions(counted: Counter[tuple[str, str]], title: str, out: Path) -> list[Path]:
    """What was read as what: by finger in per cent of what was typed, by key as a number; hits are left out.

    There are too many keys for rates, and some are too rare: one slip on a key pressed once would be 100 %.
    """
    keys = {key_of(symbol) for pair in counted for symbol in pair if symbol != GAP}
    ordered = sorted(keys, key=lambda key: (FINGERS.index(finger_of(key)), key))
    fingers = sorted({finger_of(key) for key in keys}, key=FINGERS.index)
    figure = _figure(17, 8.8, title)
    left, right = figure.subplots(1, 2, width_ratios=(0.65, 1))
    by_finger, typed = _matrix(counted, fingers, lambda symbol: finger_of(key_of(symbol)))
    shares = 100 * by_finger / np.maximum(typed, 1)[:, None]
    _draw_matrix(left, shares, fingers, "% of what was typed (last row: % of all)")
    for (row, column), value in np.ndenumerate(shares):
        if value >= 0.05:
            color = "white" if (value / shares.max()) ** 0.5 > 0.55 else "black"
            left.text(column, row, f"{value:.1f}", ha="center", va="center", fontsize=9, color=color)
    left.set(title="by finger (touch-typing textbook)", xlabel="read as (diagonal: another symbol of the finger)")
    by_key, _ = _matrix(counted, ordered, key_of)
    _draw_matrix(right, by_key, [_shown(key) for key in ordered], "errors")
    right.set(title="by key, in the order of the fingers", xlabel="read as (diagonal: the key's other symbol)")
    return _save(figure, out)


def _matrix(
    counted: Counter[tuple[str, str]], names: list[str], of: Callable[[str], str]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Errors (names + 1, names + 1), rows typed (last: nothing), columns read (last: missed); keystrokes (names + 1).

    Extra characters, the last row, are relative to all keystrokes.
    """
    place = {name: number for number, name in enumerate(names)}
    errors, typed = np.zeros((len(names) + 1, len(names) + 1)), np.zeros(len(names) + 1)
    for (wanted, got), number in counted.items():
        row, column = (len(names) if symbol == GAP else place[of(symbol)] for symbol in (wanted, got))
        if wanted != GAP:
            typed[[row, -1]] += number
        errors[row, column] += number * (wanted != got)
    return errors, typed


def _draw_matrix(axes: Axes, table: npt.NDArray[np.float64], names: list[str], meaning: str) -> None:
    # The square root shows what is rare beside what is frequent; white is exactly nothing.
    norm = PowerNorm(0.5, 0, max(1.0, float(table.max())))
    image = axes.imshow(np.ma.masked_equal(table, 0), cmap="viridis_r", norm=norm)
    axes.set_xticks(range(len(names) + 1), [*names, "(missed)"])
    axes.set_yticks(range(len(names) + 1), [*names, "(nothing)"])
    for label in axes.get_xticklabels():
        label.set_rotation(90 if len(label.get_text()) > 1 else 0)
    axes.tick_params(labelsize=8)
    axes.set_ylabel("typed")
    edges, ends = np.arange(0.5, len(names)), axes.get_xlim()
    axes.hlines(edges, *ends, color="lightgrey", linewidth=0.3)
    axes.vlines(edges, *ends, color="lightgrey", linewidth=0.3)
    axes.figure.colorbar(image, ax=axes, shrink=0.6, label=meaning, ticks=MaxNLocator(8, integer=True))


def draw_keyboard(counted: Counter[tuple[str, str]], title: str, out: Path, highest: float) -> list[Path]:
    """Each key of a US QWERTY keyboard in the colour of its errors: presses misread or missed, in per cent.

    The colours end at `highest` per cent, which keyboards that are compared have in common.
    """
    errors, rates = key_errors(counted), key_rates(counted)
    scale, colors = Normalize(0, max(10.0, highest)), mpl.colormaps["YlOrRd"]
    figure = _figure(14, 5.8, title)
    axes = figure.subplots()
    for key, left, right, row in _caps():
        rate, (presses, wrong) = rates.get(key), errors.get(key, (0, 0))
        face = "#eeeeee" if rate is None else colors(scale(rate))
        corner, style = (left + 0.06, row - 0.44), "round,pad=0,rounding_size=0.1"
        axes.add_patch(FancyBboxPatch(corner, right - left - 0.12, 0.88, boxstyle=style, fc=face))
        few = f"{wrong} of {presses}" if presses else ""
        lines = [few, ""] if rate is None else [f"{rate:.0f} %", f"of {presses}"]
        ink = "white" if rate is not None and scale(rate) > 0.65 else "black"
        for line, up, size in zip([_shown(key), *lines], (0.16, -0.13, -0.32), (14, 9, 7), strict=True):
            axes.text((left + right) / 2, row + up, line, ha="center", va="center", fontsize=size, color=ink)
    axes.set(xlim=(-0.7, 14.2), ylim=(-2.95, 2.55), aspect="equal")
    axes.set_axis_off()
    extra = sum(number for (wanted, _), number in counted.items() if wanted == GAP)
    note = f"grey: pressed fewer than {FEW} times; both shifts counted together; "
    axes.text(-0.5, -2.8, f"{note}{extra} extra characters belong to no key", fontsize=9)
    figure.colorbar(ScalarMappable(scale, colors), ax=axes, shrink=0.7, label="% of presses misread or missed")
    return _save(figure, out)


def _caps() -> list[tuple[str, float, float, int]]:
    """(key, left edge, right edge, row) of every key in key widths; a row's last key reaches the board's edge."""
    wide = {SPACE: (3.75, 9.25), ENTER: (12.25, 14.0), BACKSPACE: (12.5, 14.0), "\\": (13.0, 14.0)}
    caps = [(key, *wide.get(key, (place.x - 0.5, place.x + 0.5)), place.row) for key, place in TEXTBOOK.items()]
    edges = ((-0.5, 1.75), (11.75, 14.0))
    return caps + [(SHIFT, *edge, place.row) for edge, place in zip(edges, SHIFTS, strict=True)]


def draw_sessions(sessions: Mapping[str, Sequence[Counts]], title: str, out: Path) -> list[Path]:
    """Insertions, deletions and substitutions over each session, in per cent of the characters of 10 s segments."""
    columns = min(2, len(sessions))
    figure, panels = _panels(len(sessions), columns, (15 / columns, 2.2), title)
    highest = 1.0
    for axes, (name, units) in zip(panels, sessions.items(), strict=True):
        minutes = (np.arange(len(units)) + 0.5) / 6
        lengths = np.array([max(unit.length, 1) for unit in units])  # a pause has no character, and no rate
        base = np.zeros(len(units))
        for field, color in (("substitutions", _BLUE), ("deletions", _ORANGE), ("insertions", _GREEN)):
            share = 100 * np.array([getattr(unit, field) for unit in units]) / lengths
            share[[not unit.length for unit in units]] = 0
            axes.bar(minutes, share, 0.85 / 6, base, color=color, label=field)
            base += share
        whole = total(units)
        axes.axhline(whole.cer, color="black", linewidth=1, linestyle="--", label="CER of the session")
        rates = f"CER {whole.cer:.2f} %: {whole.ser:.2f} substituted, {whole.der:.2f} missed, {whole.ier:.2f} extra"
        axes.set_title(f"{name}\n{rates}", fontsize=8)
        axes.set(xlabel="minutes", xlim=(0, len(units) / 6))
        highest = max(highest, base.max(), whole.cer)
    panels[0].set(ylabel="% of characters", ylim=(0, 1.15 * highest))  # all have its scale
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return _save(figure, out)


def _shown(key: str) -> str:
    return {SPACE: "space"}.get(key, key.upper() if key.isalpha() else key)


def _figure(width: float, height: float, title: str) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(fill(title, round(10 * width)), fontsize=12)
    return figure


def _panels(count: int, most: int, size: tuple[float, float], title: str) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels of that size in inches, at most `most` in a row, with one vertical scale."""
    columns = min(most, count)
    rows = -(-count // columns)
    figure = _figure(max(6.0, size[0] * columns), size[1] * rows + 0.8, title)
    panels = list(figure.subplots(rows, columns, squeeze=False, sharey=True).flat)
    for axes in panels[:count]:
        axes.tick_params(labelleft=True)
    for axes in panels[count:]:  # what the grid has beyond the last one
        axes.set_axis_off()
    return figure, panels[:count]


def _save(figure: Figure, out: Path) -> list[Path]:
    """Write `out` as PNG and as SVG, the same bytes for the same figure; returns both paths."""
    paths = {kind: out.with_name(f"{out.name}.{kind}") for kind in ("png", "svg")}
    for kind, path in paths.items():
        with mpl.rc_context({"svg.hashsalt": "emgscribe"}), replacing(path) as temporary:
            figure.savefig(temporary, dpi=110, format=kind, metadata={"Date": None} if kind == "svg" else {})
        figure.set_layout_engine("none")  # the first file has laid it out, which takes as long as drawing it
    return list(paths.values())
