import re
from dataclasses import fields

import numpy as np
import pytest
import tyro
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


def test_prompts_are_about_as_long_as_real_ones_with_capitals_digits_and_punctuation() -> None:
    made = prompts(3, 500)
    assert 22 <= np.mean([len(prompt) for prompt in made]) <= 38
    for kind in (str.isupper, str.isdigit, ".,?!'\"-".__contains__):
        assert sum(map(kind, "".join(made))) > 50


def test_vocabulary_is_too_large_to_memorise() -> None:
    assert len(set(vocabulary())) == len(vocabulary()) >= 5000
    first, second = (set(re.findall(r"[a-z]+", " ".join(prompts(seed, 150)))) for seed in (1, 2))
    assert len(second - first) > 0.3 * len(second)


@pytest.mark.parametrize(("field", "value"), [("difficulty", -0.1), ("noise", np.nan), ("units_per_muscle", 1)])
def test_config_names_the_field_and_its_range(field: str, value: float) -> None:
    with pytest.raises(EmgscribeError, match=rf"simulation.{field} is .*, allowed: .* to "):
        SimulationConfig(**{field: value})


def test_every_setting_has_words_of_its_own(capsys) -> None:
    with pytest.raises(SystemExit):
        tyro.cli(SimulationConfig, args=["--help"])
    options = re.split(" --(?=[a-z])", capsys.readouterr().out.replace("│", " "))[2:]  # after --help
    assert len(options) == len(fields(SimulationConfig))
    for option in options:
        assert re.match(r"[a-z-]+ [A-Z]+\s+\w[^(]{9}", option), option


@pytest.mark.parametrize(("text", "named"), [("ok\nta\tb", "line 2"), ("\n\n", "nothing to type"), ("日本", "line 1")])
def test_each_line_of_a_text_is_a_prompt_and_what_no_key_types_is_named(text: str, named: str) -> None:
    assert prompts_of_text("Hello, world\n\ncafé – “so”\n") == ("Hello, world⏎", 'cafe - "so"⏎')
    with pytest.raises(EmgscribeError, match=named):
        SimulationConfig(text=text)
