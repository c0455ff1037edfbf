"""The contract of encoders, held by every architecture and its variants at a size that tests can afford."""

import dataclasses
from dataclasses import replace
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch
from torch import Tensor

from emgscribe.config import from_json, to_json
from emgscribe.data.windows import Batch
from emgscribe.decoding.greedy import GreedyDecoder, decode_batch
from emgscribe.errors import EmgscribeError
from emgscribe.models.attention import AttentionConfig
from emgscribe.models.encoders import (
    ConformerConfig,
    Encoder,
    EncoderConfig,
    LinearRecurrenceConfig,
    MlpConfig,
    RecurrentConfig,
    ResidualCnnConfig,
    SplitShareConfig,
    TdsConfig,
    TransformerConfig,
)
from emgscribe.models.features import SpectrogramConfig
from emgscribe.models.model import Model, ModelConfig, load_model, save_model
from emgscribe.training.losses import ctc_loss, keypress_loss

BANDS, CHANNELS, BINS = 2, 16, 9
FEATURES = SpectrogramConfig(n_fft=16, hop=16)  # 9 bins
TDS = TdsConfig(mlp_features=24, blocks=2, channels=4, kernel=4, lookahead=2)
MLP = MlpConfig(mlp_features=12)
CNN = ResidualCnnConfig(mlp_features=12, projection=16, widths=(16, 12), kernel=5, lookahead=2, dropout=0.1)
GRU = RecurrentConfig(base=MLP, hidden=12, dropout=0.1, left=3, right=2)
LINEAR = LinearRecurrenceConfig(base=CNN, width=16, hidden=12, layers=2, left=3, right=2)
TRANSFORMER = TransformerConfig(base=TDS, heads=2, feed_forward=32, left=3, right=2)
CONFORMER = ConformerConfig(base=MLP, width=16, layers=2, heads=2, feed_forward=32, kernel=5, left=3, right=2)
SMALL: dict[str, EncoderConfig] = {
    **{kind: config() for kind, config in EncoderConfig.kinds.items()},  # a new one as it is
    "tds": TDS,
    "tds, causal": replace(TDS, lookahead=0),
    "tds, dropout": replace(TDS, dropout=0.3),
    "tds, reduced": replace(TDS, reduction=36, reduction_kernel=3),
    "tds, reduced and back": replace(TDS, reduction=30, reduction_kernel=3, reduction_back=True),
    "tds, rolling norm": replace(TDS, rolling=9),
    "tds, sliding squeeze": replace(TDS, channels=24, excitation="sliding", squeeze=5),
    "tds, sliding squeeze, causal": replace(TDS, channels=24, excitation="sliding", squeeze=5, lookahead=0),
    "tds, finite squeeze": replace(TDS, channels=24, excitation="finite", squeeze=6),
    "tds, finite squeeze, causal": replace(TDS, channels=24, excitation="finite", squeeze=5, lookahead=0),
    "tds, global squeeze": replace(TDS, channels=24, excitation="global"),
    "mlp": MLP,
    "mlp, rolling norm": replace(MLP, rolling=9),
    "residual-cnn": CNN,
    "residual-cnn, causal": replace(CNN, projection=0, lookahead=0),
    "residual-cnn, strided": replace(CNN, strides=(2, 3)),
    "recurrent": GRU,
    "recurrent, lstm on tds": replace(GRU, base=TDS, cell="lstm", left=0, right=0),
    "recurrent, on a strided cnn": replace(GRU, base=replace(CNN, strides=(2, 3)), output=10),
    "recurrent, causal": replace(GRU, base=replace(CNN, lookahead=0), bidirectional=False, right=0),
    "recurrent, with lookahead": replace(GRU, base=CNN, bidirectional=False, right=3),
    "linear-recurrence": LINEAR,
    "linear-recurrence, with lookahead": replace(LINEAR, bidirectional=False),
    "transformer": TRANSFORMER,
    "transformer, alone": replace(TRANSFORMER, base=MLP, layers=2),
    "transformer, causal": replace(TRANSFORMER, base=replace(TDS, lookahead=0), layers=2, future=0),
    "transformer, with lookahead": replace(TRANSFORMER, layers=2, future=1),
    "transformer, banded": replace(TRANSFORMER, width=12, layers=2, heads=3, past=4, future=1),
    "conformer": CONFORMER,
    "conformer, causal": replace(CONFORMER, future=0),
    "conformer, banded": replace(CONFORMER, past=3, future=2),
    "split-share": SplitShareConfig(base=TDS, joint=True),
    "split-share, recurrent": SplitShareConfig(base=GRU, mirror=False),
    "hybrid of cnn, transformer and lstm": RecurrentConfig(base=TRANSFORMER, cell="lstm", hidden=8, left=1, right=1),
}
BUILT = {kind: config.build(BANDS, CHANNELS, BINS) for kind, config in SMALL.items()}
BOUNDED = [kind for kind, encoder in BUILT.items() if not (encoder.unbounded_left or encoder.unbounded_right)]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def scrambled(kind: str) -> Encoder:
    """An encoder in evaluation mode with random weights everywhere, in norms and running statistics too."""
    encoder = SMALL[kind].build(BANDS, CHANNELS, BINS)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, value in encoder.state_dict().items():
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape, generator=generator) + (0.1 if "running_var" in name else -0.5))
    return encoder.eval()


