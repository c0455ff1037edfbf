"""Which muscles of a forearm are active in a key press, how strongly and when.

Angles and depths of the muscles follow cross-sections of the distal forearm (Eycleshymer and Schoemaker 1911) to about
ten degrees and a few millimetres. A key press has three bursts of activity: a reach that lifts and steers the finger,
the press, and the lift-off. A burst precedes the movement by the electromechanical delay (Cavanagh and Komi 1979: 50 to
100 ms); in typing, finger muscles are active about 100 ms before key contact (Kuo, Lee, Jindrich and Dennerlein 2006,
"Finger joint coordination during tapping"). Muscles of neighbouring fingers are active too (Zatsiorsky, Li and Latash
2000, "Enslaving effects in multi-finger force production"), and wrist muscles steady the hand.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
from scipy import sparse

from emgscribe.data.hdf5 import SAMPLE_RATE
from emgscribe.simulation.arrays import Float32, Float64, Rng
from emgscribe.simulation.keyboard import Finger, Place
from emgscribe.simulation.typist import Press

DRIVE_RATE = 200  # frames of excitation per second; a burst is about ten frames long
SAMPLES_PER_FRAME = SAMPLE_RATE // DRIVE_RATE
_LONGEST_BURST = 0.2  # half the length of the longest burst in s


class Muscle(IntEnum):
    """The muscle compartments of one forearm; FDS, FDP and ED have one for each finger but the thumb."""

    FDS_INDEX, FDS_MIDDLE, FDS_RING, FDS_LITTLE = 0, 1, 2, 3
    FDP_INDEX, FDP_MIDDLE, FDP_RING, FDP_LITTLE = 4, 5, 6, 7
    ED_INDEX, ED_MIDDLE, ED_RING, ED_LITTLE = 8, 9, 10, 11
    FPL, APL, EPL = 12, 13, 14
    FCR, FCU, ECR, ECU = 15, 16, 17, 18
    PRONATOR = 19


NUM_MUSCLES = len(Muscle)
_FDS, _FDP, _ED = slice(0, 4), slice(4, 8), slice(8, 12)
# By muscle: degrees around the arm from the palm side towards the thumb, and mm below the fat.
# fmt: off
POSITIONS = np.array([
    (18, 8), (2, 4), (-24, 4), (-44, 7),
    (8, 12), (-12, 11), (-34, 10), (-56, 9),
    (160, 5), (177, 3), (196, 3), (216, 4),
    (44, 9), (112, 5), (182, 8),
    (38, 3), (-76, 3), (134, 4), (246, 3),
    (20, 15),
])
# fmt: on

# The phases of a key press, one burst each: centre in s after key-down (lift-off: key-up), and standard deviation in s.
REACH, PRESS, LIFT = range(3)
_CENTRES, _WIDTHS = np.array([-0.13, -0.055, -0.005]), np.array([0.028, 0.026, 0.03])


def textbook_pattern(place: Place) -> Float64:
    """Excitation (3 phases, muscles) for the key at `place`, as a fraction of the maximum, before people differ."""
    pattern = np.zeros((3, NUM_MUSCLES))
    up, down = max(place.row, 0), max(-place.row, 0)
    radial, ulnar = max(place.reach, 0.0), max(-place.reach, 0.0)
    if place.finger == Finger.THUMB:
        down = 0
        pattern[REACH, [Muscle.APL, Muscle.EPL]] = 0.2, 0.15
        pattern[PRESS, [Muscle.FPL, Muscle.PRONATOR, Muscle.FCR]] = 0.5, 0.2, 0.1
        pattern[LIFT, [Muscle.EPL, Muscle.APL]] = 0.4, 0.3
    else:
        # Enslaving: the fingers beside the active one get 15 % of its excitation, the next ones less.
        share = np.array([1.0, 0.15, 0.05, 0.02])[np.abs(np.arange(4) - (place.finger - 1))]
        pattern[REACH, _ED] = share * (0.12 + 0.27 * up)
        pattern[REACH, _FDP] = share * 0.3 * down
        pattern[PRESS, _FDS] = share * (0.42 + 0.05 * up)
        pattern[PRESS, _FDP] = share * max(0.25 - 0.1 * up + 0.35 * down, 0.03)
        pattern[PRESS, _ED] = 0.08 * (share < 1)  # keeps the idle fingers off their keys
        pattern[LIFT, _ED] = share * (0.25 + 0.05 * up)
    # The wrist steadies the hand and steers it.
    pattern[REACH, Muscle.ECR] += 0.08 + 0.13 * up + 0.3 * radial
    pattern[REACH, Muscle.ECU] += 0.06 + 0.08 * up + 0.2 * ulnar
    pattern[REACH, Muscle.FCR] += 0.14 * down + 0.2 * radial
    pattern[REACH, Muscle.FCU] += 0.1 * down + 0.22 * ulnar
    pattern[REACH, Muscle.APL] += 0.2 * radial
    pattern[PRESS, Muscle.ECR] += 0.1 + 0.06 * up + 0.08 * radial
    pattern[PRESS, Muscle.ECU] += 0.08 + 0.08 * ulnar
    pattern[PRESS, Muscle.FCU] += 0.12 * ulnar
    pattern[PRESS, Muscle.PRONATOR] += 0.1 * radial
    return pattern


# Excitation that holds the hands over the keys.
POSTURE = np.full(NUM_MUSCLES, 0.04)
POSTURE[[Muscle.ECR, Muscle.ECU, Muscle.PRONATOR]] = 0.085, 0.08, 0.065
POSTURE[_ED] = 0.055

# Standard deviations of the logarithm of a muscle's excitation: between people, between the keys of a person (in
# addition to what the key's place explains) and between the sessions of a person.
_BETWEEN_PEOPLE, _BETWEEN_KEYS, _BETWEEN_SESSIONS = 0.5, 0.4, 0.15
_LEAD = 0.018  # standard deviation between people of the time of the bursts, in s


@dataclass(frozen=True)
class MotorHabits:
    """How the muscles of one person's forearm differ from the textbook."""

    factors: Float64  # (3 phases, muscles), on the excitation
    leads: Float64  # (3 phases,), added to the time of the bursts, in s
    seed: int  # of the factors that each key has in addition
    spread: float  # scale of those factors; 0: none

    @classmethod
    def of_user(cls, rng: Rng, spread: float) -> "MotorHabits":
        """Habits drawn from `rng`; `spread` 0 gives the textbook."""
        factors = np.exp(_BETWEEN_PEOPLE * spread * rng.standard_normal((3, NUM_MUSCLES)))
        leads = _LEAD * spread * (rng.standard_normal() + 0.5 * rng.standard_normal(3))
        return cls(factors, leads, int(rng.integers(1 << 31)), spread)

    def of_session(self, rng: Rng, strays: float) -> "MotorHabits":
        """The same person in another posture, which changes the excitation of the muscles a little."""
        changes = np.exp(_BETWEEN_SESSIONS * strays * rng.standard_normal((3, NUM_MUSCLES)))
        return replace(self, factors=self.factors * changes)

    def pattern(self, place: Place) -> Float64:
        """This person's excitation (3 phases, muscles) for the key at `place`; the same in every session."""
        own = np.random.default_rng([self.seed, place.hand, place.finger, place.row + 2, round(4 * place.x)])
        personal = np.exp(_BETWEEN_KEYS * self.spread * own.standard_normal((3, NUM_MUSCLES)))
        return textbook_pattern(place) * self.factors * personal


