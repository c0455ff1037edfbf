"""Which muscles of a forearm are active in a key press, how strongly and when.

Angles and depths of the muscles follow cross-sections of the distal forearm (Eycleshymer and Schoemaker 1911) to about
ten degrees and a few millimetres. A key press has four bursts of activity: the finger is lifted, reaches for the key,
presses it, and is released. In a recorded session (sub-03734552 of Sivakumar et al. 2024) some electrodes peak 90 and
40 ms before key-down and the strongest 35 to 40 ms after it. Muscles of neighbouring fingers are active too
(Zatsiorsky, Li and Latash 2000, "Enslaving effects in multi-finger force production"), and wrist muscles steady the
hand.

What muscles do depends on the way to a key, not on the key: a hand moves along with its fingers and returns to the home
row slowly, so the same key takes a different movement after a different key.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
from scipy import sparse

from emgscribe.simulation.arrays import SAMPLE_RATE, Float32, Float64, Rng
from emgscribe.simulation.keyboard import Finger
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

# The phases of a key press, one burst each: centre in s after key-down (release: key-up), and standard deviation in s.
PHASES = LIFT, REACH, PRESS, RELEASE = range(4)
_CENTRES, _WIDTHS = np.array([-0.105, -0.055, 0.02, -0.02]), np.array([0.035, 0.022, 0.018, 0.03])
# The terms of a movement; the excitation for a press is their sum, each times its amount.
TERMS = PLAIN, UP, DOWN, RADIAL, ULNAR = range(5)

_FOLLOW, _RETURN = 0.6, 1.5  # share of a reach that the hand goes along with, and s in which it returns home


def movements(presses: Sequence[Press]) -> Float64:
    """(presses, TERMS): how far each press of one hand is from where the hand is by then, in key widths."""
    amounts, at, last = np.zeros((len(presses), len(TERMS))), np.zeros(2), 0.0
    for amount, press in zip(amounts, presses, strict=True):
        at *= np.exp(-(press.start - last) / _RETURN)
        last, amount[PLAIN] = press.start, 1.0
        if press.place.finger != Finger.THUMB:
            way = np.array([press.place.row, press.place.reach]) - at
            at += _FOLLOW * way
            amount[[UP, RADIAL]], amount[[DOWN, ULNAR]] = np.maximum(way, 0), np.maximum(-way, 0)
    return amounts


def textbook_patterns() -> Float64:
    """Excitation (5 fingers, TERMS, PHASES, muscles) as a fraction of the maximum, before people differ."""
    patterns = np.zeros((5, len(TERMS), len(PHASES), NUM_MUSCLES))
    plain, up, down, radial, ulnar = (patterns[1:, term] for term in TERMS)
    # Enslaving: the fingers beside the active one get 15 % of its excitation, the next ones less.
    share = np.array([1.0, 0.15, 0.05, 0.02])[np.abs(np.arange(4)[:, None] - np.arange(4))]
    plain[:, LIFT, _ED], up[:, LIFT, _ED] = 0.14 * share, 0.2 * share
    down[:, REACH, _FDP] = 0.25 * share
    plain[:, PRESS, _FDS], plain[:, PRESS, _FDP] = 0.6 * share, 0.36 * share
    down[:, PRESS, _FDP], up[:, PRESS, _FDS] = 0.2 * share, 0.1 * share
    plain[:, PRESS, _ED] = 0.18 - 0.08 * share  # keeps the idle fingers off their keys
    plain[:, RELEASE, _ED] = 0.04 * share
    # The wrist steadies the hand and steers it.
    plain[:, LIFT, [Muscle.ECR, Muscle.ECU]] = 0.07, 0.05
    up[:, LIFT, [Muscle.ECR, Muscle.ECU]] = 0.14, 0.08
    down[:, REACH, [Muscle.FCR, Muscle.FCU]] = 0.14, 0.1
    radial[:, REACH, [Muscle.ECR, Muscle.FCR, Muscle.APL]] = 0.25, 0.18, 0.18
    ulnar[:, REACH, [Muscle.ECU, Muscle.FCU]] = 0.22, 0.22
    plain[:, PRESS, [Muscle.ECR, Muscle.ECU, Muscle.FCU]] = 0.26, 0.22, 0.15
    radial[:, PRESS, [Muscle.ECR, Muscle.PRONATOR]] = 0.08, 0.1
    ulnar[:, PRESS, [Muscle.ECU, Muscle.FCU]] = 0.08, 0.12
    thumb = patterns[Finger.THUMB, PLAIN]
    thumb[LIFT, [Muscle.APL, Muscle.EPL]] = 0.2, 0.15
    thumb[PRESS, [Muscle.FPL, Muscle.PRONATOR, Muscle.FCR]] = 0.6, 0.24, 0.12
    thumb[RELEASE, [Muscle.EPL, Muscle.APL]] = 0.06, 0.04
    return patterns


# Excitation that holds the hands over the keys: little more than the thresholds of the smallest units.
POSTURE = np.full(NUM_MUSCLES, 0.025)
POSTURE[[Muscle.ECR, Muscle.ECU, Muscle.PRONATOR]] = 0.05, 0.045, 0.035
POSTURE[_ED] = 0.035

# Standard deviations of the logarithm of a muscle's excitation: between people in all of its bursts, between people for
# each finger and term, between the sessions of a person, within a session over minutes, and from press to press.
_OF_MUSCLES, _OF_MOVEMENTS, _OF_SESSIONS, _OF_MINUTES, _OF_PRESSES = 0.9, 0.75, 0.24, 0.3, 0.66
_LEAD = 0.012  # standard deviation between people of the time of the bursts, in s
_MINUTE = 20.0  # s between independent values of what changes over minutes
_QUICK = 0.25  # s since the hand's last press, below which bursts are weaker and preparation is shorter


@dataclass(frozen=True)
class MotorHabits:
    """How the muscles of one person's forearm move the fingers."""

    patterns: Float64  # (5 fingers, TERMS, PHASES, muscles): excitation for each term
    leads: Float64  # (PHASES,), added to the time of the bursts, in s

    @classmethod
    def of_user(cls, rng: Rng, spread: float) -> "MotorHabits":
        """Habits drawn from `rng`; `spread` 0 gives the textbook."""
        patterns = textbook_patterns()
        patterns *= np.exp(_OF_MOVEMENTS * spread * rng.standard_normal(patterns.shape))
        patterns *= np.exp(_OF_MUSCLES * spread * rng.standard_normal(NUM_MUSCLES))
        leads = _LEAD * spread * (0.5 * rng.standard_normal() + rng.standard_normal(len(PHASES)))
        return cls(patterns, leads * [1, 1, 0.3, 1])  # the press follows key-down in everyone

    def of_session(self, rng: Rng, strays: float) -> "MotorHabits":
        """The same person in another posture, which changes the excitation of the muscles a little."""
        changes = np.exp(_OF_SESSIONS * strays * rng.standard_normal((len(PHASES), NUM_MUSCLES)))
        return replace(self, patterns=self.patterns * changes)