def features_for(encoder: Encoder, items: int, frames: int) -> Tensor:
    """Features from which `encoder` makes `frames` frames."""
    span = encoder.left_context + frames * encoder.stride + encoder.right_context
    return noise(items, span, BANDS, CHANNELS, BINS)


def encoded(encoder: Encoder, features: Tensor, frames: list[int] | int) -> Tensor:
    """The encoder's output on `features`, whose items have `frames` frames each (a list, or the same for all)."""
    counts = torch.tensor(frames if isinstance(frames, list) else [frames] * len(features))
    with torch.no_grad():
        return encoder(features, counts * encoder.stride)


def test_every_registered_encoder_is_held_to_the_contract() -> None:
    assert {type(config) for config in SMALL.values()} == set(EncoderConfig.kinds.values())


@pytest.mark.parametrize("kind", SMALL)
def test_one_frame_for_every_stride_of_labelled_features(kind: str) -> None:
    encoder = scrambled(kind)
    for items, frames in ((1, 1), (3, 2), (1, 7), (2, 40)):
        hidden = encoded(encoder, features_for(encoder, items, frames), frames)
        assert hidden.shape == (items, frames, encoder.width)
        assert hidden.isfinite().all()


@pytest.mark.parametrize("kind", SMALL)
def test_registry_entries_are_frozen_dataclasses_that_build_encoders(kind: str) -> None:
    config = SMALL[kind]
    assert isinstance(config, EncoderConfig)
    assert isinstance(BUILT[kind], Encoder)
    field = dataclasses.fields(config)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, field, 1)
    model = ModelConfig(features=FEATURES, encoder=config)
    assert from_json(ModelConfig, to_json(model), where="test") == model


