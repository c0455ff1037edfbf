import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emgscribe.data.charset import ENTER, clean_text
from emgscribe.errors import EmgscribeError
from emgscribe.simulation import SimulationConfig
from emgscribe.simulation.text import PromptWriter, prompts_of_text, vocabulary


def prompts(seed: int, count: int) -> list[str]:
    writer = PromptWriter(np.random.default_rng(seed))
    return [writer.next_prompt() for _ in range(count)]


@settings(deadline=None)
@given(st.integers(0, 2**32))
def test_a_prompt_is_symbols_and_ends_with_enter(seed: int) -> None:
    (prompt,) = prompts(seed, 1)
    assert clean_text(prompt) == prompt
    assert prompt.endswith(ENTER)
    assert prompt.count(ENTER) == 1
    assert not prompt.startswith(" ")


def test_prompts_are_about_as_long_as_real_ones() -> None:
    assert 22 <= np.mean([len(prompt) for prompt in prompts(0, 500)]) <= 38


def test_vocabulary_is_too_large_to_memorise() -> None:
    assert len(set(vocabulary())) == len(vocabulary()) >= 5000
    first, second = (set(re.findall(r"[a-z]+", " ".join(prompts(seed, 150)))) for seed in (1, 2))
    assert len(second - first) > 0.3 * len(second)


@pytest.mark.parametrize("kind", [str.isupper, str.isdigit, lambda character: character in ".,?!'\"-"])
def test_text_has_capitals_digits_and_punctuation(kind) -> None:
    assert sum(map(kind, "".join(prompts(3, 200)))) > 20


@pytest.mark.parametrize(
    ("field", "value"),
    [("difficulty", -0.1), ("noise", float("nan")), ("keys_per_second", 100.0), ("units_per_muscle", 1)],
)
def test_config_names_the_field_and_its_range(field: str, value: float) -> None:
    with pytest.raises(EmgscribeError, match=rf"simulation.{field} is .*, allowed: .* to "):
        SimulationConfig(**{field: value})


def test_a_text_of_ones_own_is_one_prompt_a_line() -> None:
    assert prompts_of_text("Hello, world\n\ncafé – “so”\n") == ("Hello, world⏎", 'cafe - "so"⏎')


@pytest.mark.parametrize(("text", "told"), [("fine\nta\tb", "line 2"), ("\n\n", "nothing to type"), ("日本", "line 1")])
def test_what_no_key_types_is_named(text: str, told: str) -> None:
    with pytest.raises(EmgscribeError, match=told):
        SimulationConfig(text=text)
