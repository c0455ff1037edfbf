"""Sessions, simulated or recorded, beside what is published about recordings: a page, a picture and its numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from emgscribe.data.charset import SHIFT, SPACE
from emgscribe.data.hdf5 import Emg, SessionFile, read_header
from emgscribe.data.shape import Shape
from emgscribe.errors import EmgscribeError, needing
from emgscribe.files import replacing, write_json
from emgscribe.simulation.activity import FREQUENCIES, Spectra, spectra
from emgscribe.simulation.arrays import SAMPLE_RATE, Float64
from emgscribe.simulation.keyboard import TEXTBOOK, Finger, unshifted
from emgscribe.simulation.measures import measure_emg
from emgscribe.simulation.published import Row, published, rows, spectrum
from emgscribe.simulation.typing_measures import measure_typing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SHORTEST, _LONGEST = 10 * SAMPLE_RATE, 120 * SAMPLE_RATE  # samples of an excerpt
_AROUND, _STEP = 0.4, 20  # of averages around key-down: seconds before and after it, and samples of a step (100 Hz)
_HANDS = ("left", "right")
_DRAWN = 4  # users whose EMG is drawn; two minutes of one take 30 MB
_OURS = "tab:blue"


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
            if session.shape != (published := Shape()):
                what = f"has {session.shape}; the published numbers are of {published}"
                raise EmgscribeError(what, where=str(path), hint="compare sessions of that shape")
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
    def spectra(self) -> Spectra:
        return spectra(self.emg)

    @property
    def hands(self) -> list[tuple[int, float]]:
        """(hand, seconds from the start of the excerpt) of each key but shift."""
        return [(TEXTBOOK[unshifted(symbol)[0]].hand, time) for symbol, time in self.keys if symbol != SHIFT]

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
    """Write a picture, `out` (a PNG), and with the same stem a page (`.md`) and numbers (`.json`); returns the numbers.

    Typing is measured in all sessions, EMG in the first one of each user. A session does not say which finger
    pressed a key: the fingers are those of the touch-typing textbook. Raises `EmgscribeError` without sessions, for one
    shorter than 10 s, and when a file cannot be read or written.
    """
    if not sessions:
        raise EmgscribeError("no sessions to compare", hint="name at least one session")
    headers = [read_header(path) for path in sessions]
    first: dict[str, Path | str] = {}
    for header, path in zip(headers, sessions, strict=True):
        first.setdefault(header.user, path)
    excerpts, numbers = list[Excerpt](), list[dict[str, float]]()
    for path in first.values():
        excerpt = Excerpt.of_session(path)
        numbers.append(measure_emg(excerpt.emg, excerpt.spectra, excerpt.hands))
        if len(excerpts) < _DRAWN:
            excerpts.append(excerpt)
    found = rows("typing", measure_typing(headers)) + rows("emg", _mean_over(numbers))
    content = {
        "rows": [asdict(row) | {"distance": round(row.distance, 2), "near": row.near} for row in found],
        "measured": [Path(path).stem for path in first.values()],
    }
    _draw(excerpts, found, Path(out).with_suffix(".png"))
    with replacing(Path(out).with_suffix(".md")) as temporary:
        temporary.write_text(_page(found, Path(out).stem, len(sessions), len(first)), encoding="utf-8")
    write_json(Path(out).with_suffix(".json"), content)
    return content


def _mean_over(numbers: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for each in numbers for name in each)
    return {name: float(np.mean([each[name] for each in numbers if name in each])) for name in names}


def _page(found: Sequence[Row], picture: str, sessions: int, measured: int) -> str:
    lines = [
        "# Published and simulated",
        f"Published: {published()['source']} Simulated: typing of {sessions} sessions, EMG of {measured} of them."
        " The distance is a difference where the unit is % or dB, else in % of the published number. ✓: within the"
        " allowed distance.",
        f"![All numbers, traces, spectra and activity around a key]({picture}.png)",
        "| measure | unit | published | simulated | distance | allowed | |\n|---|---|---|---|---|---|---|",
    ]
    cells = (
        f"| {row.name} | {row.unit} | {row.published:g} | {row.simulated:.4g} | {row.distance:+.1f} | {row.allowed:g} |"
        f" {'✓' * row.near} |"
        for row in found
    )
    return "\n\n".join(lines) + "\n" + "\n".join(cells) + "\n"


def _draw(excerpts: Sequence[Excerpt], found: Sequence[Row], out: Path) -> None:
    with needing("train"):
        from matplotlib.figure import Figure  # takes a second to import, and few callers draw

    figure = Figure(figsize=(17, 28), layout="constrained")
    figure.suptitle(f"traces and activity: {excerpts[0].name}; intervals and spectra: {len(excerpts)} people")
    parts = figure.subfigures(4, 1, squeeze=False, height_ratios=(3.3, 1.7, 1, 1))[:, 0]
    for hand, (traces, around) in enumerate(zip(parts[1].subplots(1, 2), parts[2].subplots(1, 2), strict=True)):
        _draw_traces(traces, excerpts[0], hand)
        _draw_averages(around, excerpts[0], hand)
    intervals, power = parts[3].subplots(1, 2)
    for excerpt in excerpts:
        power.plot(FREQUENCIES, excerpt.spectra.median_channel, color=_OURS, alpha=0.6)
        intervals.hist(excerpt.intervals, np.linspace(0, 1, 51).tolist(), histtype="step", color=_OURS, alpha=0.6)
    recorded = spectrum("median")
    power.plot(list(recorded), list(recorded.values()), "ko-", label="published")
    power.set(title="spectrum of the median channel", xlabel="Hz", ylabel="dB (µV²/Hz)")
    power.legend()
    intervals.set(title="intervals between keystrokes", xlabel="s", ylabel="keystrokes")
    _draw_rows(parts[0].subplots(), found)
    with replacing(out) as temporary:
        figure.savefig(temporary, dpi=90, format="png")


def _draw_rows(axes: "Axes", found: Sequence[Row]) -> None:
    """How far each number is from the published one, as a fraction of what is allowed."""
    for place, row in enumerate(found):
        axes.plot(
            [0, row.distance / row.allowed], [place] * 2, "o-", color=_OURS if row.near else "tab:red", markevery=[1]
        )
    axes.axvspan(-1, 1, color="lightgrey", alpha=0.5)
    axes.set_yticks(range(len(found)), [f"{row.name}: {row.published:g} {row.unit}" for row in found])
    axes.set(title="published and simulated", xlabel="distance / what is allowed (grey)", xlim=(-4, 4))
    axes.invert_yaxis()


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
    axes.set_yticks(-np.arange(segment.shape[1]), [str(number) for number in range(0, 2 * segment.shape[1], 2)])


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
