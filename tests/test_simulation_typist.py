from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emgscribe.data.charset import BACKSPACE, ENTER, SHIFT, SYMBOLS, symbol_of_key
from emgscribe.simulation import SimulationConfig
from emgscribe.simulation.keyboard import SHIFTS, TEXTBOOK, neighbours, unshifted
from emgscribe.simulation.people import Person
from emgscribe.simulation.typist import MARGIN, Habits, Performance, Typist


def perform(seed: int = 0, seconds: float = 60.0, *, user: int = 0, **settings: float | str) -> Performance:
    config = SimulationConfig(**settings)
    habits = Habits.of_user(np.random.default_rng(user), config.users_differ)
    return Typist(habits, config, np.random.default_rng(seed)).perform(seconds)


def prompted(performance: Performance) -> str:
    return "".join(prompt.text or "" for prompt in performance.prompts)


def on_screen(performance: Performance) -> str:
    """The text that is left after every backspace."""
    screen: list[str] = []
    for press in performance.presses:
        if press.symbol == BACKSPACE:
            screen.pop()
        elif press.symbol != SHIFT:
            screen.append(press.symbol)
    return "".join(screen)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    seconds=st.floats(2, 40),
    difficulty=st.floats(0, 4),
    keys_per_second=st.floats(0.5, 12),
    typo_rate=st.floats(0, 0.3),
)
def test_presses_are_ordered_inside_the_recording_and_recoverable(seed: int, seconds: float, **settings: float) -> None:
    performance = perform(seed, seconds, user=seed, **settings)
    starts = np.array([press.start for press in performance.presses])
    assert np.all(np.diff(starts) > 0)
    assert all(MARGIN <= p.start < p.end < seconds for p in performance.presses)
    assert all(0 < p.start < p.end <= seconds for p in performance.prompts)
    symbols = [symbol_of_key(keystroke.key) for keystroke in performance.keystrokes(1e9)]
    assert symbols == [press.symbol for press in performance.presses]


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_no_finger_is_on_two_keys_at_once(seed: int) -> None:
    free_at: dict[tuple[int, int], float] = {}
    for press in perform(seed, 40, typo_rate=0.1, difficulty=2.0).presses:
        finger = press.place.hand, press.place.finger
        if press.symbol != SHIFT:
            assert free_at.get(finger, 0.0) <= press.start
            free_at[finger] = press.end


def test_the_prompts_are_typed_and_most_typos_are_corrected() -> None:
    exact, performance = perform(1, 120, typo_rate=0.0), perform(1, 300, typo_rate=0.08)
    assert prompted(exact).startswith(on_screen(exact))
    assert len(prompted(exact)) - len(on_screen(exact)) < 80
    assert sum(press.symbol == BACKSPACE for press in performance.presses) > 20
    assert not prompted(performance).startswith(on_screen(performance))
    assert abs(len(on_screen(performance)) - len(prompted(performance))) < 0.05 * len(prompted(performance))


def test_shift_is_held_by_the_other_hand() -> None:
    presses = perform(2, 200).presses
    shifted = [(b, a) for b, a in pairwise(presses) if unshifted(a.symbol)[1]]
    assert len(shifted) > 20
    for shift, key in shifted:
        assert shift.symbol == SHIFT
        assert shift.place.hand != key.place.hand
        assert shift.end > key.start


@pytest.mark.parametrize("rate", [2.0, 4.7, 7.0])
def test_a_session_has_the_rate_that_is_set(rate: float) -> None:
    counts = [len(perform(seed, 300, keys_per_second=rate, users_differ=0).presses) for seed in range(3)]
    assert np.mean(counts) / 300 == pytest.approx(rate, rel=0.08)


def test_alternating_hands_are_faster_than_one_finger() -> None:
    pairs = list(pairwise(perform(3, 600, users_differ=0).presses))
    other_hand = [(a, b) for a, b in pairs if a.place.hand != b.place.hand]
    finger = [(a, b) for a, b in pairs if (a.place.hand, a.place.finger) == (b.place.hand, b.place.finger)]
    fast, slow = ([b.start - a.start for a, b in some if a.place != b.place] for some in (other_hand, finger))
    assert np.median(fast) < 0.8 * np.median(slow)


def test_every_user_has_a_finger_map_and_every_character_a_place_with_neighbours() -> None:
    config = SimulationConfig()
    assert Person.of_user(5, config).habits == Person.of_user(5, config).habits
    assert len({tuple(Person.of_user(user, config).habits.places.items()) for user in range(6)}) > 1
    assert Person.of_user(5, SimulationConfig(users_differ=0)).habits.places == TEXTBOOK
    assert len({*TEXTBOOK.values(), *SHIFTS}) == len(TEXTBOOK) + 2
    assert {"f", "h", "t", "b"} <= set(neighbours("g"))
    assert not {"p", "q", "g"} & set(neighbours("g"))


@pytest.mark.parametrize("user", [1, 2, 3])
def test_every_symbol_of_the_charset_can_be_typed(user: int) -> None:
    text = "".join(SYMBOLS).replace(ENTER, "")
    performance = perform(user=user, seconds=120, text=text, typo_rate=0.0)
    expected = "".join((SHIFT if unshifted(symbol)[1] else "") + symbol for symbol in text + ENTER)
    assert "".join(press.symbol for press in performance.presses).startswith(expected)
    assert performance.prompts[0].text == text + ENTER
