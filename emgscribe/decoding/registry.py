"""Decoders by name, as the command line, experiments and results know them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emgscribe.config import require, to_json
from emgscribe.data.session import Session
from emgscribe.decoding.beam import BeamConfig, BeamDecoder
from emgscribe.decoding.greedy import Decoder, GreedyDecoder
from emgscribe.decoding.language_model import LanguageModel, default_language_model
from emgscribe.decoding.tuning import load_tuned, load_tuned_language_model
from emgscribe.errors import EmgscribeError


@dataclass(frozen=True)
class Made:
    """A decoder, and what a result says about it."""

    decoder: Decoder
    settings: dict[str, Any] = field(default_factory=dict)


def make_decoder(
    name: str,
    *,
    folder: Path | str | None = None,
    lm: LanguageModel | Path | str | None = None,
    scored: Sequence[Session] = (),
    exclude: frozenset[str] = frozenset(),
) -> Made:
    """The decoder called `name` in `DECODERS`, for the model in `folder`.

    `lm` is a language model or its ARPA file, instead of the tuned or the default one. `scored` are the sessions that
    will be scored: a decoder that was tuned on one of them is refused. The default language model is made without the
    prompts in `exclude`.
    """
    require(name in DECODERS, "decoder", name, ", ".join(DECODERS))
    return DECODERS[name](folder, lm, scored, exclude)


def _greedy(*_: object) -> Made:
    return Made(GreedyDecoder())


def _beam(
    folder: Path | str | None,
    lm: LanguageModel | Path | str | None,
    scored: Sequence[Session],
    exclude: frozenset[str],
) -> Made:
    """Weights and language model as tuned for the model; else the default weights, with the default language model."""
    tuned = load_tuned(folder) if folder else None
    if tuned:
        tuned.refuse(scored)
    if lm:
        found = lm if isinstance(lm, LanguageModel) else LanguageModel.read(lm)
        if tuned and tuned.language_model != found.digest:
            raise EmgscribeError(
                f"the beam's weights in {folder} were tuned with another language model",
                where="" if isinstance(lm, LanguageModel) else str(lm),
                hint="tune them with this one (emgscribe lm tune MODEL SESSIONS --lm FILE), or leave --lm out",
            )
    elif folder and tuned:
        found = load_tuned_language_model(folder, tuned)
    else:
        found = default_language_model(exclude=exclude)
    config = tuned.config if tuned else BeamConfig()
    settings = {
        **to_json(config),
        "language_model": found.digest,
        "order": found.ngrams.order,
        "tuned_on": [seen.name for seen in tuned.sessions] if tuned else [],
    }
    return Made(BeamDecoder(config, found), settings)


DECODERS: Mapping[str, Callable[..., Made]] = {"greedy": _greedy, "beam": _beam}
"""The names of decoders, and what makes each."""
