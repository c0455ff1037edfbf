"""Linear probes of sessions: how much electrodes, frequencies, neighbouring keys, sessions and people contribute.

    python benchmarks/probes.py FOLDER

FOLDER holds sessions, simulated or recorded, three or more of one user. A network takes minutes to hours to answer
such questions, a probe seconds. Each row is the share of keys that linear discriminants with a shrunk covariance get
wrong at known key times, its ratio to the first row, and the ratio of character error rates published for recordings.
Shares of keys are not character error rates: the ratios are a guide. Spectra and averages around key-down follow.

The last third of the user's last session is for testing, everything else of the user for training: a network sees
enough donnings that any new one resembles one of them.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import linalg, signal

from emgscribe.data.charset import SHIFT
from emgscribe.data.hdf5 import SessionFile, find_sessions
from emgscribe.simulation.activity import BEFORE, FREQUENCIES, key_locked, spectra
from emgscribe.simulation.arrays import SAMPLE_RATE
from emgscribe.simulation.keyboard import TEXTBOOK
from emgscribe.simulation.published import spectrum

Array = npt.NDArray[np.float64]
_OFFSETS = np.arange(-0.12, 0.121, 0.04)  # s from key-down to the middle of a frame
_FRAME = 0.06  # s
_EDGES = (20, 80, 150, 300, 1001)  # of the frequency bands in Hz
_SHRINKAGE = 0.2


Reading = Callable[["Session"], Array]


class Session:
    """The keys of a session and the signal around them."""

    def __init__(self, path: Path) -> None:
        with SessionFile(path) as file:
            times, self.emg = file.read()
            self.user = file.header.user
            keys = [(symbol, float(time - times[0])) for symbol, time in file.header.labelled_keystrokes()]
        end = len(self.emg) / SAMPLE_RATE - 0.6
        self.keys = [(symbol, time) for symbol, time in keys if symbol != SHIFT and 0.6 < time < end]
        self.symbols = np.array([symbol for symbol, _ in self.keys])
        self.times = np.array([time for _, time in self.keys])
        self._powers: dict[tuple[int, float], Array] = {}

    def _frames(self, emg: npt.NDArray[np.float32], rate: int, late: float, offset: float) -> Array:
        size = round(_FRAME * rate)
        rng = np.random.default_rng(0)
        times = self.times + offset + late * rng.uniform(-1, 1, len(self.times))
        return emg[np.rint(times * rate - size / 2).astype(int)[:, None] + np.arange(size)]

    def powers(self, rate: int = SAMPLE_RATE, late: float = 0.0) -> Array:
        """(keys, offsets, frequency bands, 2, 16): log powers; `late`: the right band lags by up to that many s."""
        if (rate, late) not in self._powers:
            emg = self.emg if rate == SAMPLE_RATE else signal.resample_poly(self.emg, 1, SAMPLE_RATE // rate, axis=0)
            window = np.hanning(round(_FRAME * rate))[:, None, None]
            frequencies = np.fft.rfftfreq(len(window), 1 / rate)
            bands = [(frequencies >= low) & (frequencies < high) for low, high in pairwise(_EDGES)]
            shape = len(self.times), len(_OFFSETS), sum(band.any() for band in bands), 2, 16
            found = np.empty(shape, dtype=np.float32)
            for nth, offset in enumerate(_OFFSETS):
                for hand, shift in enumerate((0.0, late)):
                    frames = self._frames(emg[:, hand : hand + 1], rate, shift, offset)
                    power = np.abs(np.fft.rfft(frames * window, axis=1)) ** 2 / rate
                    kept = [power[:, band].mean(axis=1) for band in bands if band.any()]
                    found[:, nth, :, hand] = np.log(np.stack(kept, axis=1)[:, :, 0] + 1e-4)
            found -= found.mean(axis=0)  # a network learns to ignore the level of a session
            self._powers[rate, late] = found
        return self._powers[rate, late]

    @cached_property
    def covariances(self) -> Array:
        """(keys, features): logarithms of covariance matrices: powers, and how electrodes of a band covary."""
        upper, columns = np.triu_indices(16), []
        for offset in _OFFSETS[::2]:
            frames = self._frames(self.emg, SAMPLE_RATE, 0.0, offset)
            for hand in range(2):
                covariance = np.einsum("kti,ktj->kij", frames[:, :, hand], frames[:, :, hand]) / frames.shape[1]
                values, vectors = np.linalg.eigh(covariance + 0.5 * np.eye(16))
                columns.append(((vectors * np.log(values)[:, None]) @ vectors.transpose(0, 2, 1))[:, *upper])
        found = np.concatenate(columns, axis=1)
        return found - found.mean(axis=0)

    @cached_property
    def neighbours(self) -> Array:
        """(keys, features): which keys come before and after, two each way."""
        known = sorted(TEXTBOOK)
        own = (self.symbols[:, None] == np.array(known)).astype(float)
        return 3 * np.concatenate([np.roll(own, step, axis=0) for step in (-2, -1, 1, 2)], axis=1)

    @property
    def with_neighbours(self) -> Array:
        return np.concatenate([self.powers().reshape(len(self.keys), -1), self.neighbours], axis=1)


def error(train: Sequence[tuple[Array, npt.NDArray[np.str_]]], test: tuple[Array, npt.NDArray[np.str_]]) -> float:
    """The share of the test's keys that linear discriminants get wrong."""
    features = np.concatenate([each.reshape(len(each), -1) for each, _ in train])
    symbols = np.concatenate([each for _, each in train])
    middle, scale = features.mean(axis=0), features.std(axis=0) + 1e-9
    features = (features - middle) / scale
    classes = [symbol for symbol in np.unique(symbols) if (symbols == symbol).sum() >= 5]
    means = np.stack([features[symbols == symbol].mean(axis=0) for symbol in classes])
    kept = np.isin(symbols, classes)
    rest = features[kept] - means[np.searchsorted(classes, symbols[kept])]
    covariance = (1 - _SHRINKAGE) * rest.T @ rest / len(rest) + _SHRINKAGE * np.eye(rest.shape[1]) * rest.var()
    weights = linalg.solve(covariance, means.T, assume_a="pos")
    prior = np.log([(symbols == symbol).mean() for symbol in classes])
    x = (test[0].reshape(len(test[0]), -1) - middle) / scale
    scores = x @ weights - 0.5 * (means.T * weights).sum(axis=0) + prior
    return float(np.mean(np.array(classes)[scores.argmax(axis=1)] != test[1]))


