"""Sessions, simulated or real, compared with a real recording (`reference`): a picture and its numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from emgscribe.data.charset import SHIFT, SPACE
from emgscribe.data.hdf5 import BANDS, CHANNELS, SAMPLE_RATE, Emg, SessionFile
from emgscribe.errors import EmgscribeError
from emgscribe.files import replacing, write_json
from emgscribe.simulation import reference
from emgscribe.simulation.arrays import Float64
from emgscribe.simulation.keyboard import TEXTBOOK, Finger, unshifted
from emgscribe.simulation.measures import BIN_CENTRES, Measures, correlation_by_distance, measure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

EXCERPT_SECONDS = 120.0
_BEFORE, _AFTER = 0.4, 0.4
_STEP = 20  # samples: averages around key-down have 100 Hz
_HANDS = ("left", "right")
_OURS, _REAL = "tab:blue", "black"

Averages = dict[tuple[int, Finger], Float64]


@dataclass(frozen=True)
class Excerpt:
    """The middle of a session."""

    name: str
    emg: Emg  # (T, 2, 16)
    keys: list[tuple[str, float]]  # (symbol, seconds from the start of the excerpt)

    @classmethod
    def of_session(cls, path: Path | str) -> "Excerpt":
        """At most EXCERPT_SECONDS of the session at `path`."""
        with SessionFile(Path(path)) as session:
            count = min(len(session), int(EXCERPT_SECONDS * SAMPLE_RATE))
            first = (len(session) - count) // 2
            (begin, *_), emg = session.read(first, first + count)
            labelled = session.header.labelled_keystrokes()
        end = count / SAMPLE_RATE
        return cls(Path(path).stem, emg, [(symbol, t - begin) for symbol, t in labelled if 0 <= t - begin < end])

    def intervals(self) -> Float64:
        """Seconds from each keystroke to the next."""
        return np.diff([time for _, time in self.keys])


def compare_with_recording(sessions: Sequence[Path | str], out: Path | str) -> dict[str, Any]:
    """Write a picture, `out` (a PNG), and its numbers under the same name with `.json`; returns the numbers.

    A session does not say which finger pressed a key: the fingers are those of the touch-typing textbook. Raises
    `EmgscribeError` without sessions, for one shorter than 10 s, and when a file cannot be read or written.
    """
    if not sessions:
        raise EmgscribeError("no sessions to compare", hint="name at least one session")
    out = Path(out).with_suffix(".png")
    excerpts = [Excerpt.of_session(path) for path in sessions]
    for excerpt in excerpts:
        if len(excerpt.emg) < 10 * SAMPLE_RATE:
            raise EmgscribeError("shorter than 10 s", where=excerpt.name, hint="compare longer sessions")
    measures = [measure(excerpt.emg.reshape(len(excerpt.emg), -1), SAMPLE_RATE) for excerpt in excerpts]
    content = {
        "sessions": [_numbers(*pair) for pair in zip(excerpts, measures, strict=True)],
        "real recording": {name: list(values) for name, values in reference.PERCENTILES.items()},
    }
    _draw(excerpts, measures, out)
    write_json(out.with_suffix(".json"), content)
    return content


def _numbers(excerpt: Excerpt, measures: Measures) -> dict[str, Any]:
    intervals = excerpt.intervals()
    correlations = [correlation_by_distance(excerpt.emg[:, band]) for band in range(BANDS)]
    return {
        "session": excerpt.name,
        "keys_per_second": round(len(excerpt.keys) / (len(excerpt.emg) / SAMPLE_RATE), 2),
        "median_interval": round(float(np.median(intervals)), 3) if len(intervals) else None,
        **measures.percentiles(),
        "correlation_by_distance": np.mean(correlations, axis=0).round(3).tolist(),
        "spectrum_distance": _distance(measures.spectrum[: len(reference.SPECTRUM)], reference.SPECTRUM),
        "amplitude_distance": _distance(measures.amplitudes, reference.AMPLITUDES),
        "burst_peak_before_key_down": _burst_peaks(excerpt),
    }


def _distance(ours: Float64, real: Float64) -> float:
    """Total variation between two distributions: 0 equal, 1 disjoint."""
    return round(float(np.abs(ours / ours.sum() - real / real.sum()).sum() / 2), 3)


def _burst_peaks(excerpt: Excerpt) -> dict[str, float]:
    """Seconds from the peak of the mean activity to key-down, at the best electrode of each finger."""
    peaks = {}
    for (hand, finger), average in triggered_averages(excerpt).items():
        peak = float(_best_electrode(average).argmax()) * _STEP / SAMPLE_RATE
        peaks[f"{_HANDS[hand]} {finger.name.lower()}"] = round(_BEFORE - peak, 3)
    return peaks


def _best_electrode(average: Float64) -> Float64:
    """(steps,): the electrode with the highest peak."""
    return np.asarray(average[:, average.max(axis=0).argmax()])


def triggered_averages(excerpt: Excerpt) -> Averages:
    """(hand, finger) -> (steps, 16): mean amplitude around key-down, divided by each electrode's mean amplitude.

    Steps run from 0.4 s before key-down to 0.4 s after it at 100 Hz. Fingers with fewer than five presses are left out.
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


