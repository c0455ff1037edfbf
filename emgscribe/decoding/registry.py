"""Decoders by name, as the command line, experiments and results know them."""

from collections.abc import Sequence
from pathlib import Path

from emgscribe.config import require
from emgscribe.data.hdf5 import prompts_of
from emgscribe.data.session import Session
from emgscribe.decoding.beam import BeamDecoder
from emgscribe.decoding.decoder import Decoder
from emgscribe.decoding.greedy import GreedyDecoder
from emgscribe.decoding.language_model import LanguageModel, default_language_model
from emgscribe.decoding.tuning import load_tuned, load_tuned_language_model
from emgscribe.errors import EmgscribeError

DECODERS = {"greedy": "the best class of each frame", "beam": "prefix beam search with a language model"}


def make_decoder(
    name: str,
    *,
    folder: Path | str | None = None,
    lm: LanguageModel | Path | str | None = None,
    scored: Sequence[Session] = (),
) -> Decoder:
    """The decoder called `name` in `DECODERS`, for the model in `folder`.

    The beam has the weights and the language model that were tuned for the model, else the default weights. `lm` is a
    language model or its ARPA file, instead of the default one. `scored` are the sessions that will be scored: a beam
    that was tuned on one of them is refused, and the default language model is made without their files' prompts.
    """
    require(name in DECODERS, "decoder", name, ", ".join(DECODERS))
    if name == "greedy":
        return GreedyDecoder()
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
    if tuned is None:
        return BeamDecoder(lm=found)
    return BeamDecoder(tuned.config, found, tuned_on=[seen.name for seen in tuned.sessions])