class Drive:
    """The excitation of the muscles of one forearm in a session, block by block, from the key presses of the hand.

    Each burst is a Gaussian in time, scaled by the pattern of its key. `delay` (s) shifts all bursts against the key
    log; `variability` scales how much timing and strength vary from press to press.
    """

    def __init__(
        self, presses: Sequence[Press], habits: MotorHabits, rng: Rng, *, delay: float = 0.0, variability: float = 1.0
    ) -> None:
        shape = (len(presses), 3, NUM_MUSCLES)
        patterns = np.array([habits.pattern(press.place) for press in presses]).reshape(shape)
        patterns *= np.exp(0.12 * variability * rng.standard_normal((len(presses), 1, 1)))
        patterns *= np.exp(0.2 * variability * rng.standard_normal(shape))
        anchors = np.array([(press.start, press.start, press.end) for press in presses]).reshape(shape[:2])
        centres = anchors + _CENTRES + habits.leads + delay
        centres += 0.008 * variability * rng.standard_normal(centres.shape)
        widths = _WIDTHS * np.exp(0.15 * variability * rng.standard_normal(centres.shape))
        order = np.argsort(centres, axis=None)
        self._centres, self._widths = centres.ravel()[order], widths.ravel()[order]
        self._patterns = patterns.reshape(-1, NUM_MUSCLES)[order].astype(np.float32)

    def block(self, first_frame: int, frames: int) -> Float32:
        """Excitation (frames, muscles) from `first_frame` on."""
        start, end = first_frame / DRIVE_RATE, (first_frame + frames) / DRIVE_RATE
        near = slice(*np.searchsorted(self._centres, [start - _LONGEST_BURST, end + _LONGEST_BURST]))
        centres = self._centres[near, None] - start
        widths = np.minimum(self._widths[near, None], _LONGEST_BURST / 4)
        reach = int(_LONGEST_BURST * DRIVE_RATE)
        rows = np.rint(centres * DRIVE_RATE).astype(np.int64) + np.arange(-reach, reach + 1)  # (bursts, frames of each)
        heights = np.exp(-0.5 * ((rows / DRIVE_RATE - centres) / widths) ** 2)
        burst, at = np.nonzero((rows >= 0) & (rows < frames))
        entries = heights[burst, at].astype(np.float32), (rows[burst, at], burst)
        bursts = sparse.csr_matrix(entries, shape=(frames, len(centres)))
        return np.asarray(POSTURE.astype(np.float32) + bursts @ self._patterns[near])