def probes(sessions: Sequence[Session]) -> Iterator[tuple[str, float, str]]:
    """(name, error, published ratio) of each probe."""
    users = [session.user for session in sessions]
    most = max(users, key=users.count)
    *before, last = [session for session in sessions if session.user == most]
    others = [session for session in sessions if session.user != most]
    cut = 2 * len(last.keys) // 3

    def reading(
        choose: Reading, *, same: bool = True, copies: Sequence[Reading] = (), train: Sequence[Session] = before
    ) -> float:
        parts = [(each(session), session.symbols) for session in train for each in (choose, *copies)]
        found = choose(last)
        if same:
            parts.append((found[:cut], last.symbols[:cut]))
        return error(parts, (found[cut:], last.symbols[cut:]))

    powers = Session.powers
    yield "everything", reading(powers), "1"
    for rate, published in ((1000, "0.94-0.99"), (500, "1.04"), (250, "1.11-1.17")):
        yield f"{rate} Hz", reading(partial(powers, rate=rate)), published
    for step, published in ((2, "1.14-1.33"), (4, "1.32-1.89"), (8, "2.2-3.4")):
        yield f"{16 // step} electrodes", reading(lambda each, step=step: each.powers()[..., ::step]), published
    for hand, name in enumerate(("left", "right")):
        yield f"{name} band alone", reading(lambda each, hand=hand: each.powers()[:, :, :, hand]), "2.2-2.6"
    yield "broad-band powers, 4 offsets", reading(lambda each: np.log(np.exp(each.powers()[:, ::2]).mean(axis=2))), ""
    yield "covariances of electrodes, 4 offsets", reading(lambda each: each.covariances), "0.97 of the row above"
    yield "within 70 ms of key-down", reading(lambda each: each.powers()[:, 2:5]), ""
    yield "neighbouring keys known", reading(lambda each: each.with_neighbours), "0.55-0.75 (recurrent)"
    yield "neighbouring keys alone", reading(lambda each: each.neighbours), ""
    yield "this session alone", reading(powers, train=()), ""
    across = reading(powers, same=False)
    yield "other sessions alone", across, ""
    copies = [lambda each, step=step: np.roll(each.powers(), step, axis=4) for step in (-1, 1)]
    yield "other sessions, with band rotation", reading(powers, same=False, copies=copies), "0.96 of the row above"
    copies = [partial(powers, late=0.06)]
    yield "other sessions, with alignment jitter", reading(powers, same=False, copies=copies), "0.85 of other sessions"
    if others:
        yield "other people", reading(powers, same=False, train=others), "2.5 (100 people), 3.2 (2)"


def main(folder: Path) -> None:
    sessions = [Session(path) for path in find_sessions(folder)]
    found = list(probes(sessions))
    for name, wrong, published in found:
        print(f"{name:45} {100 * wrong:6.1f} {wrong / found[0][1]:6.2f}   {published}")
    for session in (sessions[0], sessions[-1]):
        describe(session)


def describe(session: Session) -> None:
    found = spectra(session.emg)
    tenths = (10, 50, 90)
    print(f"\n{session.user}: median frequency {np.percentile(found.median_frequency, tenths).round()} Hz")
    print(f"level {np.percentile(found.level, tenths).round(1)} µV; left, right:")
    for hand in range(2):
        print("  ", np.sort(found.level[16 * hand :][:16])[::-1].round(1))
    for name, curve in (("median", found.median_channel), ("strongest", found.density[found.level.argmax()])):
        recorded = spectrum(name)
        at = np.interp(list(recorded), FREQUENCIES, curve).round(1)
        print(f"{name} channel, dB at Hz: {dict(zip(recorded, at.tolist(), strict=True))}; recorded {recorded}")
    locked = key_locked(session.emg, [(TEXTBOOK[s].hand, t) for s, t in session.keys if s in TEXTBOOK])
    for hand in range(2):
        own, other = locked[hand, :, hand], locked[hand, :, 1 - hand]
        best = own[:, own.max(axis=0).argmax()]
        wide = (best > (best.max() + best.min()) / 2).sum() / 2
        peak = best.argmax() / 2 - 1000 * BEFORE
        peaks = np.sort(own.argmax(axis=0) / 2 - 1000 * BEFORE).astype(int)
        rises = [round(float(np.median(each.max(axis=0) / each.min(axis=0))), 1) for each in (own, other[400:900])]
        print(f"hand {hand}: {best.min():.1f} to {best.max():.1f} µV at {peak:.0f} ms, {wide:.0f} ms wide")
        print(f"   rise, own and other band: {rises}; peaks of all electrodes, ms: {peaks}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