class Drive:
    """The excitation of the muscles of one forearm in a session, block by block, from the key presses of the hand.

    Each burst is a Gaussian in time. `delay` (s) shifts all bursts against the key log; `variability` scales how much
    timing and strength vary from press to press and over minutes.
    """

    def __init__(
        self, presses: Sequence[Press], habits: MotorHabits, rng: Rng, *, delay: float = 0.0, variability: float = 1.0
    ) -> None:
        fingers = np.array([press.place.finger for press in presses], dtype=np.int64)
        starts, ends = np.array([(press.start, press.end) for press in presses]).reshape(-1, 2).T
        amounts, patterns = movements(presses), np.empty((len(presses), len(PHASES), NUM_MUSCLES))
        for finger, own in enumerate(habits.patterns):
            patterns[fingers == finger] = np.tensordot(amounts[fingers == finger], own, 1)
        # Muscles are redundant: the same movement is made by a different mixture of them each time.
        patterns *= np.exp(_OF_PRESSES * variability * rng.standard_normal(patterns.shape))
        patterns *= np.exp(0.18 * variability * rng.standard_normal((len(presses), 1, 1)))
        knots = np.arange(0, (starts[-1] if len(starts) else 0) + 2 * _MINUTE, _MINUTE)
        slow = _OF_MINUTES * variability * rng.standard_normal((NUM_MUSCLES, len(knots)))
        patterns *= np.exp(np.stack([np.interp(starts, knots, each) for each in slow], axis=1))[:, None]
        # In fast runs of one hand a press takes less effort, and its preparation falls into the press before.
        quick = np.minimum(np.diff(starts, prepend=-np.inf) / _QUICK, 1)
        patterns *= (0.5 + 0.5 * quick)[:, None, None]
        centres = np.stack([starts, starts, starts, ends], axis=1) + _CENTRES + habits.leads + delay
        centres[:, LIFT] -= 0.03 * quick * rng.exponential(1.0, len(starts))
        centres += 0.01 * variability * rng.standard_normal((len(starts), 1))
        centres += 0.01 * variability * rng.standard_normal(centres.shape)
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
