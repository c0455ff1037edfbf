"""The parts of encoders, written again plainly. What the benchmarks' textbook has is compared in test_benchmarks."""

import pytest
import torch
from networks import BANDS, BINS, CHANNELS, TDS, build, noise, scrambled
from torch import Tensor
from torch.nn import functional as F

from emgscribe.models.encoders import TdsConfig
from emgscribe.models.encoders.layers import Reduction, without
from emgscribe.models.encoders.residual_cnn import ResidualConv
from emgscribe.models.encoders.tds import SqueezeExcitation, TdsConv
from emgscribe.models.encoders.transformer import Attention, rotated


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


def test_the_whole_encoder_is_the_published_one_up_to_the_order_of_features() -> None:
    config, encoder = TDS, scrambled(build(TDS))
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


def test_the_baseline_and_the_reductions_of_the_course_project_see_what_they_should() -> None:
    encoder = TdsConfig().build(BANDS, CHANNELS, 33)
    assert (encoder.left_context, encoder.right_context, encoder.stride, encoder.width) == (112, 12, 1, 768)
    for kernel, back, consumed in ((32, False, 155), (16, False, 139), (16, True, 154)):
        config = TdsConfig(reduction=576, reduction_kernel=kernel, reduction_back=back)
        assert config.consumed == consumed
        encoder = config.build(BANDS, CHANNELS, 33)
        assert encoder.width == (768 if back else 576)


@pytest.mark.parametrize(("past", "future"), [(-1, -1), (-1, 0), (3, 2), (0, 4), (200, 100), (-1, 5), (5, -1)])
def test_attention_is_the_weighted_mean_of_the_values_in_reach(past: int, future: int) -> None:
    attention = Attention(8, 2, past=past, future=future, dropout=0.0)
    count, padding = 300, torch.tensor([0, 40])
    frames = noise(2, count, 8)
    query, key, value = attention.inputs(frames).view(2, count, 3, 2, 4).unbind(dim=2)  # each (N, F, heads, 4)
    query, key = (rotated(part.transpose(1, 2)).transpose(1, 2) for part in (query, key))
    scores = torch.einsum("nqhd,nkhd->nhqk", query, key) / 2  # over the root of 4
    distance = torch.arange(count) - torch.arange(count)[:, None]
    seen = (distance >= -past if past >= 0 else True) & (distance <= future if future >= 0 else distance < count)
    ends = (count - padding)[:, None, None, None]
    scores = scores.masked_fill(~seen | (torch.arange(count) >= ends), -torch.inf)
    mixed = torch.einsum("nhqk,nkhd->nqhd", scores.softmax(dim=3), value).flatten(2)
    for item, end in enumerate((count, count - 40)):
        torch.testing.assert_close(
            attention(frames, padding)[item, :end], attention.output(mixed)[item, :end], rtol=1e-4, atol=1e-5
        )


def test_rotation_makes_products_depend_on_the_distance_alone() -> None:
    query, key = noise(1, 8).expand(50, 8), noise(1, 8, seed=1).expand(50, 8)
    products = rotated(query) @ rotated(key).T  # (50, 50)
    for distance in (-20, -1, 0, 7):
        assert products.diagonal(distance).std() < 1e-5
    assert products[0].std() > 0.1
    torch.testing.assert_close(rotated(query).norm(dim=1), query.norm(dim=1))


@pytest.mark.parametrize("span", [(2, 1), (3, 0), None])
def test_squeeze_is_the_mean_over_the_frames_in_reach(span: tuple[int, int] | None) -> None:
    layer = SqueezeExcitation(4, span)
    frames, padding = noise(2, 9, 12), torch.tensor([0, 3])
    found = layer(frames, padding)
    before, after = span or (9, 9)
    for item, end in enumerate((9, 6)):
        for frame in range(end):
            near = frames[item, max(0, frame - before) : min(end, frame + after + 1)].view(-1, 3, 4).mean(dim=(0, 1))
            scale = layer.excite(F.relu(layer.squeeze(near))).sigmoid()
            torch.testing.assert_close(found[item, frame], (frames[item, frame].view(3, 4) * scale).flatten())


def test_cropped_squeeze_returns_the_frames_that_have_all_of_their_span() -> None:
    layer, frames, padding = SqueezeExcitation(4, (2, 1), cropped=True), noise(2, 9, 12), torch.tensor([0, 0])
    whole = SqueezeExcitation(4, (2, 1))
    whole.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer(frames, padding), whole(frames, padding)[:, 2:-1])


@pytest.mark.parametrize(("kernel", "stride", "lookahead"), [(5, 1, 2), (5, 1, 0), (5, 3, 1), (3, 3, 0)])
def test_residual_convolution_is_conv1d_beside_what_a_frame_stands_for(
    kernel: int, stride: int, lookahead: int
) -> None:
    block = ResidualConv(6, 4, kernel, stride, lookahead, 0.0)
    frames = noise(2, kernel + 7 * stride, 6)
    convolved = F.relu(F.conv1d(frames.transpose(1, 2), block.conv.weight, block.conv.bias, stride))
    own = frames[:, block.before : block.before + 8 * stride].view(2, 8, stride, 6).mean(dim=2)
    expected = block.norm(convolved.transpose(1, 2) + block.residual(own))
    torch.testing.assert_close(block(frames), expected, rtol=1e-4, atol=1e-5)
    assert block.before + stride + lookahead == kernel


def test_without_removes_padding_even_if_it_is_not_a_number() -> None:
    frames = torch.full((2, 3, 2), torch.nan)
    assert without(frames, torch.tensor([1, 3])).nan_to_num(7)[:, :, 0].tolist() == [[7, 7, 0], [0, 0, 0]]
