"""Sessions, simulated or real, compared with a real recording: a picture and its numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from emgscribe.data.charset import SHIFT, SPACE
from emgscribe.data.hdf5 import BANDS, CHANNELS, SAMPLE_RATE, Emg, SessionFile
from emgscribe.errors import EmgscribeError
from emgscribe.files import replacing, write_json
from emgscribe.simulation.arrays import Float64
from emgscribe.simulation.keyboard import TEXTBOOK, Finger, unshifted
from emgscribe.simulation.measures import AMPLITUDES, FREQUENCIES, RECORDING, Measures, correlation_by_distance, measure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SHORTEST, _LONGEST = 10 * SAMPLE_RATE, 120 * SAMPLE_RATE  # samples of an excerpt
_AROUND, _STEP = 0.4, 20  # of averages around key-down: seconds before and after it, and samples of a step (100 Hz)
_HANDS = ("left", "right")
_OURS, _REAL = "tab:blue", "black"


@dataclass(frozen=True)
class Excerpt:
    """The middle of a session, at most two minutes."""

    name: str
    emg: Emg  # (T, 2, 16)
    keys: list[tuple[str, float]]  # (symbol, seconds from the start of the excerpt)

    @classmethod
    def of_session(cls, path: Path | str) -> "Excerpt":
        """Raises `EmgscribeError` for a session shorter than 10 s and one that cannot be read."""
        with SessionFile(path) as session:
            if len(session) < _SHORTEST:
                raise EmgscribeError("shorter than 10 s", where=str(path), hint="compare longer sessions")
            count = min(len(session), _LONGEST)
            first = (len(session) - count) // 2
            (begin, *_), emg = session.read(first, first + count)
            keys = [(symbol, float(time - begin)) for symbol, time in session.header.labelled_keystrokes()]
        return cls(Path(path).stem, emg, [(symbol, time) for symbol, time in keys if 0 <= time < count / SAMPLE_RATE])

    @cached_property
    def intervals(self) -> Float64:  # seconds from each keystroke to the next
        return np.diff([time for _, time in self.keys])

    @cached_property
    def measures(self) -> Measures:
        return measure(self.emg.reshape(len(self.emg), -1))

    @cached_property
    def correlations(self) -> Float64:  # (2, 9)
        return np.stack([correlation_by_distance(self.emg[:, band]) for band in range(BANDS)])

    @cached_property
    def averages(self) -> dict[tuple[int, Finger], Float64]:
        """(hand, finger) -> (steps, 16): mean amplitude around key-down, divided by each electrode's mean amplitude."""
        count = int(2 * _AROUND * SAMPLE_RATE) // _STEP
        smooth = ndimage.uniform_filter1d(np.abs(self.emg), 2 * _STEP, axis=0)[::_STEP].astype(np.float64)
        smooth /= smooth.mean(axis=0)
        found: dict[tuple[int, Finger], list[Float64]] = {}
        for symbol, time in self.keys:
            start = round((time - _AROUND) * SAMPLE_RATE / _STEP)
            if symbol != SHIFT and 0 <= start <= len(smooth) - count:
                place = TEXTBOOK[unshifted(symbol)[0]]
                found.setdefault((place.hand, place.finger), []).append(smooth[start : start + count, place.hand])
        # The mean of fewer presses is mostly noise.
        return {key: np.mean(each, axis=0) for key, each in sorted(found.items()) if len(each) >= 5}


def compare_with_recording(sessions: Sequence[Path | str], out: Path | str) -> dict[str, Any]:
    """Write a picture, `out` (a PNG), and its numbers under the same name with `.json`; returns the numbers.

    A session does not say which finger pressed a key: the fingers are those of the touch-typing textbook. Raises
    `EmgscribeError` without sessions, for one shorter than 10 s, and when a file cannot be read or written.
    """
    if not sessions:
        raise EmgscribeError("no sessions to compare", hint="name at least one session")
    excerpts = [Excerpt.of_session(path) for path in sessions]
    content = {"sessions": [_numbers(excerpt) for excerpt in excerpts], "real recording": RECORDING.percentiles}
    _draw(excerpts, Path(out).with_suffix(".png"))
    write_json(Path(out).with_suffix(".json"), content)
    return content


