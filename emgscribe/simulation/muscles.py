"""Which muscles of a forearm work for a key press, how strongly and when.

The muscles are those that pass under a band around the distal forearm; angles and depths follow cross-sections in
anatomy atlases (Eycleshymer and Schoemaker 1911, plates of the distal forearm) to about ten degrees and a few
millimetres. A press is three bursts: a reach that lifts and steers the finger, the press itself, and the lift-off. The
bursts precede the movement by the electromechanical delay (Cavanagh and Komi 1979: 50-100 ms) and finger muscles
precede key contact by about 100 ms in typing (Kuo, Lee, Jindrich and Dennerlein 2006, "Finger joint coordination
during tapping"). Neighbouring fingers work along (Zatsiorsky, Li and Latash 2000, "Enslaving effects in multi-finger
force production") and wrist muscles steady the hand.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
import numpy.typing as npt
from scipy import sparse

from emgscribe.simulation.keyboard import Finger, Place
from emgscribe.simulation.typist import Press

Array = npt.NDArray[np.float32]

# Frames of excitation a second; a burst is about ten of them.
DRIVE_RATE = 200
# Half the length of the longest burst in s.
_LONGEST_BURST = 0.2


class Muscle(IntEnum):
    """The muscle compartments of one forearm; the four finger compartments of FDS, FDP and ED in finger order."""

    FDS_INDEX, FDS_MIDDLE, FDS_RING, FDS_LITTLE = 0, 1, 2, 3
    FDP_INDEX, FDP_MIDDLE, FDP_RING, FDP_LITTLE = 4, 5, 6, 7
    ED_INDEX, ED_MIDDLE, ED_RING, ED_LITTLE = 8, 9, 10, 11
    FPL, APL, EPL = 12, 13, 14
    FCR, FCU, ECR, ECU = 15, 16, 17, 18
    PRONATOR = 19


# (degrees around the arm from the palm side towards the thumb, mm below the skin without fat)
POSITIONS: dict[Muscle, tuple[float, float]] = {
    Muscle.FDS_INDEX: (18, 8),
    Muscle.FDS_MIDDLE: (2, 4),
    Muscle.FDS_RING: (-24, 4),
    Muscle.FDS_LITTLE: (-44, 7),
    Muscle.FDP_INDEX: (8, 12),
    Muscle.FDP_MIDDLE: (-12, 11),
    Muscle.FDP_RING: (-34, 10),
    Muscle.FDP_LITTLE: (-56, 9),
    Muscle.ED_INDEX: (160, 5),
    Muscle.ED_MIDDLE: (177, 3),
    Muscle.ED_RING: (196, 3),
    Muscle.ED_LITTLE: (216, 4),
    Muscle.FPL: (44, 9),
    Muscle.APL: (112, 5),
    Muscle.EPL: (182, 8),
    Muscle.FCR: (38, 3),
    Muscle.FCU: (-76, 3),
    Muscle.ECR: (134, 4),
    Muscle.ECU: (246, 3),
    Muscle.PRONATOR: (20, 15),
}
NUM_MUSCLES = len(Muscle)


@dataclass(frozen=True)
class Phase:
    """One burst of a press: `centre` s after its anchor (key-down or key-up) and `width` (standard deviation) in s."""

    centre: float
    width: float
    anchored_to_end: bool


PHASES = (Phase(-0.13, 0.028, False), Phase(-0.055, 0.026, False), Phase(-0.005, 0.03, True))
REACH, PRESS, LIFT = range(3)


def textbook_pattern(place: Place) -> npt.NDArray[np.float64]:
    """Excitation (3 phases, muscles) of a textbook press of the key at `place`, as a fraction of the maximum."""
    pattern = np.zeros((3, NUM_MUSCLES))
    if place.finger == Finger.THUMB:
        pattern[REACH, [Muscle.APL, Muscle.EPL]] = 0.2, 0.15
        pattern[PRESS, [Muscle.FPL, Muscle.PRONATOR, Muscle.FCR]] = 0.5, 0.2, 0.1
        pattern[LIFT, [Muscle.EPL, Muscle.APL]] = 0.4, 0.3
    else:
        _add_finger(pattern, place)
    _add_wrist(pattern, place)
    return pattern


def _add_finger(pattern: npt.NDArray[np.float64], place: Place) -> None:
    up, down = max(place.row, 0), max(-place.row, 0)
    superficial, deep, extensor = 0.42 + 0.05 * up, 0.25 - 0.1 * up + 0.35 * down, 0.25 + 0.05 * up
    for other in range(4):
        # Enslaving: the fingers beside the active one get a fifth of its command, the next ones less.
        share = (1.0, 0.15, 0.05, 0.02)[abs(other - (place.finger - 1))]
        pattern[REACH, Muscle.ED_INDEX + other] += share * (0.12 + 0.27 * up)
        pattern[REACH, Muscle.FDP_INDEX + other] += share * 0.3 * down
        pattern[PRESS, Muscle.FDS_INDEX + other] += share * superficial
        pattern[PRESS, Muscle.FDP_INDEX + other] += share * max(deep, 0.03)
        pattern[LIFT, Muscle.ED_INDEX + other] += share * extensor
        if share < 1:
            # The idle fingers are kept off their keys.
            pattern[PRESS, Muscle.ED_INDEX + other] += 0.08


def _add_wrist(pattern: npt.NDArray[np.float64], place: Place) -> None:
    up, down = max(place.row, 0), max(-place.row, 0) if place.finger else 0
    radial, ulnar = max(place.reach, 0.0), max(-place.reach, 0.0)
    pattern[REACH, Muscle.ECR] += 0.08 + 0.13 * up + 0.3 * radial
    pattern[REACH, Muscle.ECU] += 0.06 + 0.08 * up + 0.2 * ulnar
    pattern[REACH, Muscle.FCR] += 0.14 * down + 0.2 * radial
    pattern[REACH, Muscle.FCU] += 0.1 * down + 0.22 * ulnar
    pattern[REACH, Muscle.APL] += 0.2 * radial
    pattern[PRESS, Muscle.ECR] += 0.1 + 0.06 * up + 0.08 * radial
    pattern[PRESS, Muscle.ECU] += 0.08 + 0.08 * ulnar
    pattern[PRESS, Muscle.FCU] += 0.12 * ulnar
    pattern[PRESS, Muscle.PRONATOR] += 0.1 * radial


# Excitation that holds the hands over the keys.
POSTURE = np.full(NUM_MUSCLES, 0.04)
POSTURE[[Muscle.ECR, Muscle.ECU, Muscle.PRONATOR]] = 0.085, 0.08, 0.065
POSTURE[Muscle.ED_INDEX : Muscle.ED_LITTLE + 1] = 0.055


# Standard deviations of logarithms: how the muscles share the work between people, between the keys of a person beyond
# what their places explain, and between a person's days; and, in s, of how early the bursts come.
_OWN_SHARES, _OWN_KEYS, _DAY_SHARES, _OWN_LEAD = 0.5, 0.4, 0.15, 0.018


@dataclass(frozen=True)
class MotorHabits:
    """How one forearm's muscles share the work: own factors for every place of a key, and own timing of bursts."""

    factors: npt.NDArray[np.float64]
    leads: npt.NDArray[np.float64]
    seed: int
    spread: float

    @classmethod
    def of_user(cls, rng: np.random.Generator, spread: float) -> "MotorHabits":
        """Factors (3 phases, muscles) about 1 and leads of the phases in s; `spread` 0 gives the textbook."""
        factors = np.exp(_OWN_SHARES * spread * rng.standard_normal((3, NUM_MUSCLES)))
        leads = _OWN_LEAD * spread * (rng.standard_normal() + 0.5 * rng.standard_normal(len(PHASES)))
        return cls(factors, leads, int(rng.integers(1 << 31)), spread)

    def of_session(self, rng: np.random.Generator, strays: float) -> "MotorHabits":
        """The same forearm on another day: seated otherwise, its muscles share the work a little differently."""
        return replace(
            self, factors=self.factors * np.exp(_DAY_SHARES * strays * rng.standard_normal((3, NUM_MUSCLES)))
        )

    def pattern(self, place: Place) -> npt.NDArray[np.float64]:
        """This person's excitation (3 phases, muscles) for the key at `place`; the same in every session."""
        own = np.random.default_rng([self.seed, place.hand, place.finger, place.row + 2, round(4 * place.x)])
        personal = np.exp(_OWN_KEYS * self.spread * own.standard_normal((3, NUM_MUSCLES)))
        return textbook_pattern(place) * self.factors * personal


