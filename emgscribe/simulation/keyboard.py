"""A US QWERTY keyboard, and the finger that presses each key in touch typing."""

from dataclasses import dataclass
from enum import IntEnum
from functools import cache

from emgscribe.data.charset import BACKSPACE, ENTER, SHIFT, SPACE

LEFT, RIGHT = 0, 1
ROLL = "same hand, other finger"


class Finger(IntEnum):
    """The five fingers in anatomical order."""

    THUMB, INDEX, MIDDLE, RING, LITTLE = 0, 1, 2, 3, 4


@dataclass(frozen=True)
class Place:
    """Where a key is, seen from the finger that presses it."""

    hand: int
    finger: Finger
    row: int  # from the home row upwards: -1 the bottom letters, 2 the digits
    reach: float  # key widths from the finger's home column, positive towards the thumb
    x: float  # the key's column on the board, in key widths


_ROWS = {2: "`1234567890-=", 1: " qwertyuiop[]\\", 0: " asdfghjkl;'", -1: " zxcvbnm,./"}
_STAGGER = {2: 0.0, 1: 0.5, 0: 0.75, -1: 1.25}
# By column, of which the left hand has the first six: finger and reach.
_FINGERS = (4, 4, 3, 2, 1, 1, 1, 1, 2, 3, 4, 4, 4, 4)
_REACHES = (-1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, -1.0, -2.0, -3.0)

TEXTBOOK = {
    key: Place(RIGHT if x >= 6 else LEFT, Finger(_FINGERS[x]), row, _REACHES[x], x + _STAGGER[row])
    for row, keys in _ROWS.items()
    for x, key in enumerate(keys)
    if key != " "
} | {
    ENTER: Place(RIGHT, Finger.LITTLE, 0, -2.0, 12.75),
    BACKSPACE: Place(RIGHT, Finger.LITTLE, 2, -3.0, 13.0),
    SPACE: Place(RIGHT, Finger.THUMB, -2, 0.0, 6.5),
}
SHIFTS = (Place(LEFT, Finger.LITTLE, -1, -1.0, 0.5), Place(RIGHT, Finger.LITTLE, -1, -1.0, 12.0))

# What self-taught typists do instead (Feit, Weir and Oulasvirta 2016, "How we type": most typists deviate like this).
ALTERNATIVES = {
    "b": Place(RIGHT, Finger.INDEX, -1, 2.0, TEXTBOOK["b"].x),
    "y": Place(LEFT, Finger.INDEX, 1, 2.0, TEXTBOOK["y"].x),
    "6": Place(LEFT, Finger.INDEX, 2, 2.0, TEXTBOOK["6"].x),
    "c": Place(LEFT, Finger.INDEX, -1, -1.0, TEXTBOOK["c"].x),
    "x": Place(LEFT, Finger.MIDDLE, -1, -1.0, TEXTBOOK["x"].x),
    "z": Place(LEFT, Finger.RING, -1, -1.0, TEXTBOOK["z"].x),
    "p": Place(RIGHT, Finger.RING, 1, -1.0, TEXTBOOK["p"].x),
    "q": Place(LEFT, Finger.RING, 1, -1.0, TEXTBOOK["q"].x),
    BACKSPACE: Place(RIGHT, Finger.RING, 2, -3.0, 13.0),
    SPACE: Place(LEFT, Finger.THUMB, -2, 0.0, 6.5),
}

_UNSHIFTED = dict(zip('~!@#$%^&*()_+{}|:"<>?', "`1234567890-=[]\\;',./", strict=True))


def unshifted(symbol: str) -> tuple[str, bool]:
    """The key that types `symbol` and whether shift is held for it."""
    return _UNSHIFTED.get(symbol, symbol.lower()), symbol in _UNSHIFTED or symbol.isupper()


@cache
def neighbours(key: str) -> list[str]:
    """The character keys around `key`, in its own row and the rows beside it, nearest columns first.

    Hands on the letters do not stray to the digits.
    """
    here = TEXTBOOK[key]
    rows = {row for row in range(here.row - 1, here.row + 2) if row < 2 or here.row == 2}
    apart = {other: abs(place.x - here.x) for other, place in TEXTBOOK.items() if place.row in rows}
    near = [(apart[other], other) for other in apart.keys() - {key, ENTER, BACKSPACE, SPACE} if apart[other] <= 1.1]
    return [other for _, other in sorted(near)]


@cache
def interval_kind(before: str, after: str) -> str:
    """The name in `published()["intervals"]` of the time from the press of one symbol to that of the next."""
    if ENTER in (before, after):
        return "after enter" if before == ENTER else "before enter"
    if BACKSPACE in (before, after):
        one = "before backspace" if after == BACKSPACE else "after backspace"
        return "between backspaces" if before == after else one
    if before == after:
        return "same key"
    return f"{_finger_name(before)} > {_finger_name(after)}"


def pair_class(kind: str) -> str:
    """The hands and fingers of an `interval_kind`; the kind itself where it is not two fingers, or has a thumb."""
    first, _, second = kind.partition(" > ")
    if not second or "thumb" in (first, second):
        return kind
    if first == second:
        return "same finger"
    return ROLL if first.split()[0] == second.split()[0] else "other hand next"


def _finger_name(symbol: str) -> str:
    place = SHIFTS[LEFT] if symbol == SHIFT else TEXTBOOK[unshifted(symbol)[0]]
    return f"{'right' if place.hand else 'left'} {place.finger.name.lower()}" if place.finger else "thumb"
