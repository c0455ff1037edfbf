"""Decoders by name, as the command line, experiments and results know them.

A new one is a function here and a name in `DECODERS`. What is not made of emissions alone finds the model itself in
`Inputs`, and is to be asked for its text in `evaluate.read`, the one place where a session becomes a hypothesis.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emgscribe.config import to_json
from emgscribe.data.session import Session
from emgscribe.decoding.beam import BeamConfig, BeamDecoder
from emgscribe.decoding.greedy import Decoder, GreedyDecoder
from emgscribe.decoding.language_model import LanguageModel, default_language_model
from emgscribe.decoding.tuning import load_tuned, load_tuned_language_model
from emgscribe.errors import EmgscribeError
from emgscribe.models.model import Model


@dataclass(frozen=True)
class Inputs:
    """What a decoder may be made of: a model and its folder, and an ARPA file instead of the language model's default.

    `scored` are sessions that are not only to be read: what was tuned on one of them is refused. The default language
    model is made without the prompts in `exclude`.
    """

    model: Model
    folder: Path
    language_model: Path | None = None
    scored: Sequence[Session] = ()
    exclude: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Made:
    """A decoder, and what a result says of it."""

    decoder: Decoder
    settings: dict[str, Any] = field(default_factory=dict)


def _greedy(_: Inputs) -> Made:
    return Made(GreedyDecoder())


def _beam(inputs: Inputs) -> Made:
    """Weights and language model as tuned for the model; else the default weights, with the default language model."""
    tuned = load_tuned(inputs.folder)
    if tuned:
        tuned.refuse(inputs.scored)
    if inputs.language_model:
        language_model = LanguageModel.read(inputs.language_model)
        if tuned and tuned.language_model != language_model.digest:
            raise EmgscribeError(
                f"the beam's weights in {inputs.folder} were tuned with another language model",
                where=str(inputs.language_model),
                hint="tune them with this one (emgscribe lm tune MODEL SESSIONS --lm FILE), or leave --lm out",
            )
    elif tuned:
        language_model = load_tuned_language_model(inputs.folder, tuned)
    else:
        language_model = default_language_model(exclude=inputs.exclude)
    config = tuned.config if tuned else BeamConfig()
    settings = {
        **to_json(config),
        "language_model": language_model.digest,
        "order": language_model.ngrams.order,
        "tuned_on": [seen.name for seen in tuned.sessions] if tuned else [],
    }
    return Made(BeamDecoder(config, language_model.automaton()), settings)


DECODERS: Mapping[str, Callable[[Inputs], Made]] = {"greedy": _greedy, "beam": _beam}