def _draw(excerpts: Sequence[Excerpt], measures: Sequence[Measures], out: Path) -> None:
    # matplotlib takes a second to import, and few callers draw.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(17, 17), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"traces and activity: {excerpts[0].name}; the other panels: all sessions ({len(excerpts)})")
    rows = figure.subfigures(4, 1, squeeze=False, height_ratios=(1.9, 1, 1, 1))[:, 0]
    averages = triggered_averages(excerpts[0])
    for hand, (traces, around) in enumerate(zip(rows[0].subplots(1, 2), rows[2].subplots(1, 2), strict=True)):
        _draw_traces(traces, excerpts[0], hand)
        _draw_averages(around, averages, hand)
    spectra, amplitudes, percentiles, correlations = rows[1].subplots(1, 4)
    shown = len(reference.SPECTRUM)
    found = [1000 * each.spectrum[:shown] for each in measures]
    _draw_curves(spectra, measures[0].frequencies[:shown], found, reference.SPECTRUM)
    spectra.set(title="spectrum of active windows", xlabel="Hz", ylabel="‰ of power", ylim=(0.3, 150))
    _draw_curves(amplitudes, BIN_CENTRES, [each.amplitudes for each in measures], reference.AMPLITUDES / 1000)
    amplitudes.set(title="amplitudes in active windows", xlabel="amplitude / RMS of its window", ylabel="density")
    amplitudes.set_ylim(1e-5, 2)
    _draw_percentiles(percentiles, measures)
    _draw_correlations(correlations, excerpts)
    patterns, intervals = rows[3].subplots(1, 2, width_ratios=(3, 1))
    _draw_patterns(patterns, averages)
    for excerpt in excerpts:
        intervals.hist(excerpt.intervals(), np.linspace(0, 1, 51).tolist(), histtype="step", color=_OURS, alpha=0.6)
    intervals.set(title="intervals between keystrokes", xlabel="s", ylabel="keystrokes")
    with replacing(out) as temporary:
        figure.savefig(temporary, dpi=90, format="png")


