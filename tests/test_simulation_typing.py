"""Prompts, the keyboard and the typist."""

import re
from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import typists
from hypothesis import given, settings
from hypothesis import strategies as st

from emgscribe.data.charset import BACKSPACE, ENTER, SHIFT, SYMBOLS, clean_text
from emgscribe.data.hdf5 import SessionHeader
from emgscribe.errors import EmgscribeError
from emgscribe.files import read_json
from emgscribe.simulation.config import SimulationConfig
from emgscribe.simulation.keyboard import TEXTBOOK, Finger, neighbours, unshifted
from emgscribe.simulation.published import Row, published, rows
from emgscribe.simulation.sessions import logged_keys
from emgscribe.simulation.text import PANGRAM, PromptWriter, prompts_of_text, vocabulary
from emgscribe.simulation.typing_measures import measure_typing
from emgscribe.simulation.typist import MARGIN, Habits, Typist, with_fingers

DOCS = Path(__file__).parents[1] / "docs"


def written(seed: int, count: int, prompts) -> list[str]:
    writer = PromptWriter(np.random.default_rng(seed), prompts)
    return [writer.next_prompt() for _ in range(count)]


@pytest.mark.parametrize("prompts", ["words", "mixed"])
def test_prompts_hold_only_symbols_are_as_long_as_real_ones_and_vary(prompts) -> None:
    made = written(3, 500, prompts)
    assert all(clean_text(p) == p == p.lstrip() and p.index(ENTER) == len(p) - 1 for p in made)
    assert 22 <= np.mean([len(prompt) for prompt in made]) <= 38
    first, second = (set(re.findall(r"[a-z]+", " ".join(written(seed, 150, prompts)))) for seed in (1, 2))
    assert len(second - first) > 0.3 * len(second)


def test_prompts_follow_the_style_that_is_set() -> None:
    words = written(3, 153, "words")
    assert [n for n, prompt in enumerate(words) if prompt == PANGRAM + ENTER] == [0, 76, 152]
    assert {len(prompt.split()) for prompt in words if PANGRAM not in prompt} == {4}
    assert all(re.fullmatch(r"[a-z ,.]+⏎", prompt) for prompt in words)
    short = [prompt for prompt in words if min(map(len, prompt.split())) < 4]  # words drawn at random have four letters
    assert 0.4 < len(short) / len(words) < 0.6
    made = written(3, 500, "mixed")
    for kind in (str.isupper, str.isdigit, ".,?!'\"-".__contains__):
        assert sum(map(kind, "".join(made))) > 50
    assert len(set(vocabulary())) == len(vocabulary()) >= 5000


def test_each_line_of_a_text_is_a_prompt_and_characters_without_a_key_are_named() -> None:
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
    keys_per_second=st.floats(0.5, 12),
    typo_rate=st.floats(0, 0.3),
    prompts=st.sampled_from(["words", "mixed"]),
)
def test_presses_are_in_order_inside_the_recording_and_no_finger_is_on_two_keys(seed, seconds, **settings) -> None:
    presses, prompts = perform(seed, seconds, user=seed, **settings)
    assert np.all(np.diff([press.start for press in presses]) > 0)
    assert all(MARGIN <= p.start < p.end < seconds for p in presses)
    assert all(0 < p.start < p.end <= seconds for p in prompts)
    by_finger = sorted((p.place.hand, p.place.finger, p.start, p.end) for p in presses)
    assert all(a[:2] != b[:2] or a[3] <= b[2] for a, b in pairwise(by_finger))


def test_keys_that_overlap_are_pressed_by_the_nearest_free_finger() -> None:
    textbook = Habits.of_user(np.random.default_rng(0), 0.0)
    d, c, other, again, space = with_fingers(
        [("d", 0.0, 0.3), ("c", 0.1, 0.3), ("x", 0.2, 0.4), ("x", 0.3, 0.5), (" ", 0.4, 0.5)], textbook
    )
    assert [p.place.finger for p in (d, c, other, again, space)] == [
        *(Finger.MIDDLE, Finger.INDEX, Finger.RING, Finger.RING, Finger.THUMB)
    ]
    assert c.place.reach == TEXTBOOK["c"].reach - 1
    assert (d.end, other.end) == (0.3, pytest.approx(0.25))  # the finger lifts before it presses its key again


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
    shifted = [(shift, key) for shift, key in pairwise(perform(2, 200, prompts="mixed")[0]) if unshifted(key.symbol)[1]]
    assert len(shifted) > 20
    for shift, key in shifted:
        assert (shift.symbol, shift.place.hand) == (SHIFT, 1 - key.place.hand)
        assert shift.end > key.start


@pytest.mark.parametrize("rate", [2.0, 4.4, 8.0])
def test_a_session_has_the_rate_that_is_set(rate: float) -> None:
    counts = [len(perform(seed, 300, keys_per_second=rate, users_differ=0)[0]) for seed in range(4)]
    assert np.mean(counts) / 300 == pytest.approx(rate, rel=0.08)


def test_typing_has_the_published_statistics() -> None:
    headers = []
    for user in range(24):
        presses, prompts = perform(user, 900, user=user)
        keys = logged_keys(presses, 0.0, 0.015 if user else 0.008)
        headers.append(SessionHeader("s", str(user), "on_keyboard", 15.0, keys, tuple(prompts)))
    found = rows("typing", measure_typing(headers))
    assert len(found) == len(published()["rows"]["typing"])
    # 24 people are too few for the shares of single users.
    assert [row for row in found if not row.near and "of a user" not in row.name] == []


def test_the_page_shows_what_was_measured_of_many_typists() -> None:
    found = read_json(DOCS / "simulation" / "typing.json")
    assert typists.table(found["rows"]) in (DOCS / "simulate.md").read_text(encoding="utf-8")
    measured = [Row(*(each[field.name] for field in fields(Row))) for each in found["rows"]]
    assert [row for row in measured if not row.near] == []
    limits = [[row.name, row.unit, row.published, row.allowed] for row in measured]
    assert limits == published()["rows"]["typing"]
    few = typists.measured(people=1, minutes=1.0, seed=2)
    assert {row["name"] for row in few["rows"]} <= {row.name for row in measured}


def test_times_in_the_key_log_are_rounded_down_to_a_tick_of_its_clock() -> None:
    presses, _ = perform(1, 60)
    for press, key in zip(presses, logged_keys(presses, 100.0, 0.015), strict=True):
        assert 0 <= press.start + 100 - key.start < 0.0151
        assert ((key.start - 100) / 0.015) % 1 == pytest.approx(0, abs=1e-6) or (
            (key.start - 100) / 0.015
        ) % 1 > 1 - 1e-6
        assert key.end - key.start > 0.0149


@pytest.mark.parametrize("user", [1, 2, 3])
def test_every_symbol_of_the_charset_can_be_typed(user: int) -> None:
    text = "".join(SYMBOLS).replace(ENTER, "")
    presses, prompts = perform(user=user, seconds=120, text=text, typo_rate=0.0)
    expected = "".join((SHIFT if unshifted(symbol)[1] else "") + symbol for symbol in text + ENTER)
    assert "".join(press.symbol for press in presses).startswith(expected)
    assert prompts[0].text == text + ENTER