@pytest.mark.parametrize("kind", SMALL)
def test_items_do_not_influence_each_other(kind: str) -> None:
    encoder = scrambled(kind)
    features = features_for(encoder, 3, 9)
    together = encoded(encoder, features, 9)
    for item in range(3):
        alone = encoded(encoder, features[item : item + 1], 9)
        torch.testing.assert_close(together[item : item + 1], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", SMALL)
def test_padding_does_not_change_a_result(kind: str) -> None:
    encoder = scrambled(kind)
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
    encoder = scrambled(kind)
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
    encoder = scrambled(kind)
    seen = seen_by(encoder, 12, 5)
    own = encoder.left_context + 5 * encoder.stride
    assert set(range(own, own + encoder.stride)) <= set(seen)
    if not encoder.unbounded_left:
        assert seen[0] == own - encoder.left_context
    if not encoder.unbounded_right:
        assert seen[-1] == own + encoder.stride - 1 + encoder.right_context


@pytest.mark.parametrize("kind", SMALL)
def test_the_future_beyond_the_lookahead_changes_nothing(kind: str) -> None:
    encoder = BUILT[kind]
    assert encoder.causal == (encoder.right_context == 0 and not encoder.unbounded_right)
    assert (", causal" in kind) <= encoder.causal
    # Another future, further off than the declared lookahead: what was read until then stays.
    encoder = scrambled(kind)
    features = features_for(encoder, 1, 12)
    changed = features.clone()
    changed[:, encoder.left_context + 6 * encoder.stride + encoder.right_context :] += 3
    moved = (encoded(encoder, changed, 12) - encoded(encoder, features, 12)).abs().amax(dim=(0, 2)).tolist()
    assert max(moved[:6]) < 1e-5 or encoder.unbounded_right
    assert moved[6] > 0 or encoder.right_context == 0


@pytest.mark.parametrize("kind", SMALL)
def test_gradients_reach_every_parameter(kind: str) -> None:
    torch.manual_seed(3)
    encoder = SMALL[kind].build(BANDS, CHANNELS, BINS)
    hidden = encoder(features_for(encoder, 2, 8), torch.tensor([8, 6]) * encoder.stride)
    (hidden * noise(*hidden.shape, seed=1))[1, :6].sum().backward()
    assert [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


@pytest.mark.parametrize("kind", SMALL)
def test_low_precision_stays_close(kind: str) -> None:
    torch.manual_seed(3)
    encoder = SMALL[kind].build(BANDS, CHANNELS, BINS).eval()
    features = features_for(encoder, 2, 9)
    exact = encoded(encoder, features, [9, 5])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        close = encoded(encoder, features, [9, 5]).float()
    difference = torch.cat([(close - exact)[0], (close - exact)[1, :5]])
    assert difference.abs().max() < 0.1 * exact.std() + 0.02


def batch_for(model: Model, frames: list[int], seed: int = 0) -> Batch:
    """Windows of noise that last `frames` frames each, with a key-down in the middle of every fourth frame."""
    generator = torch.Generator().manual_seed(seed)
    left, right = model.context
    hop = model.samples_per_frame
    emg = torch.randn(len(frames), left + max(frames) * hop + right, 2, 16, generator=generator)
    keys = max(frames) // 4
    onsets = ((torch.arange(keys) * 4 + 2) * hop + hop // 2).expand(len(frames), -1)
    labels = torch.randint(0, 98, onsets.shape, generator=generator)
    lengths = torch.tensor(frames) * hop
    return Batch(emg, left, right, lengths, labels, lengths // (4 * hop), onsets)


@pytest.mark.parametrize("kind", SMALL)
def test_a_model_covers_the_labelled_samples_and_reads_back_as_it_was(kind: str, tmp_path: Path) -> None:
    model = Model(ModelConfig(features=FEATURES, encoder=SMALL[kind]))
    batch = batch_for(model, [6, 4])
    model(batch)  # moves the running statistics of the norm
    save_model(model, tmp_path / "model")
    again = load_model(tmp_path / "model")
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
    "recurrent, on a strided cnn": replace(
        GRU, base=replace(CNN, widths=(48, 48), strides=(2, 3)), hidden=64, layers=1
    ),
    "hybrid of cnn, transformer and lstm": RecurrentConfig(base=TRANSFORMER, cell="lstm", hidden=64, layers=1),
}


@pytest.mark.parametrize("kind", LEARNERS)
def test_two_windows_are_learnt_by_heart(kind: str) -> None:
    torch.manual_seed(0)
    model = Model(ModelConfig(features=FEATURES, encoder=LEARNERS[kind]))
    batch = batch_for(model, [24, 24])
    features, frames = model.featurize(batch), model.frames(batch.lengths)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(200):
        emissions = model.train().classify(model.encode(features, batch.lengths))
        loss = ctc_loss(emissions, frames, batch) + keypress_loss(emissions, frames, batch, model.samples_per_frame)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 10 == 9:
            with torch.inference_mode():
                emissions = model.eval().classify(model.encode(features, batch.lengths))
            read = decode_batch(GreedyDecoder(), emissions, frames)
            if [list(hypothesis.labels) for hypothesis in read] == batch.references():
                return
    pytest.fail(f"not learnt in 200 steps, the loss is {loss.item():.3f}")


# Sizes that a small network keeps: numbers of layers and of what divides a width, and steps in time.
KEPT = {"blocks", "channels", "layers", "heads", "strides"}


@pytest.mark.parametrize("kind", EncoderConfig.kinds.values())
def test_every_size_shrinks_or_is_kept_on_purpose(kind: type[EncoderConfig]) -> None:
    for name, hint in get_type_hints(kind, include_extras=True).items():
        if name in {field.name for field in dataclasses.fields(kind)} and "int" in str(hint):
            assert ("Shrinks" in str(hint)) != (name in KEPT), f"{name} of {kind.__name__}"


def test_a_small_network_has_smaller_sizes_all_the_way_down() -> None:
    rolling = TdsConfig(mlp_features=480, reduction=576, rolling=125, lookahead=1)
    whole = TransformerConfig(base=SplitShareConfig(base=rolling), width=0, feed_forward=1048, past=125, future=-1)
    small = TdsConfig(120, 4, 24, 11, 0, 144, 11, rolling=42, squeeze=208)
    assert whole.small() == replace(whole, base=SplitShareConfig(base=small), feed_forward=524, past=42)
    assert ResidualCnnConfig(widths=(256, 128)).small().widths == (128, 64)
    assert AttentionConfig(2, 256, 4, 1024).small() == AttentionConfig(2, 128, 4, 512)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"mlp_features": 0}, "encoder.mlp_features"),
        ({"blocks": 0}, "encoder.blocks"),
        ({"kernel": 0}, "encoder.kernel"),
        ({"channels": 0}, "encoder.channels"),
        ({"channels": 3, "mlp_features": 24}, "encoder.channels"),  # one band would get half a channel
        ({"channels": 10, "mlp_features": 24}, "encoder.channels"),  # 48 does not split into 10
        ({"lookahead": -1}, "encoder.lookahead"),
        ({"blocks": 2, "kernel": 4, "lookahead": 7}, "encoder.lookahead"),
        ({"reduction": -1}, "encoder.reduction"),
        ({"reduction": 50}, "encoder.reduction"),  # the blocks' 24 channels do not divide it
        ({"reduction_kernel": 0}, "encoder.reduction_kernel"),
        ({"rolling": -1}, "encoder.rolling"),
        ({"dropout": 1.0}, "encoder.dropout"),
        ({"squeeze": 0}, "encoder.squeeze"),
        ({"excitation": "some"}, "encoder.excitation"),
    ],
)
def test_parameters_out_of_range_are_named(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(EmgscribeError, match=field):
        TdsConfig(**changes)


@pytest.mark.parametrize(
    ("config", "field", "values"),
    [
        (MLP, "mlp_features", [0]),
        (MLP, "rolling", [-1]),
        (CNN, "mlp_features", [0]),
        (CNN, "projection", [-1]),
        (CNN, "widths", [(), (8, 0)]),
        (CNN, "kernel", [0]),
        (CNN, "strides", [(2,), (0, 1), (1, 6)]),  # one for each of the widths, no more than the kernel of 5
        (CNN, "lookahead", [-1, 5]),
        (CNN, "dropout", [-0.1, 1.0]),
        (GRU, "cell", ["rnn"]),
        *((config, name, [0]) for config in (GRU, LINEAR) for name in ("hidden", "layers")),
        *((config, name, [-1]) for config in (GRU, LINEAR, TRANSFORMER, CONFORMER) for name in ("left", "right")),
        *((config, "dropout", [1.0]) for config in (GRU, LINEAR, TRANSFORMER, CONFORMER)),
        (GRU, "output", [-1]),
        (LINEAR, "width", [0]),
        *((config, name, [-2]) for config in (TRANSFORMER, CONFORMER) for name in ("past", "future", "width")),
        *((config, name, [0]) for config in (TRANSFORMER, CONFORMER) for name in ("layers", "heads", "feed_forward")),
        (CONFORMER, "kernel", [0]),
    ],
)
def test_values_out_of_range_are_named(config: EncoderConfig, field: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(EmgscribeError, match=f"encoder.{field}"):
            replace(config, **{field: value})


def test_what_only_the_features_can_tell_is_refused_when_building() -> None:
    with pytest.raises(EmgscribeError, match=r"encoder\.heads"):
        replace(TRANSFORMER, heads=5).build(BANDS, CHANNELS, BINS)  # 48 features do not split into 5 even heads
    with pytest.raises(EmgscribeError, match=r"encoder\.channels"):
        replace(TDS, channels=16).build(1, CHANNELS, BINS)  # one band has 24 features
