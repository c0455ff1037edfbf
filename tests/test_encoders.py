import dataclasses
import inspect

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emgscribe.encoders import ENCODERS, Encoder, EncoderConfig, TdsConfig
from emgscribe.encoders.layers import Reduction, RollingNorm, RotationInvariantMLP, SpectrogramNorm
from emgscribe.encoders.tds import TdsConv, TdsEncoder, TdsFeedForward
from emgscribe.errors import EmgscribeError

BANDS, CHANNELS, BINS = 2, 16, 9
TDS = TdsConfig(mlp_features=24, blocks=2, channels=4, kernel=4, lookahead=2)
SMALL: dict[str, EncoderConfig] = {
    "tds": TDS,
    "tds, reduced": dataclasses.replace(TDS, reduction=36, reduction_kernel=3),
    "tds, reduced and back": dataclasses.replace(TDS, reduction=30, reduction_kernel=3, reduction_back=True),
    "tds, rolling norm": dataclasses.replace(TDS, rolling=9),
}


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def scrambled(module: nn.Module) -> nn.Module:
    """`module` in evaluation mode with random weights everywhere, in norms and running statistics too."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape, generator=generator) + (0.1 if "running_var" in name else -0.5))
    return module.eval()


# The contract, for every registered encoder and its variants.


def test_every_registered_encoder_is_held_to_the_contract() -> None:
    assert {type(config) for config in SMALL.values()} == set(ENCODERS.values())


@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize("frames", [1, 2, 7])
@pytest.mark.parametrize("items", [1, 3])
def test_one_frame_for_every_stride_of_labelled_features(kind: str, frames: int, items: int) -> None:
    encoder = SMALL[kind].build(BANDS, CHANNELS, BINS).eval()
    span = encoder.left_context + frames * encoder.stride + encoder.right_context
    lengths = torch.full((items,), frames * encoder.stride)
    hidden = encoder(noise(items, span, BANDS, CHANNELS, BINS), lengths)
    assert hidden.shape == (items, frames, encoder.width)
    assert hidden.isfinite().all()


@pytest.mark.parametrize("kind", SMALL)
def test_registry_entries_are_frozen_dataclasses_that_build_encoders(kind: str) -> None:
    config = SMALL[kind]
    assert isinstance(config, EncoderConfig)
    assert isinstance(config.build(BANDS, CHANNELS, BINS), Encoder)
    field = dataclasses.fields(config)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, field, 1)


@pytest.mark.parametrize("kind", SMALL)
def test_pieces_with_their_context_give_the_frames_of_the_whole(kind: str) -> None:
    encoder = SMALL[kind].build(BANDS, CHANNELS, BINS)
    scrambled(encoder)
    context = encoder.left_context + encoder.right_context
    features = noise(2, context + 12, BANDS, CHANNELS, BINS)
    whole = encoder(features, torch.full((2,), 12))
    pieces = [encoder(features[:, start : start + context + 4], torch.full((2,), 4)) for start in (0, 4, 8)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, rtol=1e-4, atol=1e-4)
    again = encoder(features[:1], torch.full((1,), 12))
    torch.testing.assert_close(again, whole[:1], rtol=1e-4, atol=1e-4)  # items do not influence each other


@pytest.mark.parametrize("kind", SMALL)
def test_gradients_reach_every_parameter(kind: str) -> None:
    encoder = SMALL[kind].build(BANDS, CHANNELS, BINS)
    span = encoder.left_context + 8 + encoder.right_context
    hidden = encoder(noise(2, span, BANDS, CHANNELS, BINS), torch.full((2,), 8))
    (hidden * noise(*hidden.shape, seed=1)).sum().backward()
    assert [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("kind", SMALL)
def test_causal_is_said_where_there_is_no_lookahead(kind: str) -> None:
    encoder = SMALL[kind].build(BANDS, CHANNELS, BINS)
    assert encoder.causal == (encoder.right_context == 0)


def test_the_contract_is_abstract() -> None:
    with pytest.raises(NotImplementedError):
        Encoder()(torch.zeros(1), torch.zeros(1))
    with pytest.raises(NotImplementedError):
        EncoderConfig().build(BANDS, CHANNELS, BINS)
    assert "lengths" in inspect.signature(Encoder.forward).parameters


# Against the textbook.


@pytest.mark.parametrize("offsets", [(0,), (-1, 0, 1), (-2, 5)])
def test_rotation_invariant_mlp_is_the_mean_over_rolled_inputs(offsets: tuple[int, ...]) -> None:
    mlp = RotationInvariantMLP(BANDS, CHANNELS, BINS, 12, offsets)
    features = noise(2, 5, BANDS, CHANNELS, BINS)
    expected = torch.stack(
        [
            torch.stack(
                [F.relu(layer(features[:, :, band].roll(offset, dims=2).flatten(2))) for offset in offsets]
            ).mean(dim=0)
            for band, layer in enumerate(mlp.layers)
        ],
        dim=2,
    )
    assert torch.allclose(mlp(features), expected, atol=1e-5)


def test_a_full_turn_of_offsets_makes_the_mlp_invariant_to_rotation() -> None:
    mlp = RotationInvariantMLP(BANDS, CHANNELS, BINS, 12, tuple(range(CHANNELS)))
    features = noise(2, 3, BANDS, CHANNELS, BINS)
    assert torch.allclose(mlp(features), mlp(features.roll(3, dims=3)), atol=1e-5)
    three = RotationInvariantMLP(BANDS, CHANNELS, BINS, 12)
    assert not torch.allclose(three(features), three(features.roll(3, dims=3)), atol=1e-3)


def test_spectrogram_norm_has_one_mean_and_variance_for_each_electrode_channel() -> None:
    norm = SpectrogramNorm(BANDS, CHANNELS).train()
    scale = torch.arange(1.0, 33).view(1, 1, BANDS, CHANNELS, 1)
    features = noise(4, 20, BANDS, CHANNELS, BINS) * scale + 10 * scale
    normed = norm(features)
    assert normed.shape == features.shape
    axes = (0, 1, 4)
    assert torch.allclose(normed.mean(dim=axes), torch.zeros(BANDS, CHANNELS), atol=1e-4)
    assert torch.allclose(normed.std(dim=axes, correction=0), torch.ones(BANDS, CHANNELS), atol=1e-3)
    expected = (features - features.mean(dim=axes, keepdim=True)) / features.std(dim=axes, keepdim=True, correction=0)
    assert torch.allclose(normed, expected, atol=1e-3)  # bins keep their differences


def channels_outermost(width: int, channels: int) -> Tensor:
    """Where each of our features (channels innermost) stands in the published order (channels outermost)."""
    columns = width // channels
    place = torch.arange(width)
    return place % channels * columns + place // channels


def textbook_conv(conv: TdsConv, frames: Tensor) -> Tensor:
    """The published block on frames (N, F, width) in the published order of features, one tap at a time."""
    items, count, width = frames.shape
    kernel = conv.conv.kernel_size[0]
    split = frames.view(items, count, conv.channels, -1)  # (N, F, channels, W)
    out = torch.zeros(items, count - kernel + 1, conv.channels, split.shape[3])
    for tap in range(kernel):
        weight = conv.conv.weight[:, :, tap, 0]
        out += torch.einsum("oc,nfcw->nfow", weight, split[:, tap : tap + out.shape[1]])
    out += conv.conv.bias[:, None]
    order = channels_outermost(width, conv.channels)
    inverse = order.argsort()
    summed = F.relu(out).flatten(2) + frames[:, kernel - 1 :]
    return F.layer_norm(summed, (width,), conv.norm.weight[inverse], conv.norm.bias[inverse], conv.norm.eps)


@pytest.mark.parametrize(("channels", "kernel"), [(4, 4), (6, 1), (2, 7)])
def test_tds_conv_is_the_textbook_with_channels_outermost(channels: int, kernel: int) -> None:
    conv = scrambled(TdsConv(24, channels, kernel))
    assert isinstance(conv, TdsConv)
    published = noise(3, 11, 24)
    order = channels_outermost(24, channels)
    ours = conv(published[:, :, order])
    assert ours.shape == (3, 11 - kernel + 1, 24)
    assert torch.allclose(ours, textbook_conv(conv, published)[:, :, order], atol=1e-5)


def test_the_whole_encoder_is_the_published_one_up_to_the_order_of_features() -> None:
    config = TdsConfig(mlp_features=24, blocks=2, channels=4, kernel=4, lookahead=2)
    encoder = scrambled(config.build(BANDS, CHANNELS, BINS))
    assert isinstance(encoder, TdsEncoder)
    features = noise(2, 12, BANDS, CHANNELS, BINS)
    order = channels_outermost(encoder.width, config.channels)
    inverse = order.argsort()

    # The published network: bands side by side, each with its half of the channels, channels outermost.
    hidden = encoder.mlp(encoder.norm(features))  # (N, F, B, mlp_features), channels innermost within a band
    half = config.channels // 2
    frames = hidden.unflatten(3, (-1, half)).transpose(3, 4).flatten(2)  # (N, F, B * half * W)
    for block in encoder.blocks:
        if isinstance(block, TdsConv):
            frames = textbook_conv(block, frames)
        else:
            assert isinstance(block, TdsFeedForward)
            inner = F.relu(F.linear(frames, block.inner.weight[:, inverse], block.inner.bias))
            outer = F.linear(inner, block.outer.weight[inverse], block.outer.bias[inverse])
            norm = block.norm
            frames = F.layer_norm(frames + outer, (encoder.width,), norm.weight[inverse], norm.bias[inverse], norm.eps)
    ours = encoder(features, torch.tensor([6, 6]))
    assert ours.shape == (2, 6, encoder.width)
    assert torch.allclose(ours, frames[:, :, order], atol=1e-4)


@pytest.mark.parametrize("back", [False, True])
def test_reduction_is_the_middle_of_the_padded_convolutions(back: bool) -> None:
    reduction = Reduction(12, 8, 5, back=back)
    frames = noise(2, 30, 12)
    hidden = F.relu(reduction.conv(frames.transpose(1, 2)))
    if reduction.back is not None:
        hidden = F.relu(reduction.back(hidden))[..., 4:-4]
    assert reduction(frames).shape == (2, 30 - reduction.consumed, 12 if back else 8)
    torch.testing.assert_close(reduction(frames), reduction.norm(hidden.transpose(1, 2)))
    # Frames far outside have no part in what is returned: each returned frame is built from all of its inputs.
    longer = torch.cat([noise(2, 9, 12, seed=3), frames, noise(2, 9, 12, seed=4)], dim=1)
    torch.testing.assert_close(reduction(longer)[:, 9:-9], reduction(frames), rtol=1e-4, atol=1e-5)


def test_rolling_norm_is_mean_and_deviation_of_the_last_frames() -> None:
    features = noise(2, 40, BANDS, CHANNELS, BINS) * 3 + 5
    found = RollingNorm(8)(features)
    assert found.shape == (2, 33, BANDS, CHANNELS, BINS)
    for frame in (0, 7, 32):
        recent = features[:, frame : frame + 8]
        expected = (recent[:, -1] - recent.mean(dim=1)) / recent.std(dim=1, correction=0)
        torch.testing.assert_close(found[:, frame], expected, rtol=1e-4, atol=1e-4)
    assert RollingNorm(8)(torch.ones(1, 20, BANDS, CHANNELS, BINS)).abs().max() < 1e-3  # silence stays finite


def test_reductions_of_the_seed_paper_see_what_they_should() -> None:
    for kernel, back, consumed in ((32, False, 155), (16, False, 139), (16, True, 154)):
        config = TdsConfig(reduction=576, reduction_kernel=kernel, reduction_back=back)
        assert config.consumed == consumed
        encoder = config.build(BANDS, CHANNELS, 33)
        assert encoder.width == (768 if back else 576)


def test_baseline_sees_125_frames() -> None:
    encoder = TdsConfig().build(BANDS, CHANNELS, 33)
    assert encoder.left_context + 1 + encoder.right_context == 125
    assert (encoder.left_context, encoder.right_context, encoder.stride, encoder.width) == (112, 12, 1, 768)


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
    ],
)
def test_parameters_out_of_range_are_named(changes: dict[str, int], field: str) -> None:
    with pytest.raises(EmgscribeError, match=field):
        TdsConfig(**changes)