class Drive:
    """The excitation of one forearm's muscles through a session, made block by block from its key presses.

    Each burst is a Gaussian in time scaled by the pattern of its key. All are shifted by `delay` s against the key log;
    `variability` scales how far timing and strength stray from press to press.
    """

    def __init__(
        self,
        presses: Sequence[Press],
        habits: MotorHabits,
        rng: np.random.Generator,
        *,
        delay: float = 0.0,
        variability: float = 1.0,
    ) -> None:
        shape = (len(presses), len(PHASES), NUM_MUSCLES)
        patterns = np.array([habits.pattern(press.place) for press in presses]).reshape(shape)
        patterns *= np.exp(0.12 * variability * rng.standard_normal((len(presses), 1, 1)))
        patterns *= np.exp(0.2 * variability * rng.standard_normal(shape))
        anchors = np.array([[p.end if phase.anchored_to_end else p.start for phase in PHASES] for p in presses])
        centres = anchors.reshape(shape[:2]) + np.array([phase.centre for phase in PHASES]) + habits.leads + delay
        centres += 0.008 * variability * rng.standard_normal(centres.shape)
        widths = np.array([phase.width for phase in PHASES]) * np.exp(
            0.15 * variability * rng.standard_normal(centres.shape)
        )
        order = np.argsort(centres, axis=None)
        # One row a burst, in order of time, whichever press and phase it belongs to.
        self._centres, self._widths = centres.ravel()[order], widths.ravel()[order]
        self._patterns = patterns.reshape(-1, NUM_MUSCLES)[order].astype(np.float32)

    def block(self, first_frame: int, frames: int) -> Array:
        """Excitation (frames, muscles) from `first_frame` on, at DRIVE_RATE."""
        drive = np.tile(POSTURE.astype(np.float32), (frames, 1))
        start, end = first_frame / DRIVE_RATE, (first_frame + frames) / DRIVE_RATE
        near = slice(*np.searchsorted(self._centres, [start - _LONGEST_BURST, end + _LONGEST_BURST]))
        centres, widths = self._centres[near], np.minimum(self._widths[near], _LONGEST_BURST / 4)
        if len(centres):
            drive += _bursts(centres - start, widths, frames) @ self._patterns[near]
        return drive


def _bursts(centres: npt.NDArray[np.float64], widths: npt.NDArray[np.float64], frames: int) -> sparse.csr_matrix:
    """Sparse (frames, bursts): a Gaussian of unit height for each burst, at `centres` in s from the first frame."""
    reach = int(_LONGEST_BURST * DRIVE_RATE)
    rows = np.rint(centres * DRIVE_RATE).astype(np.int64)[:, None] + np.arange(-reach, reach + 1)
    heights = np.exp(-0.5 * ((rows / DRIVE_RATE - centres[:, None]) / widths[:, None]) ** 2)
    columns = np.broadcast_to(np.arange(len(centres))[:, None], rows.shape)
    inside = (rows >= 0) & (rows < frames)
    entries = (heights[inside].astype(np.float32), (rows[inside], columns[inside]))
    return sparse.csr_matrix(entries, shape=(frames, len(centres)))
