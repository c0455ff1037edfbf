"""Which electrodes a key is read from, and when."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from emgscribe.config import require
from emgscribe.data.charset import NUM_CLASSES, SPACE, SYMBOLS
from emgscribe.data.hdf5 import kind_of
from emgscribe.data.session import Session, how_simulated
from emgscribe.data.windows import Batch, Store, Windows
from emgscribe.errors import EmgscribeError
from emgscribe.models.model import Model, evaluating

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BEFORE, _AFTER = 0.5, 0.3  # s around key-down
_BIN = 0.02  # s
_READ_BEFORE = 0.1  # s before key-down; from there on a frame may show the key
_BATCH = 16  # presses


@dataclass(frozen=True, eq=False)
class Saliency:
    """What `symbol` is read from: the mean over `presses` presses that the model read.

    `values` (bins, bands, electrode channels) is how much the key's log-odds rise with the logarithm of an electrode's
    gain in a bin of 20 ms; `times` (bins,) is the middle of each bin, in s from key-down.
    """

    symbol: str
    values: npt.NDArray[np.float64]
    times: npt.NDArray[np.float64]
    bands: tuple[str, ...]
    presses: int
    simulated: bool
    real_keys: bool = False

    def plot(self) -> "Figure":
        """A matplotlib figure: electrodes by time from key-down, a panel for each band."""
        from emgscribe.data.plot import plot_electrodes  # which imports matplotlib

        name = "space" if self.symbol == SPACE else self.symbol
        kind = kind_of(simulated=self.simulated, real_keys=self.real_keys)
        title = f"Saliency of {name}: mean of {self.presses} presses, {kind}"
        return plot_electrodes(self.values, self.times, self.bands, title, "rise of the key's log-odds with ln gain")


def saliency(model: Model, sessions: Sequence[Session], symbol: str, presses: int = 100) -> Saliency:
    """What `symbol` is read from in `sessions`: of at most `presses` presses, those that `model` reads.

    A press counts as read where a frame from 100 ms before key-down to 300 ms after it gives the key a probability
    above one half. In the frame where that is highest, the log-odds are differentiated with respect to the gain of each
    electrode over time (gradient times input). Raises `EmgscribeError` where `symbol` is not in the charset, and where
    no press is read.
    """
    require(presses >= 1, "presses", presses, "1 or more")
    if symbol not in SYMBOLS:
        raise EmgscribeError(f"{symbol!r} is not a symbol", hint="name one key, such as 'e', '⌫' or '⏎'")
    for session in sessions:
        model.require_shape(session)
    label, shape = SYMBOLS.index(symbol), model.shape
    pressed = [(number, int(at)) for number, s in enumerate(sessions) for at in s.onsets[s.labels == label]]
    chosen = np.linspace(0, len(pressed) - 1, min(presses, len(pressed))).round().astype(int).tolist()
    before = shape.samples(_BEFORE)
    places = [(number, at - before) for number, at in (pressed[place] for place in chosen)]
    windows = Windows(Store(sessions), before + shape.samples(_AFTER), 1, *model.context)
    bins = round((_BEFORE + _AFTER) / _BIN)
    bin_of = np.minimum(np.arange(windows.length) / shape.rate / _BIN, bins - 1).astype(int)  # the bin of each sample
    total: npt.NDArray[np.float64] = np.zeros((bins, *shape.sample))
    read = 0
    with evaluating(model), torch.backends.cudnn.flags(enabled=False):  # cuDNN's GRUs have no gradients in evaluation
        for first in range(0, len(places), _BATCH):
            gradients = _gradients(model, windows.batch(places[first : first + _BATCH]), label)
            np.add.at(total, bin_of, gradients.sum(axis=0))
            read += len(gradients)
    if not read:
        what = f"none of {len(places)} presses of {symbol!r} is read" if places else f"{symbol!r} was never pressed"
        raise EmgscribeError(what, hint="choose another key, or a model that reads it")
    times = np.arange(bins, dtype=np.float64) * _BIN + (_BIN / 2 - _BEFORE)
    total /= read
    return Saliency(symbol, total, times, shape.bands, read, *how_simulated(sessions))


def _gradients(model: Model, batch: Batch, label: int) -> npt.NDArray[np.float64]:
    """Gradient times input (presses that are read, samples, bands, electrodes) of the log-odds of `label`."""
    emg = batch.emg.to(model.device).requires_grad_()
    emissions, _ = model(replace(batch, emg=emg))
    seconds = torch.arange(emissions.shape[1]) * model.samples_per_frame / model.shape.rate - _BEFORE
    near = emissions[:, seconds >= -_READ_BEFORE]
    others = near[:, :, torch.arange(NUM_CLASSES) != label]
    # The gradient of a probability near one vanishes; that of its log-odds does not.
    best = (near[:, :, label] - others.logsumexp(dim=2)).amax(dim=1)
    (gradient,) = torch.autograd.grad(best.sum(), emg)
    products = (emg.detach() * gradient)[:, batch.left : batch.left + batch.labelled]
    return products[best > 0].cpu().double().numpy()
