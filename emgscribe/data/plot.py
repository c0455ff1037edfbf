"""A few seconds of a session as a figure: electrodes, keys, and what a model read."""

from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt

from emgscribe.data.charset import SPACE
from emgscribe.data.session import Session
from emgscribe.errors import EmgscribeError, needing

with needing("train"):
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

_TYPED, _READ, _EMG, _FAINT = "#1f3b57", "#c0392b", "#3f6f9f", "#d5dbe1"
_MAX_SECONDS = 60


class _Shown(Figure):
    """A figure that a notebook shows, whether or not pyplot was imported."""

    def _repr_png_(self) -> bytes:
        self.savefig(image := BytesIO(), format="png")
        return image.getvalue()


def plot_session(session: Session, start: float, stop: float, read: Any = None) -> Figure:
    """Seconds [start, stop) of a session: both bands' electrodes, the keys that went down, and the `Transcript` `read`.

    Raises `EmgscribeError` where the range is empty, longer than a minute or not inside the session.
    """
    rate, names = session.shape.rate, session.shape.bands
    seconds = len(session) / rate
    if not 0 <= start <= stop - 1 / rate <= seconds or stop - start > _MAX_SECONDS:
        hint = f"choose at most {_MAX_SECONDS} s between 0 and {seconds:.3f} s"
        raise EmgscribeError(f"seconds {start:g} to {stop:g} cannot be plotted", where=session.name, hint=hint)
    rows = {"typed": list(zip(session.text, session.onsets / rate, strict=True))}
    if read is not None:
        rows["read"] = list(zip(read.text, read.onsets, strict=True))
    figure = _Shown(figsize=(min(5 + 2 * (stop - start), 24), 8), layout="constrained")
    top, *bands = figure.subplots(1 + len(names), 1, sharex=True, height_ratios=(len(rows), *[10] * len(names)))
    _draw_keys(top, rows, start, stop)
    top.set_title(f"{session.name}{f' ({session.kind})' * session.simulated}", fontsize=10, loc="left")
    first = round(start * rate)
    emg = np.asarray(session.emg[first : round(stop * rate)])
    times = np.arange(first, first + len(emg)) / rate
    for band, (axes, name) in enumerate(zip(bands, names, strict=True)):
        deviations = emg[:, band] - emg[:, band].mean(axis=0)
        step = 5 * float(np.quantile(deviations.std(axis=0), 0.8)) or 1.0  # from one electrode's line to the next
        lines = -step * np.arange(session.shape.electrodes)
        axes.vlines([at for _, at in rows["typed"] if start <= at < stop], lines[-1] - step, step, color=_FAINT, lw=0.8)
        axes.plot(times, deviations.clip(-step, step) + lines, color=_EMG, lw=0.5)
        axes.set_ylabel(f"{name} band, electrode channel")
        axes.set_yticks(lines[::5], map(str, range(0, session.shape.electrodes, 5)))
        axes.set_ylim(lines[-1] - step, step)
        axes.spines[["top", "right"]].set_visible(False)
    bands[-1].set_xlabel("time (s)")
    bands[-1].set_xlim(start, stop)
    return figure


def plot_electrodes(
    values: npt.NDArray[np.float64], times: npt.NDArray[np.float64], bands: Sequence[str], title: str, meaning: str
) -> Figure:
    """Values (times, bands, electrode channels) around zero, in colours: a panel for each band."""
    figure = _Shown(figsize=(5 * len(bands) + 2, 4.5), layout="constrained")
    figure.suptitle(title, fontsize=11)
    step = times[1] - times[0]
    highest = float(np.quantile(np.abs(values), 0.998)) or 1.0  # single bins may be extreme
    scale = ScalarMappable(Normalize(-highest, highest), "RdBu_r")
    for band, axes in enumerate(figure.subplots(1, len(bands), squeeze=False, sharey=True)[0]):
        edges = (times[0] - step / 2, times[-1] + step / 2, values.shape[2] - 0.5, -0.5)
        axes.imshow(values[:, band].T, cmap=scale.cmap, norm=scale.norm, extent=edges, aspect="auto")
        axes.axvline(0, color="black", lw=0.8)
        axes.set(title=f"{bands[band]} band", xlabel="s from key-down")
    figure.axes[0].set_ylabel("electrode channel")
    figure.colorbar(scale, ax=figure.axes, label=meaning)
    return figure


def _draw_keys(axes: Axes, rows: dict[str, list[tuple[str, float]]], start: float, stop: float) -> None:
    for row, (name, keys) in enumerate(rows.items()):
        color = _TYPED if name == "typed" else _READ
        shown = [("␣" if symbol == SPACE else symbol, at) for symbol, at in keys if start <= at < stop]
        axes.vlines([at for _, at in shown], -row - 0.45, -row - 0.25, color=color, lw=1)
        for symbol, at in shown:
            axes.text(at, -row, symbol, ha="center", va="center", color=color, fontsize=10, parse_math=False)
    axes.set_yticks([-row for row in range(len(rows))], list(rows))
    axes.set_ylim(0.6 - len(rows), 0.5)
    axes.tick_params(length=0, labelbottom=False)
    axes.spines[:].set_visible(False)