def _numbers(excerpt: Excerpt) -> dict[str, Any]:
    peaks = {_title(*key): int(average.max(axis=1).argmax()) for key, average in excerpt.averages.items()}  # in steps
    return {
        "session": excerpt.name,
        "keys_per_second": round(len(excerpt.keys) / (len(excerpt.emg) / SAMPLE_RATE), 2),
        "median_interval": round(float(np.median(excerpt.intervals)), 3) if len(excerpt.intervals) else None,
        **excerpt.measures.percentiles,
        "correlation_by_distance": excerpt.correlations.mean(axis=0).round(3).tolist(),
        "spectrum_distance": _distance(excerpt.measures.spectrum, RECORDING.spectrum),
        "amplitude_distance": _distance(excerpt.measures.amplitudes, RECORDING.amplitudes),
        "burst_peak_before_key_down": {name: round(_AROUND - n * _STEP / SAMPLE_RATE, 3) for name, n in peaks.items()},
    }


def _distance(ours: Float64, real: Float64) -> float:
    """Total variation between two distributions: 0 equal, 1 disjoint."""
    return round(float(np.abs(ours / ours.sum() - real / real.sum()).sum() / 2), 3)


def _title(hand: int, finger: Finger) -> str:
    return f"{_HANDS[hand]} {finger.name.lower()}"


def _draw(excerpts: Sequence[Excerpt], out: Path) -> None:
    from matplotlib.figure import Figure  # takes a second to import, and few callers draw

    figure = Figure(figsize=(17, 17), layout="constrained")
    figure.suptitle(f"traces and activity: {excerpts[0].name}; the other panels: all sessions ({len(excerpts)})")
    rows = figure.subfigures(4, 1, squeeze=False, height_ratios=(1.9, 1, 1, 1))[:, 0]
    for hand, (traces, around) in enumerate(zip(rows[0].subplots(1, 2), rows[2].subplots(1, 2), strict=True)):
        _draw_traces(traces, excerpts[0], hand)
        _draw_averages(around, excerpts[0], hand)
    spectra, amplitudes, percentiles, correlations = rows[1].subplots(1, 4)
    measures = [excerpt.measures for excerpt in excerpts]
    _draw_curves(spectra, FREQUENCIES, [each.spectrum for each in measures], RECORDING.spectrum)
    spectra.set(title="spectrum of active windows", xlabel="Hz", ylabel="share of power", ylim=(3e-4, 0.15))
    _draw_curves(amplitudes, AMPLITUDES, [each.amplitudes for each in measures], RECORDING.amplitudes)
    amplitudes.set(title="amplitudes in active windows", xlabel="amplitude / RMS of its window", ylabel="density")
    amplitudes.set_ylim(1e-5, 2)
    _draw_percentiles(percentiles, measures)
    patterns, intervals = rows[3].subplots(1, 2, width_ratios=(3, 1))
    _draw_patterns(patterns, excerpts[0])
    for excerpt in excerpts:
        correlations.plot(excerpt.correlations.T, color=_OURS, alpha=0.5)
        intervals.hist(excerpt.intervals, np.linspace(0, 1, 51).tolist(), histtype="step", color=_OURS, alpha=0.6)
    correlations.axhline(0, color="grey", linewidth=0.5)
    correlations.set(title="correlation between electrodes of a band", xlabel="electrodes apart on the ring")
    intervals.set(title="intervals between keystrokes", xlabel="s", ylabel="keystrokes")
    with replacing(out) as temporary:
        figure.savefig(temporary, dpi=90, format="png")


