"""The contract of encoders, which every architecture and its variants must meet, at a size that tests can afford."""

import dataclasses
from dataclasses import replace
from pathlib import Path
from typing import get_type_hints

import pytest
import torch
from networks import (
    CNN,
    FEATURES,
    GRU,
    HEAD,
    LOOKAHEADS,
    SMALL,
    TDS,
    TRANSFORMER,
    batch_for,
    build,
    memorize,
    noise,
    scrambled,
)
from torch import Tensor, nn

from emgscribe.decoding.decoder import decode_batch
from emgscribe.decoding.greedy import GreedyDecoder
from emgscribe.errors import EmgscribeError
from emgscribe.models import encoders
from emgscribe.models.attention import AttentionConfig
from emgscribe.models.encoders import Encoder, EncoderConfig
from emgscribe.models.encoders.gru import Gru
from emgscribe.models.encoders.lookaheads import LookaheadsEncoder
from emgscribe.models.model import Model, ModelConfig, load_model, save_model

BUILT = {kind: build(config) for kind, config in SMALL.items()}
BOUNDED = [kind for kind, encoder in BUILT.items() if not (encoder.unbounded_left or encoder.unbounded_right)]


def features_for(encoder: Encoder, items: int, frames: int) -> Tensor:
    """Features from which `encoder` makes `frames` frames."""
    span = encoder.left_context + frames * encoder.stride + encoder.right_context
    return noise(items, span, 2, 16, 9)


def encoded(encoder: Encoder, features: Tensor, frames: list[int] | int) -> Tensor:
    """The encoder's output on `features`, whose items have `frames` frames each (a list, or the same for all)."""
    counts = torch.tensor(frames if isinstance(frames, list) else [frames] * len(features))
    with torch.no_grad():
        return encoder(features, counts * encoder.stride)


def test_every_registered_encoder_is_held_to_the_contract() -> None:
    assert {type(config) for config in SMALL.values()} == set(EncoderConfig.kinds.values())


@pytest.mark.parametrize("kind", SMALL)
def test_one_frame_for_every_stride_of_labelled_features(kind: str) -> None:
    encoder = scrambled(build(SMALL[kind]))
    for items, frames in ((1, 1), (3, 2), (1, 7), (2, 40)):
        hidden = encoded(encoder, features_for(encoder, items, frames), frames)
        assert hidden.shape == (items, frames, encoder.width)
        assert hidden.isfinite().all()


