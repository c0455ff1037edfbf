"""Several models as one: the mean of their log-probabilities, in a model that every other part takes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import CNN, FEATURES, GRU, HEAD, TDS, scrambled

import emgscribe as es
from emgscribe.cli import main
from emgscribe.data.session import Session, open_session
from emgscribe.errors import EmgscribeError
from emgscribe.models.ancestry import Ancestry, Seen
from emgscribe.models.encoders import EncoderConfig, EnsembleConfig
from emgscribe.models.ensemble import ensemble
from emgscribe.models.features import FeaturesConfig, SeveralConfig, StridedConvConfig
from emgscribe.models.model import Model, ModelConfig, load_model, save_model

RAW = StridedConvConfig(strides=(4, 4), filters=(3,), bins=5, electrodes=(0, 2, 5), bands=(1,))


def trained(encoder: EncoderConfig, features: FeaturesConfig = FEATURES, seed: int = 0) -> Model:
    torch.manual_seed(seed)
    model = Model(ModelConfig(features, encoder, HEAD))
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape)
    return model.eval()


def mean(models: list[Model], session: Session) -> np.ndarray:
    """What an ensemble computes, written down plainly."""
    together = np.prod([np.exp(model.log_probs(session).astype(np.float64)) for model in models], axis=0)
    together **= 1 / len(models)
    return np.log(together / together.sum(axis=1, keepdims=True))


@pytest.fixture
def session(make_session: Callable[..., Path]) -> Session:
    return open_session(make_session(samples=5013))


@pytest.mark.parametrize(
    ("encoders", "features"),
    [
        ((TDS, TDS, TDS), FEATURES),
        ((TDS, replace(TDS, lookahead=0), GRU), FEATURES),  # with less context, and with unbounded context
        ((replace(CNN, projection=0), replace(CNN, projection=0, lookahead=0)), RAW),
    ],
    ids=["seeds", "kinds", "learned features"],
)
def test_an_ensembles_emissions_are_the_mean_of_its_members(
    encoders: tuple[EncoderConfig, ...], features: FeaturesConfig, session: Session, tmp_path: Path
) -> None:
    members = [trained(encoder, features, seed) for seed, encoder in enumerate(encoders)]
    expected = mean(members, session)
    save_model(ensemble(members), tmp_path / "m")
    made = load_model(tmp_path / "m")
    np.testing.assert_allclose(made.log_probs(session), expected, rtol=1e-4, atol=1e-4)
    assert all(np.abs(expected - member.log_probs(session)).max() > 0.1 for member in members)
    assert made.config.encoder.shared == (features == FEATURES)
    assert made.attention is None


def test_an_ensemble_has_seen_what_any_of_its_members_has_seen(session: Session) -> None:
    one, other = trained(TDS), trained(TDS, seed=1)
    mine, both = Seen("a", "a", "anna"), Seen("b", "b", "bert")
    one.ancestry = Ancestry((mine, both), (both,))
    other.ancestry = Ancestry((both, Seen(session.content, session.name, "")), complete=False)
    made = ensemble([one, other])
    assert made.ancestry.trained_on == (mine, both, other.ancestry.trained_on[1])
    assert made.ancestry.validated_on == (both,)
    assert not made.ancestry.complete
    with pytest.raises(EmgscribeError, match="was trained on this session"):
        es.evaluate(made, [session])


def test_members_are_copied(session: Session) -> None:
    members = [trained(TDS, seed=seed) for seed in (0, 1)]
    made = ensemble(members)
    before = made.log_probs(session)
    scrambled(members[0])
    np.testing.assert_array_equal(made.log_probs(session), before)


def test_models_that_do_not_fit_together_are_refused() -> None:
    slow = replace(FEATURES, hop=8)
    narrow = Model(ModelConfig(FEATURES, TDS), es.Shape(electrodes=8))
    for models, message in (
        ([], "two models or more"),
        ([trained(TDS)], "two models or more"),
        ([trained(TDS), trained(TDS, slow)], "other features"),
        ([trained(TDS), narrow], "another shape"),
        ([trained(CNN), trained(replace(CNN, strides=(2, 3)))], "the same stride"),
    ):
        with pytest.raises(EmgscribeError, match=message):
            ensemble(models)
    with pytest.raises(EmgscribeError, match="one or more"):
        EnsembleConfig(())
    with pytest.raises(EmgscribeError, match="a divisor of 9"):
        EnsembleConfig((TDS, TDS), shared=False).build(2, 16, 9)
    for parts in ((), (StridedConvConfig(), RAW), (RAW, RAW)):
        with pytest.raises(EmgscribeError, match="all alike"):
            SeveralConfig(parts=parts)


def test_the_ensemble_command_makes_a_model(
    session: Session, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    members = [trained(TDS, seed=seed) for seed in (0, 1)]
    for place, member in enumerate(members):
        save_model(member, tmp_path / str(place))
    folders = [str(tmp_path / str(place)) for place in (0, 1)]
    assert main(["ensemble", *folders, "--out", str(tmp_path / "two")]) == 0
    assert capsys.readouterr().out.startswith("<Model ensemble of 2: tds, ")
    assert main(["evaluate", str(tmp_path / "two"), str(session.path)]) == 0
    assert main(["ensemble", folders[0], "--out", str(tmp_path / "one")]) == 2
    assert "two models or more" in capsys.readouterr().err
    assert not (tmp_path / "one").exists()
