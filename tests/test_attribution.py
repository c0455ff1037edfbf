"""Which electrodes a key is read from: against finite differences, and what is refused."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from networks import FEATURES, GRU, TDS

from emgscribe.attribution import _gradients, saliency
from emgscribe.data.charset import SYMBOLS
from emgscribe.data.session import Session
from emgscribe.data.shape import Shape
from emgscribe.data.windows import Store, Windows
from emgscribe.errors import EmgscribeError
from emgscribe.models.encoders import EncoderConfig
from emgscribe.models.features import FeaturesConfig, StridedConvConfig
from emgscribe.models.model import Model, ModelConfig

MakeStored = Callable[..., Session]
A, B = map(SYMBOLS.index, "ab")
SLOW = replace(FEATURES, n_fft=64, hop=64)


def network(encoder: EncoderConfig = TDS, features: FeaturesConfig = SLOW) -> Model:
    """A tiny network with random weights that outputs an a in every frame."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        made = Model(ModelConfig(features, encoder)).eval()
    made.head.bias.data[A] = 20
    return made


@pytest.mark.parametrize("features", [SLOW, replace(SLOW, decimation=2, n_fft=32, hop=32), StridedConvConfig()])
@pytest.mark.parametrize("encoder", [TDS, GRU])
def test_gradients_match_finite_differences_of_the_gain(
    make_stored: MakeStored, features: FeaturesConfig, encoder: EncoderConfig
) -> None:
    model = network(encoder, features).double()
    session = make_stored(samples=6000, seed=3)
    windows = Windows(Store([session]), 1600, 1, *model.context)
    batch = windows.batch([(0, 2000)])
    batch = replace(batch, emg=batch.emg.double())
    (products,) = _gradients(model, batch, A)
    assert products.shape == (1600, *session.shape.sample)

    def odds(gain: float) -> float:
        emg = batch.emg.clone()
        emg[:, batch.left + first : batch.left + first + 100, 0, electrode] *= gain
        with torch.no_grad():
            frames = model.encode(model.featurize(replace(batch, emg=emg)), batch.lengths)
            scores = model.head(frames)[0]
        seconds = torch.arange(len(scores)) * model.samples_per_frame / 2000 - 0.5
        others = torch.cat([scores[:, :A], scores[:, A + 1 :]], dim=1).logsumexp(dim=1)
        return float((scores[:, A] - others)[seconds >= -0.1].max())

    parts = products[:, 0].reshape(16, 100, -1).sum(axis=1)  # of 50 ms, by electrode
    for place in np.argsort(-np.abs(parts).ravel())[:3]:
        part, electrode = np.unravel_index(place, parts.shape)
        first, step = 100 * int(part), 1e-5
        rise = (odds(1 + step) - odds(1 - step)) / (2 * step)
        assert parts[part, electrode] == pytest.approx(rise, rel=1e-4)


def test_saliency_is_a_mean_over_presses_and_leaves_the_model_as_it_was(make_stored: MakeStored) -> None:
    session = make_stored(12_000, [(A, 1500), (B, 3000), (A, 4500), (B, 6000), (A, 11_900)], seed=4)
    model = network(features=replace(SLOW, electrodes=(0, 5))).train()
    found = saliency(model, [session], "a")
    assert (found.symbol, found.presses, found.simulated) == ("a", 3, session.simulated)
    under_keys = replace(session, simulated=True, real_keys=True)
    assert saliency(model, [under_keys], "a").plot().get_suptitle().endswith("3 presses, simulated EMG, real keys")
    assert found.values.shape == (40, 2, 16)
    assert found.times[[0, 25, -1]] == pytest.approx([-0.49, 0.01, 0.29])
    heard = np.abs(found.values).sum(axis=(0, 1)) > 0
    assert np.flatnonzero(heard).tolist() == [0, 5]
    assert model.training
    assert all(weight.grad is None for weight in model.parameters())
    one = [saliency(model, [session.part(at - 1400, at + 1600)], "a").values for at in (1500, 4500)]
    both = saliency(model, [session.part(100, 6100)], "a", presses=2)
    assert both.presses == 2
    assert np.mean(one, axis=0) == pytest.approx(both.values, abs=1e-4)


def test_saliency_refuses_keys_that_were_not_pressed_or_not_decoded(make_stored: MakeStored) -> None:
    session = make_stored(8000, [(A, 3000), (B, 5000)])
    with pytest.raises(EmgscribeError, match="1 or more"):
        saliency(network(), [session], "a", presses=0)
    with pytest.raises(EmgscribeError, match="'ab' is not a symbol"):
        saliency(network(), [session], "ab")
    with pytest.raises(EmgscribeError, match="'q' was never pressed"):
        saliency(network(), [session], "q")
    with pytest.raises(EmgscribeError, match="none of 1 presses of 'b' is read"):
        saliency(network(), [session], "b")
    with pytest.raises(EmgscribeError, match="but the model reads"):
        saliency(Model(network().config, Shape(electrodes=8)), [session], "a")


def test_saliency_is_drawn_with_a_panel_for_each_band(make_stored: MakeStored) -> None:
    figure = saliency(network(), [make_stored(8000, [(A, 3000)])], "a").plot()
    titles = [axes.get_title() for axes in figure.axes[:2]]
    assert titles == ["left band", "right band"]
    assert "Saliency of a: mean of 1 presses" in figure.get_suptitle()
    assert figure._repr_png_().startswith(b"\x89PNG")