def _draw_traces(axes: "Axes", excerpt: Excerpt, hand: int) -> None:
    """Every second electrode of a band for two seconds, each scaled by its own root mean square, and the keys."""
    start = len(excerpt.emg) // 2
    segment = excerpt.emg[start : start + 2 * SAMPLE_RATE, hand, ::2]
    scaled = segment / (8 * segment.std(axis=0) + 1e-6) - np.arange(segment.shape[1])
    axes.plot(np.arange(len(segment)) / SAMPLE_RATE, scaled, linewidth=0.4, color="black")
    for symbol, time in excerpt.keys:
        at, place = time - start / SAMPLE_RATE, TEXTBOOK.get(unshifted(symbol)[0])
        if 0 <= at < 2:
            color = "tab:red" if place is not None and place.hand == hand else "darkgrey"
            axes.axvline(at, color=color, linewidth=0.8)
            shown = "␣" if symbol == SPACE else symbol
            axes.text(at, 1.01, shown, color=color, ha="center", transform=axes.get_xaxis_transform())
    axes.set_title(f"{_HANDS[hand]} band, each electrode scaled by its RMS (red: keys of this hand)", pad=20)
    axes.set(xlabel="s", ylabel="electrode", xlim=(0, 2))
    axes.set_yticks(-np.arange(segment.shape[1]), [str(number) for number in range(0, CHANNELS, 2)])


def _draw_curves(axes: "Axes", x: Float64, ours: Sequence[Float64], real: Float64) -> None:
    axes.semilogy(x, real, color=_REAL, label="real recording")
    lines = axes.semilogy(x, np.transpose(ours), color=_OURS, alpha=0.6)
    lines[0].set_label("these sessions")
    axes.legend()


def _draw_percentiles(axes: "Axes", measures: Sequence[Measures]) -> None:
    """10th, 50th and 90th percentile of each measure, divided by the median of the real recording."""
    for row, (name, real) in enumerate(RECORDING.percentiles.items()):
        ours = np.mean([each.percentiles[name] for each in measures], axis=0)
        for values, color, shift in ((real, _REAL, 0.15), (ours, _OURS, -0.15)):
            low, middle, high = np.divide(values, real[1])
            axes.plot([low, high], [row + shift] * 2, color=color)
            axes.plot(middle, row + shift, "o", color=color)
    names = [name.replace("_", "\n") for name in RECORDING.percentiles]
    axes.set_yticks(range(len(names)), names)
    axes.set(title="10th to 90th percentile of channels", xlabel="relative to the real median", xscale="log")
    axes.set_xticks([0.25, 0.5, 1, 2, 4, 8], ["¼", "½", "1", "2", "4", "8"], minor=False)
    axes.set_xticks([], minor=True)


def _draw_averages(axes: "Axes", excerpt: Excerpt, hand: int) -> None:
    own = {finger: average for (side, finger), average in excerpt.averages.items() if side == hand}
    for finger, average in own.items():
        time = np.arange(len(average)) * _STEP / SAMPLE_RATE - _AROUND
        best = average[:, average.max(axis=0).argmax()]
        axes.plot(time, best, color=f"C{int(finger)}", label=finger.name.lower())
    axes.axvline(0, color="grey")
    axes.set(title=f"{_HANDS[hand]} hand: activity around key-down, at the best electrode of each finger")
    axes.set(xlabel="s after key-down", ylabel="amplitude / its mean")
    if own:
        axes.legend()


def _draw_patterns(axes: "Axes", excerpt: Excerpt) -> None:
    """The activity at each electrode in the 150 ms before key-down, for each finger."""
    stop = int(_AROUND * SAMPLE_RATE) // _STEP
    if excerpt.averages:
        rows = [average[stop - 15 : stop].mean(axis=0) for average in excerpt.averages.values()]
        image = axes.imshow(np.stack(rows), aspect="auto", cmap="viridis")
        axes.figure.colorbar(image, ax=axes, label="amplitude / its mean")
    axes.set_yticks(range(len(excerpt.averages)), [_title(*key) for key in excerpt.averages])
    axes.set(title="activity in the 150 ms before key-down", xlabel="electrode", xticks=range(CHANNELS))