@pytest.mark.parametrize("kind", SMALL)
def test_neither_padding_nor_other_items_change_a_result(kind: str) -> None:
    encoder = scrambled(build(SMALL[kind]))
    counts = [9, 4, 1]
    features = features_for(encoder, 3, 9)
    found = encoded(encoder, features, counts)
    assert found.isfinite().all()
    for item, count in enumerate(counts):
        end = encoder.left_context + count * encoder.stride + encoder.right_context
        features[item, end:] = 50 * noise(*features[item, end:].shape, seed=1)
    again = encoded(encoder, features, counts)
    for item, count in enumerate(counts):
        end = encoder.left_context + count * encoder.stride + encoder.right_context
        alone = encoded(encoder, features[item : item + 1, :end], count)
        torch.testing.assert_close(again[item, :count], found[item, :count], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found[item, :count], alone[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", BOUNDED)
def test_pieces_with_their_context_give_the_frames_of_the_whole(kind: str) -> None:
    encoder = scrambled(build(SMALL[kind]))
    features = features_for(encoder, 2, 12)
    whole = encoded(encoder, features, 12)
    context = encoder.left_context + encoder.right_context
    starts = [piece * 4 * encoder.stride for piece in range(3)]
    pieces = [encoded(encoder, features[:, start : start + context + 4 * encoder.stride], 4) for start in starts]
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, rtol=1e-4, atol=1e-4)


def seen_by(encoder: Encoder, frames: int, frame: int) -> list[int]:
    """The feature frames on which one frame depends: those where its gradient is not zero."""
    features = features_for(encoder, 1, frames).requires_grad_()
    hidden = encoder(features, torch.tensor([frames * encoder.stride]))[0, frame]
    (hidden * noise(len(hidden), seed=1)).sum().backward()
    assert features.grad is not None
    reach = features.grad.abs().sum(dim=(0, 2, 3, 4))
    # Differences of running sums leave a rounding of double precision.
    return [place for place, value in enumerate((reach > 1e-12 * reach.max()).tolist()) if value]


@pytest.mark.parametrize("kind", SMALL)
def test_a_frame_sees_exactly_as_far_as_declared(kind: str) -> None:
    encoder = scrambled(build(SMALL[kind]))
    seen = seen_by(encoder, 12, 5)
    own = encoder.left_context + 5 * encoder.stride
    assert set(range(own, own + encoder.stride)) <= set(seen)
    if not encoder.unbounded_left:
        # Shorter lookaheads need what comes before, in training.
        unread = encoder.right * encoder.base.stride if isinstance(encoder, LookaheadsEncoder) else 0
        assert seen[0] == own - encoder.left_context + unread
    if not encoder.unbounded_right:
        assert seen[-1] == own + encoder.stride - 1 + encoder.right_context
    assert encoder.causal == (seen[-1] == own + encoder.stride - 1)
    assert (", causal" in kind) <= encoder.causal


@pytest.mark.parametrize("kind", SMALL)
def test_gradients_reach_every_parameter(kind: str) -> None:
    torch.manual_seed(3)
    encoder = build(SMALL[kind])
    hidden = encoder(features_for(encoder, 4, 8), torch.tensor([6, 6, 8, 6]) * encoder.stride)
    (hidden * noise(*hidden.shape, seed=1))[:, :6].sum().backward()
    assert [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


@pytest.mark.parametrize("kind", SMALL)
def test_bfloat16_frames_stay_close_to_float32(kind: str) -> None:
    torch.manual_seed(3)
    encoder = build(SMALL[kind]).eval()
    features = features_for(encoder, 2, 9)
    exact = encoded(encoder, features, [9, 5])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        close = encoded(encoder, features, [9, 5]).float()
    difference = torch.cat([(close - exact)[0], (close - exact)[1, :5]])
    assert difference.abs().max() < 0.1 * exact.std() + 0.02


@pytest.mark.parametrize("kind", SMALL)
def test_a_model_covers_the_labelled_samples_and_loads_as_it_was_saved(kind: str, tmp_path: Path) -> None:
    model = Model(ModelConfig(FEATURES, SMALL[kind], HEAD))
    batch = batch_for(model, [6, 4])
    model(batch)  # moves the running statistics of the norm
    save_model(model, tmp_path / "model")
    again = load_model(tmp_path / "model")
    assert again.config == model.config
    assert not again.training
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    with torch.inference_mode():
        emissions, frames = model.eval()(batch)
        assert emissions.shape == (2, 6, 99)
        assert frames.tolist() == [6, 4]
        assert torch.equal(again(batch)[0], emissions)
        fewer = replace(batch, emg=batch.emg[:, : -model.samples_per_frame - 3], lengths=batch.lengths.clamp(max=70))
        assert model(fewer)[0].shape == (2, -(-fewer.labelled // model.samples_per_frame), 99)


LEARNERS: dict[str, EncoderConfig] = {
    **{kind: SMALL[kind] for kind in (*EncoderConfig.kinds, "tds, sliding squeeze")},
    # A dozen units that end in a tanh are too few for 99 classes.
    "recurrent": replace(GRU, hidden=64, dropout=0.0),
    "lookaheads": replace(LOOKAHEADS, known=(3,), output=48),  # of several, each learns from its own windows alone
    "recurrent, on a strided cnn": replace(
        GRU, base=replace(CNN, widths=(48, 48), strides=(2, 3)), hidden=64, layers=1
    ),
    "hybrid of cnn, transformer and lstm": encoders.RecurrentConfig(base=TRANSFORMER, cell="lstm", hidden=64, layers=1),
}


@pytest.mark.parametrize("kind", LEARNERS)
def test_a_model_memorizes_two_windows(kind: str) -> None:
    torch.manual_seed(0)
    model = Model(ModelConfig(features=FEATURES, encoder=LEARNERS[kind]))

    def read(frames: Tensor, counts: Tensor) -> list[list[int]]:
        return [list(found.labels) for found in decode_batch(GreedyDecoder(), model.classify(frames), counts)]

    memorize(model, batch_for(model, [24, 24]), read)


# Sizes that a small network keeps: numbers of layers and of what divides a width, and steps in time.
KEPT = {"blocks", "channels", "layers", "heads", "strides", "known", "lookahead of LookaheadsConfig"}


@pytest.mark.parametrize("kind", EncoderConfig.kinds.values())
def test_every_size_shrinks_or_is_kept_on_purpose(kind: type[EncoderConfig]) -> None:
    for name, hint in get_type_hints(kind, include_extras=True).items():
        if name in {field.name for field in dataclasses.fields(kind)} and "int" in str(hint):
            kept = name in KEPT or f"{name} of {kind.__name__}" in KEPT
            assert ("Shrinks" in str(hint)) != kept, f"{name} of {kind.__name__}"


def test_a_small_network_has_smaller_sizes_all_the_way_down() -> None:
    rolling = encoders.TdsConfig(mlp_features=480, reduction=576, rolling=125, lookahead=1)
    whole = encoders.TransformerConfig(
        base=encoders.SplitShareConfig(base=rolling), width=0, feed_forward=1048, past=125, future=-1
    )
    small = encoders.TdsConfig(120, 4, 24, 11, 0, 144, 11, rolling=42, squeeze=208)
    assert whole.small() == replace(whole, base=encoders.SplitShareConfig(base=small), feed_forward=524, past=42)
    assert encoders.ResidualCnnConfig(widths=(256, 128)).small().widths == (128, 64)
    assert AttentionConfig(2, 256, 4, 1024).small() == AttentionConfig(2, 128, 4, 512)


def test_settings_that_do_not_fit_the_features_are_refused_when_building() -> None:
    with pytest.raises(EmgscribeError, match=r"encoder\.heads"):
        build(replace(TRANSFORMER, heads=5))  # 48 features do not split into 5 even heads
    with pytest.raises(EmgscribeError, match=r"encoder\.channels"):
        replace(TDS, channels=16).build(1, 16, 9)  # one band has 24 features


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("items", "frames"), [(3, 17), (1, 1)])
def test_our_gru_matches_pytorchs_output_and_gradients(bidirectional: bool, items: int, frames: int) -> None:
    torch.manual_seed(0)
    theirs = nn.GRU(5, 7, 3, batch_first=True, bidirectional=bidirectional).double()
    ours = Gru(5, 7, 3, batch_first=True, bidirectional=bidirectional).double()
    ours.load_state_dict(theirs.state_dict())
    seen, above = noise(items, frames, 5).double(), [noise(items, frames, 7 * (1 + bidirectional), seed=1).double()]
    above.append(noise(3 * (1 + bidirectional), items, 7, seed=2).double())
    found = []
    for cells in (theirs, ours):
        inputs = seen.clone().requires_grad_()
        made = cells(inputs)
        torch.autograd.backward(made, above)
        found.append([*made, inputs.grad, *(parameter.grad for parameter in cells.parameters())])
    torch.testing.assert_close(found[1], found[0], rtol=1e-12, atol=1e-12)


def test_our_gru_applies_dropout_between_layers_in_training_only() -> None:
    cells = Gru(5, 7, 2, batch_first=True, dropout=0.5)
    seen = noise(2, 30, 5)
    assert not torch.equal(cells(seen)[0], cells(seen)[0])
    torch.testing.assert_close(cells.eval()(seen)[0], cells(seen)[0])
    assert cells(seen)[0].grad_fn is not None