def _draw_traces(axes: "Axes", excerpt: Excerpt, hand: int) -> None:
    """Every second electrode of a band for two seconds, each scaled by its own root mean square, and the keys."""
    seconds = 2.0
    start = len(excerpt.emg) // 2
    segment = excerpt.emg[start : start + int(seconds * SAMPLE_RATE), hand, ::2]
    scaled = segment / (8 * segment.std(axis=0) + 1e-6) - np.arange(segment.shape[1])
    axes.plot(np.arange(len(segment)) / SAMPLE_RATE, scaled, linewidth=0.4, color="black")
    for symbol, time in excerpt.keys:
        at, place = time - start / SAMPLE_RATE, TEXTBOOK.get(unshifted(symbol)[0])
        if 0 <= at < seconds:
            color = "tab:red" if place is not None and place.hand == hand else "darkgrey"
            axes.axvline(at, color=color, linewidth=0.8)
            shown = "␣" if symbol == SPACE else symbol
            axes.text(at, 1.01, shown, color=color, ha="center", transform=axes.get_xaxis_transform())
    axes.set_title(f"{_HANDS[hand]} band, each electrode scaled by its RMS (red: keys of this hand)", pad=20)
    axes.set(xlabel="s", ylabel="electrode", xlim=(0, seconds))
    axes.set_yticks(-np.arange(segment.shape[1]), [str(number) for number in range(0, CHANNELS, 2)])


def _draw_curves(axes: "Axes", x: Float64, ours: Sequence[Float64], real: Float64) -> None:
    axes.semilogy(x, real, color=_REAL, label="real recording")
    for number, y in enumerate(ours):
        axes.semilogy(x, y, color=_OURS, alpha=0.6, label=None if number else "these sessions")
    axes.legend()


def _draw_percentiles(axes: "Axes", measures: Sequence[Measures]) -> None:
    """10th, 50th and 90th percentile of each measure, divided by the median of the real recording."""
    for row, (name, real) in enumerate(reference.PERCENTILES.items()):
        ours = np.mean([each.percentiles()[name] for each in measures], axis=0)
        for values, color, shift in ((real, _REAL, 0.15), (ours, _OURS, -0.15)):
            low, middle, high = np.divide(values, real[1])
            axes.plot([low, high], [row + shift] * 2, color=color)
            axes.plot(middle, row + shift, "o", color=color)
    names = [name.replace("_", "\n") for name in reference.PERCENTILES]
    axes.set_yticks(range(len(names)), names)
    axes.set(title="10th to 90th percentile of channels", xlabel="relative to the real median", xscale="log")
    axes.set_xticks([0.25, 0.5, 1, 2, 4, 8], ["¼", "½", "1", "2", "4", "8"], minor=False)
    axes.set_xticks([], minor=True)


def _draw_correlations(axes: "Axes", excerpts: Sequence[Excerpt]) -> None:
    for excerpt in excerpts:
        for band in range(BANDS):
            axes.plot(correlation_by_distance(excerpt.emg[:, band]), color=_OURS, alpha=0.5)
    axes.axhline(0, color="grey", linewidth=0.5)
    axes.set(title="correlation between electrodes", xlabel="electrodes apart on the ring", ylabel="correlation")


def _draw_averages(axes: "Axes", averages: Averages, hand: int) -> None:
    for (_, finger), average in ((key, average) for key, average in averages.items() if key[0] == hand):
        time = np.arange(len(average)) * _STEP / SAMPLE_RATE - _BEFORE
        axes.plot(time, _best_electrode(average), color=f"C{int(finger)}", label=finger.name.lower())
    axes.axvline(0, color="grey")
    axes.set(title=f"{_HANDS[hand]} hand: activity around key-down, at the best electrode of each finger")
    axes.set(xlabel="s after key-down", ylabel="amplitude / its mean")
    if axes.get_legend_handles_labels()[0]:
        axes.legend()


def _draw_patterns(axes: "Axes", averages: Averages) -> None:
    """The activity at each electrode in the 150 ms before key-down, for each finger."""
    stop = int(_BEFORE * SAMPLE_RATE) // _STEP
    if averages:
        rows = [average[stop - 15 : stop].mean(axis=0) for average in averages.values()]
        image = axes.imshow(np.stack(rows), aspect="auto", cmap="viridis")
        axes.figure.colorbar(image, ax=axes, label="amplitude / its mean")
    axes.set_yticks(range(len(averages)), [f"{_HANDS[hand]} {finger.name.lower()}" for hand, finger in averages])
    axes.set(title="activity in the 150 ms before key-down", xlabel="electrode", xticks=range(CHANNELS))
