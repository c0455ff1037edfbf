"""Prompts, the keyboard and the typist."""

import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emgscribe.data.charset import BACKSPACE, ENTER, SHIFT, SYMBOLS, clean_text
from emgscribe.errors import EmgscribeError
from emgscribe.simulation import SimulationConfig
from emgscribe.simulation.keyboard import neighbours, unshifted
from emgscribe.simulation.text import PromptWriter, prompts_of_text, vocabulary
from emgscribe.simulation.typist import MARGIN, Habits, Typist


def written(seed: int, count: int) -> list[str]:
    writer = PromptWriter(np.random.default_rng(seed))
    return [writer.next_prompt() for _ in range(count)]


def test_prompts_are_symbols_about_as_long_as_real_ones_and_too_many_to_memorise() -> None:
    made = written(3, 500)
    assert all(clean_text(p) == p == p.lstrip() and p.index(ENTER) == len(p) - 1 for p in made)
    assert 22 <= np.mean([len(prompt) for prompt in made]) <= 38
    for kind in (str.isupper, str.isdigit, ".,?!'\"-".__contains__):
        assert sum(map(kind, "".join(made))) > 50
    assert len(set(vocabulary())) == len(vocabulary()) >= 5000
    first, second = (set(re.findall(r"[a-z]+", " ".join(written(seed, 150)))) for seed in (1, 2))
    assert len(second - first) > 0.3 * len(second)


def test_each_line_of_a_text_is_a_prompt_and_what_no_key_types_is_named() -> None:
    assert prompts_of_text("Hello, world\n\ncafé – “so”\n") == ("Hello, world⏎", 'cafe - "so"⏎')
    for text, named in (("ok\nta\tb", "line 2"), ("\n\n", "nothing to type"), ("\x0c", "nothing"), ("日本", "line 1")):
        with pytest.raises(EmgscribeError, match=named):
            SimulationConfig(text=text)
    with pytest.raises(EmgscribeError, match=r"simulation.units_per_muscle is 1, allowed: .*4 to 200"):
        SimulationConfig(units_per_muscle=1)


def perform(seed=0, seconds=60.0, *, user=0, **settings) -> tuple[list, list]:
    config = SimulationConfig(**settings)
    habits = Habits.of_user(np.random.default_rng(user), config.users_differ)
    return Typist(habits, config, np.random.default_rng(seed)).perform(seconds)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**32),
    seconds=st.floats(2, 40),
    difficulty=st.floats(0, 4),
    keys_per_second=st.floats(0.5, 12),
    typo_rate=st.floats(0, 0.3),
)
def test_presses_are_in_order_inside_the_recording(seed, seconds, **settings) -> None:
    presses, prompts = perform(seed, seconds, user=seed, **settings)
    assert np.all(np.diff([press.start for press in presses]) > 0)
    assert all(MARGIN <= p.start < p.end < seconds for p in presses)
    assert all(0 < p.start < p.end <= seconds for p in prompts)


@given(st.integers(0, 2**32))
@settings(max_examples=15)
def test_no_finger_is_on_two_keys_at_once(seed: int) -> None:
    presses, _ = perform(seed, 40, typo_rate=0.1, difficulty=2.0)
    by_finger = sorted((p.place.hand, p.place.finger, p.start, p.end) for p in presses if p.symbol != SHIFT)
    assert all(a[:2] != b[:2] or a[3] <= b[2] for a, b in pairwise(by_finger))


@pytest.mark.parametrize(("typo_rate", "backspaces"), [(0.0, 0), (0.08, 20)])
def test_the_prompts_are_typed_and_most_typos_are_corrected(typo_rate: float, backspaces: int) -> None:
    assert {"f", "h", "t", "b"} <= set(neighbours("g"))
    assert not {"p", "q", "g"} & set(neighbours("g"))
    presses, prompts = perform(1, 300, typo_rate=typo_rate)
    asked, screen = "".join(prompt.text or "" for prompt in prompts), ""
    for press in presses:
        screen = screen[:-1] if press.symbol == BACKSPACE else screen + press.symbol.replace(SHIFT, "")
    assert (sum(press.symbol == BACKSPACE for press in presses) > backspaces) == (typo_rate > 0)
    assert asked.startswith(screen) == (typo_rate == 0)
    assert abs(len(asked) - len(screen)) < min(80, 0.05 * len(asked))


def test_shift_is_held_by_the_other_hand() -> None:
    shifted = [(shift, key) for shift, key in pairwise(perform(2, 200)[0]) if unshifted(key.symbol)[1]]
    assert len(shifted) > 20
    for shift, key in shifted:
        assert (shift.symbol, shift.place.hand) == (SHIFT, 1 - key.place.hand)
        assert shift.end > key.start


@pytest.mark.parametrize("rate", [2.0, 4.7, 7.0])
def test_a_session_has_the_rate_that_is_set(rate: float) -> None:
    counts = [len(perform(seed, 300, keys_per_second=rate, users_differ=0)[0]) for seed in range(3)]
    assert np.mean(counts) / 300 == pytest.approx(rate, rel=0.08)


def test_alternating_hands_are_faster_than_one_finger() -> None:
    pairs = [(a, b) for a, b in pairwise(perform(3, 600, users_differ=0)[0]) if a.place != b.place]
    fast = [b.start - a.start for a, b in pairs if a.place.hand != b.place.hand]
    same = [(a, b) for a, b in pairs if (a.place.hand, a.place.finger) == (b.place.hand, b.place.finger)]
    assert np.median(fast) < 0.8 * np.median([b.start - a.start for a, b in same])


@pytest.mark.parametrize("user", [1, 2, 3])
def test_every_symbol_of_the_charset_can_be_typed(user: int) -> None:
    text = "".join(SYMBOLS).replace(ENTER, "")
    presses, prompts = perform(user=user, seconds=120, text=text, typo_rate=0.0)
    expected = "".join((SHIFT if unshifted(symbol)[1] else "") + symbol for symbol in text + ENTER)
    assert "".join(press.symbol for press in presses).startswith(expected)
    assert prompts[0].text == text + ENTER
