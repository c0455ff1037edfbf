"""One model made of several trained ones."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from emgscribe.errors import EmgscribeError
from emgscribe.models.encoders import EnsembleConfig
from emgscribe.models.features import SeveralConfig
from emgscribe.models.model import Model, ModelConfig


def ensemble(models: Sequence[Model]) -> Model:
    """A model whose emissions are the mean of the log-probabilities of `models`, normalised again.

    It is a model like any other: it can be saved, scored, streamed where its members can, and exported. Its members are
    copied. They need the same features (a learned front end has weights of its own in each) and frame rate, and
    recordings of the same shape; second heads are left out. Its ancestry is that of all. Raises `EmgscribeError` where
    they do not fit together.
    """
    if len(models) < 2:
        raise EmgscribeError("an ensemble has two models or more", hint="name several, such as runs/NAME-*/best")
    first = models[0]
    for model in models[1:]:
        if (model.config.features, model.shape) != (first.config.features, first.shape):
            what, hint = "it reads other features than the first model, or recordings of another shape", "leave it out"
            raise EmgscribeError(what, where=str(model.folder or repr(model)), hint=hint)
    features, encoders = first.config.features, tuple(model.config.encoder for model in models)
    learned = bool(list(first.features.parameters()))
    if learned:
        part = replace(features, electrodes=(), bands=())
        features = SeveralConfig(parts=(part,) * len(models), electrodes=features.electrodes, bands=features.bands)
    made = Model(ModelConfig(features, EnsembleConfig(encoders, shared=not learned)), first.shape).to(first.device)
    weights = {"head.weight": torch.eye(*made.head.weight.shape), "head.bias": torch.zeros_like(made.head.bias)}
    places = {"features": "features.parts.{}", "encoder": "encoder.members.{}", "head": "encoder.heads.{}"}
    for place, model in enumerate(models):
        for name, value in model.state_dict().items():
            part_of, _, rest = name.partition(".")
            if part_of in places:  # the attention is left out
                weights[f"{places[part_of].format(place)}.{rest}"] = value
    made.load_state_dict(weights)
    for model in models:
        made.ancestry = made.ancestry.joined(model.ancestry)
    return made.eval()
