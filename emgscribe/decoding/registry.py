"""Decoders by name, as the command line, experiments and results know them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emgscribe.config import require, to_json
from emgscribe.data.hdf5 import prompts_of
from emgscribe.data.session import Session
from emgscribe.decoding.beam import BeamConfig, BeamDecoder
from emgscribe.decoding.decoder import Decoder
from emgscribe.decoding.greedy import GreedyDecoder
from emgscribe.decoding.language_model import LanguageModel, default_language_model
from emgscribe.decoding.tuning import load_tuned, load_tuned_language_model
from emgscribe.errors import EmgscribeError

DECODERS = {"greedy": "the best class of each frame", "beam": "prefix beam search with a language model"}


@dataclass(frozen=True)
class ConfiguredDecoder:
    """A decoder, and its settings as a result stores them."""

    decoder: Decoder
    settings: dict[str, Any] = field(default_factory=dict)


def make_decoder(
    name: str,
    *,
    folder: Path | str | None = None,
    lm: LanguageModel | Path | str | None = None,
    scored: Sequence[Session] = (),
) -> ConfiguredDecoder:
    """The decoder called `name` in `DECODERS`, for the model in `folder`.

    The beam has the weights and the language model that were tuned for the model, else the default weights. `lm` is a
    language model or its ARPA file, instead of the default one. `scored` are the sessions that will be scored: a beam
    that was tuned on one of them is refused, and the default language model is made without their files' prompts.
    """
    require(name in DECODERS, "decoder", name, ", ".join(DECODERS))
    if name == "greedy":
        return ConfiguredDecoder(GreedyDecoder())
    tuned = load_tuned(folder) if folder else None
    if tuned:
        tuned.refuse(scored)
    if lm:
        found = lm if isinstance(lm, LanguageModel) else LanguageModel.read(lm)
        if tuned and tuned.language_model != found.digest:
            what = f"the beam's weights in {folder} were tuned with another language model"
            hint = "tune them with this one (emgscribe lm tune MODEL SESSIONS --lm FILE), or leave --lm out"
            raise EmgscribeError(what, where="" if isinstance(lm, LanguageModel) else str(lm), hint=hint)
    elif folder and tuned:
        found = load_tuned_language_model(folder, tuned)
    else:
        found = default_language_model(exclude=prompts_of([session.path for session in scored if session.path]))
    config, tuned_on = (tuned.config, [seen.name for seen in tuned.sessions]) if tuned else (BeamConfig(), [])
    language_model = {"language_model": found.digest, "order": found.ngrams.order}
    return ConfiguredDecoder(BeamDecoder(config, found), {**to_json(config), **language_model, "tuned_on": tuned_on})
