"""A picture and figures of sessions, simulated or real, beside those of a real recording (`reference`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from emgscribe.data.charset import SHIFT
from emgscribe.data.hdf5 import BANDS, CHANNELS, SAMPLE_RATE, Emg, SessionFile
from emgscribe.errors import EmgscribeError
from emgscribe.files import replacing, write_json
from emgscribe.simulation import reference
from emgscribe.simulation.keyboard import LEFT, TEXTBOOK, Finger, unshifted
from emgscribe.simulation.measures import Figures, Floats, correlation_by_distance, measure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

EXCERPT_SECONDS = 120.0
_BEFORE, _AFTER = 0.4, 0.4
_STEP = 20  # samples: triggered averages at 100 Hz
_HANDS = ("left", "right")


@dataclass(frozen=True)
class Excerpt:
    """The middle of a session: `emg` (T, 2, 16), and (symbol, seconds from the excerpt's start) of its keystrokes."""

    name: str
    emg: Emg
    keys: list[tuple[str, float]]

    @classmethod
    def of_session(cls, path: Path) -> "Excerpt":
        """At most EXCERPT_SECONDS of the session at `path`."""
        with SessionFile(path) as session:
            count = min(len(session), int(EXCERPT_SECONDS * SAMPLE_RATE))
            first = (len(session) - count) // 2
            emg = session.emg(first, first + count)
            begin = float(session.times(first, first + 1)[0])
            labelled = session.header.labelled_keystrokes()
        end = count / SAMPLE_RATE
        return cls(path.stem, emg, [(symbol, t - begin) for symbol, t in labelled if 0 <= t - begin < end])


def make_report(sessions: Sequence[Path], out: Path) -> dict[str, Any]:
    """Write `out` (a PNG) and the same name with `.json`; returns what the JSON holds.

    Fingers are those of the touch-typing textbook, since a session does not say which finger pressed. Raises
    `EmgscribeError` without sessions, for one too short to measure, or when a file cannot be read or written.
    """
    if not sessions:
        raise EmgscribeError("no sessions to report on", where="synthetic report", hint="name at least one session")
    out = Path(out).with_suffix(".png")
    excerpts = [Excerpt.of_session(Path(path)) for path in sessions]
    for excerpt in excerpts:
        if len(excerpt.emg) < 10 * SAMPLE_RATE:
            raise EmgscribeError("shorter than 10 s", where=excerpt.name, hint="report on longer sessions")
    figures = [measure(excerpt.emg.reshape(len(excerpt.emg), -1), SAMPLE_RATE) for excerpt in excerpts]
    content = {
        "sessions": [_numbers(*pair) for pair in zip(excerpts, figures, strict=True)],
        "real recording": {name: list(values) for name, values in reference.PERCENTILES.items()},
    }
    _draw(excerpts, figures, out)
    write_json(out.with_suffix(".json"), content)
    return content


def _numbers(excerpt: Excerpt, figures: Figures) -> dict[str, Any]:
    times = np.array([t for _, t in excerpt.keys])
    correlations = [correlation_by_distance(excerpt.emg[:, band]) for band in range(BANDS)]
    return {
        "session": excerpt.name,
        "keys_per_second": round(len(times) / (len(excerpt.emg) / SAMPLE_RATE), 2),
        "median_interval": round(float(np.median(np.diff(times))), 3) if len(times) > 1 else None,
        **figures.percentiles(),
        "correlation_by_distance": np.mean(correlations, axis=0).round(3).tolist(),
        "spectrum_distance": _distance(figures.spectrum[: len(reference.SPECTRUM)], reference.SPECTRUM),
        "amplitude_distance": _distance(figures.amplitudes, reference.AMPLITUDES),
        "burst_peak_before_key_down": _burst_peaks(excerpt),
    }


def _distance(ours: Floats, real: Sequence[float]) -> float:
    """Total variation between two distributions: 0 alike, 1 disjoint."""
    first, second = ours / ours.sum(), np.array(real) / sum(real)
    return round(float(np.abs(first - second).sum() / 2), 3)


def _burst_peaks(excerpt: Excerpt) -> dict[str, float]:
    """Seconds from the largest mean activity of a finger's best electrode to its key-down."""
    peaks = {}
    for (hand, finger), average in triggered_averages(excerpt).items():
        best = average[:, average.max(axis=0).argmax()]
        peaks[f"{_HANDS[hand]} {finger.name.lower()}"] = round(_BEFORE - float(best.argmax()) * _STEP / SAMPLE_RATE, 3)
    return peaks


def triggered_averages(excerpt: Excerpt) -> dict[tuple[int, Finger], Floats]:
    """(hand, finger) -> (steps, 16): mean amplitude of the hand's band about key-down, over the band's own mean.

    Steps run from 0.4 s before key-down to 0.4 s after it, a hundred a second. Fingers with fewer than five presses
    are left out.
    """
    count = int((_BEFORE + _AFTER) * SAMPLE_RATE) // _STEP
    smooth = ndimage.uniform_filter1d(np.abs(excerpt.emg), 2 * _STEP, axis=0)[::_STEP].astype(np.float64)
    smooth /= smooth.mean(axis=0)
    starts: dict[tuple[int, Finger], list[int]] = {}
    for symbol, time in excerpt.keys:
        start = round((time - _BEFORE) * SAMPLE_RATE / _STEP)
        place = TEXTBOOK.get(unshifted(symbol)[0])
        if symbol != SHIFT and place is not None and 0 <= start <= len(smooth) - count:
            starts.setdefault((place.hand, place.finger), []).append(start)
    return {
        (hand, finger): np.mean([smooth[start : start + count, hand] for start in found], axis=0)
        for (hand, finger), found in sorted(starts.items())
        if len(found) >= 5
    }


def _draw(excerpts: Sequence[Excerpt], figures: Sequence[Figures], out: Path) -> None:
    # matplotlib takes a second to import and few callers draw.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(17, 15), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(4, 4, height_ratios=[1.7, 1, 1, 1])
    for hand in range(BANDS):
        _draw_traces(figure.add_subplot(grid[0, 2 * hand : 2 * hand + 2]), excerpts[0], hand)
    _draw_spectra(figure.add_subplot(grid[1, 0]), figures)
    _draw_amplitudes(figure.add_subplot(grid[1, 1]), figures)
    _draw_percentiles(figure.add_subplot(grid[1, 2]), figures)
    _draw_correlations(figure.add_subplot(grid[1, 3]), excerpts)
    averages = triggered_averages(excerpts[0])
    _draw_averages(figure.add_subplot(grid[2, :2]), averages, LEFT)
    _draw_averages(figure.add_subplot(grid[2, 2:]), averages, 1 - LEFT)
    _draw_patterns(figure.add_subplot(grid[3, :3]), averages)
    _draw_intervals(figure.add_subplot(grid[3, 3]), excerpts)
    with replacing(out) as temporary:
        figure.savefig(temporary, dpi=90, format="png")


def _draw_traces(axes: "Axes", excerpt: Excerpt, hand: int) -> None:
    """Every second electrode of a band for two seconds, with the keys that fall into them."""
    start, seconds = len(excerpt.emg) // 2, 2.0
    stretch = excerpt.emg[start : start + int(seconds * SAMPLE_RATE), hand, ::2]
    time = np.arange(len(stretch)) / SAMPLE_RATE
    gap = 6 * float(np.median(stretch.std(axis=0))) + 1e-6
    for row in range(stretch.shape[1]):
        axes.plot(time, stretch[:, row] - gap * row, linewidth=0.4, color="black")
    for symbol, at in excerpt.keys:
        place = TEXTBOOK.get(unshifted(symbol)[0])
        if start / SAMPLE_RATE <= at < start / SAMPLE_RATE + seconds:
            own = place is not None and place.hand == hand
            axes.axvline(at - start / SAMPLE_RATE, color="tab:red" if own else "lightgrey", linewidth=0.8)
            axes.text(at - start / SAMPLE_RATE, 0.9 * gap, symbol, color="tab:red" if own else "grey", fontsize=8)
    axes.set(title=f"{_HANDS[hand]} band (red: keys of this hand)", xlabel="s", yticks=[])


def _draw_spectra(axes: "Axes", figures: Sequence[Figures]) -> None:
    shown = len(reference.SPECTRUM)
    for each in figures:
        axes.semilogy(each.frequencies[:shown], 1000 * each.spectrum[:shown], color="tab:blue", alpha=0.6)
    axes.semilogy(figures[0].frequencies[:shown], reference.SPECTRUM, color="black", label="real recording")
    axes.set(title="spectrum of active windows", xlabel="Hz", ylabel="‰ of power", ylim=(0.3, 150))
    axes.legend()


def _draw_amplitudes(axes: "Axes", figures: Sequence[Figures]) -> None:
    for each in figures:
        axes.semilogy(each.bin_centres, each.amplitudes, color="tab:blue", alpha=0.6)
    real = np.array(reference.AMPLITUDES) / 1000
    axes.semilogy(figures[0].bin_centres, real, color="black", label="real recording")
    axes.set(title="amplitude / window's RMS", ylim=(1e-5, 2))
    axes.legend()


def _draw_percentiles(axes: "Axes", figures: Sequence[Figures]) -> None:
    """10th, 50th, 90th percentile of each figure, scaled by the real recording's median."""
    for row, (name, real) in enumerate(reference.PERCENTILES.items()):
        ours = np.array([each.percentiles()[name] for each in figures])
        for values, color, shift in ((np.array([real]), "black", 0.15), (ours, "tab:blue", -0.15)):
            low, middle, high = values.mean(axis=0) / real[1]
            axes.plot([low, high], [row + shift] * 2, color=color)
            axes.plot(middle, row + shift, "o", color=color)
    names = [name.replace("_", "\n") for name in reference.PERCENTILES]
    axes.set_yticks(range(len(names)), names)
    axes.set(title="10/50/90 % over real median", xscale="log")
    axes.set_xticks([0.25, 0.5, 1, 2, 4, 8], ["¼", "½", "1", "2", "4", "8"], minor=False)
    axes.set_xticks([], minor=True)


def _draw_correlations(axes: "Axes", excerpts: Sequence[Excerpt]) -> None:
    for excerpt in excerpts:
        for band in range(BANDS):
            axes.plot(correlation_by_distance(excerpt.emg[:, band]), color="tab:blue", alpha=0.5)
    axes.axhline(0, color="grey", linewidth=0.5)
    axes.set(title="electrode correlation", xlabel="steps around the ring")


def _draw_averages(axes: "Axes", averages: dict[tuple[int, Finger], Floats], hand: int) -> None:
    for (of_hand, finger), average in averages.items():
        if of_hand == hand:
            time = np.arange(len(average)) * _STEP / SAMPLE_RATE - _BEFORE
            axes.plot(time, average[:, average.max(axis=0).argmax()], label=finger.name.lower())
    axes.axvline(0, color="grey")
    axes.set(title=f"{_HANDS[hand]} hand: amplitude about key-down, best electrode / mean", xlabel="s from key-down")
    if any(of_hand == hand for of_hand, _ in averages):
        axes.legend()


def _draw_patterns(axes: "Axes", averages: dict[tuple[int, Finger], Floats]) -> None:
    """Which electrodes rise in the 150 ms before key-down, by finger."""
    stop = int(_BEFORE * SAMPLE_RATE) // _STEP
    rows: list[npt.NDArray[Any]] = [average[stop - 15 : stop].mean(axis=0) for average in averages.values()]
    if rows:
        image = axes.imshow(np.stack(rows), aspect="auto", cmap="viridis")
        axes.figure.colorbar(image, ax=axes)
    axes.set_yticks(range(len(rows)), [f"{_HANDS[hand]} {finger.name.lower()}" for hand, finger in averages])
    axes.set(title="amplitude / mean in the 150 ms before key-down", xlabel="electrode", xticks=range(CHANNELS))


def _draw_intervals(axes: "Axes", excerpts: Sequence[Excerpt]) -> None:
    for excerpt in excerpts:
        times = np.array([t for _, t in excerpt.keys])
        axes.hist(np.diff(times), bins=np.linspace(0, 1, 51).tolist(), histtype="step")
    axes.set(title="key-to-key times", xlabel="s")
