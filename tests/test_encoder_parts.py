"""Parts of encoders against plain versions, where neither textbook networks nor published weights check them."""

import pytest
import torch
from networks import BANDS, BINS, CHANNELS, noise, scrambled
from torch.nn import functional as F

from emgscribe.models.encoders import MlpConfig, TdsConfig
from emgscribe.models.encoders.layers import FastDropout, Reduction, RollingNorm, fast_dropout, mask_padding
from emgscribe.models.encoders.residual_cnn import ResidualConv
from emgscribe.models.encoders.tds import SqueezeExcitation
from emgscribe.models.encoders.transformer import Attention, rotated


@pytest.mark.parametrize("training", [True, False])
def test_the_front_end_is_the_norm_and_then_the_layer(training: bool) -> None:
    """Its weights absorb the norm's scale and shift; the features need no gradient, but may have one."""
    ours, plain = (scrambled(MlpConfig(12).build(BANDS, CHANNELS, BINS)).train(training) for _ in range(2))
    weights = noise(2, 15, 24, seed=5)
    features, same = ((3 * noise(2, 15, BANDS, CHANNELS, BINS) - 4).requires_grad_() for _ in range(2))
    found, expected = ours(features, torch.tensor([15, 15])), plain.mlp(plain.norm(same)).flatten(2)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    for frames in (found, expected):
        (frames * weights).sum().backward()
    torch.testing.assert_close(features.grad, same.grad, rtol=1e-4, atol=1e-5)
    for one, other in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-3)
    for name, value in plain.state_dict().items():  # the running statistics too
        torch.testing.assert_close(ours.state_dict()[name], value, msg=name)
    assert ours(features.detach(), torch.tensor([15, 15])).requires_grad


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


def test_the_baseline_and_the_course_projects_reductions_have_the_published_context() -> None:
    encoder = TdsConfig().build(BANDS, CHANNELS, 33)
    assert (encoder.left_context, encoder.right_context, encoder.stride, encoder.width) == (112, 12, 1, 768)
    for kernel, back, consumed in ((32, False, 155), (16, False, 139), (16, True, 154)):
        config = TdsConfig(reduction=576, reduction_kernel=kernel, reduction_back=back)
        assert config.consumed == consumed
        encoder = config.build(BANDS, CHANNELS, 33)
        assert encoder.width == (768 if back else 576)


def test_a_rolling_norm_is_exact_after_hours() -> None:
    """A million frames are 5.6 hours of the shipped model. Single precision rounds features of up to 20 by 1e-6."""
    norm, state, seen = RollingNorm(250), None, 3 * noise(1, 1_000_000, 1, 1, 1) - 5
    for chunk in seen.split(1000, dim=1):
        found, state = norm.step(chunk, state)
    torch.testing.assert_close(found[:, -100:], norm(seen[:, -349:]), rtol=0, atol=3e-6)


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
def test_residual_convolution_is_conv1d_plus_the_mean_of_each_strides_frames(
    kernel: int, stride: int, lookahead: int
) -> None:
    block = ResidualConv(6, 4, kernel, stride, lookahead, 0.0)
    frames = noise(2, kernel + 7 * stride, 6)
    convolved = F.relu(F.conv1d(frames.transpose(1, 2), block.conv.weight, block.conv.bias, stride))
    own = frames[:, block.before : block.before + 8 * stride].view(2, 8, stride, 6).mean(dim=2)
    expected = block.norm(convolved.transpose(1, 2) + block.residual(own))
    torch.testing.assert_close(block(frames), expected, rtol=1e-4, atol=1e-5)
    assert block.before + stride + lookahead == kernel


def test_mask_padding_zeroes_padding_even_if_it_is_nan() -> None:
    frames = torch.full((2, 3, 2), torch.nan)
    assert mask_padding(frames, torch.tensor([1, 3])).nan_to_num(7)[:, :, 0].tolist() == [[7, 7, 0], [0, 0, 0]]


@pytest.mark.parametrize("shape", ["dense", "channels last", "a part"])
def test_dropout_drops_the_share_that_it_says_and_scales_the_rest(shape: str) -> None:
    frames = torch.rand(8, 16, 50, 40) + 1
    frames = {
        "dense": frames,
        "channels last": frames.contiguous(memory_format=torch.channels_last),
        "a part": frames[:, 3:, ::2],
    }[shape].requires_grad_()
    rate = 19_661 / 65_536  # what 0.3 is rounded to
    torch.manual_seed(0)
    found = fast_dropout(frames, 0.3)
    kept = found != 0
    spread = (rate * (1 - rate) / kept.numel()) ** 0.5
    assert abs(float(kept.float().mean()) - (1 - rate)) < 4 * spread
    torch.testing.assert_close(found[kept], frames[kept] / (1 - rate))
    found.sum().backward()
    torch.testing.assert_close(frames.grad, kept / (1 - rate))
    torch.manual_seed(0)
    assert torch.equal(fast_dropout(frames, 0.3), found)
    assert not torch.equal(fast_dropout(frames, 0.3), found)


def test_dropout_handles_rates_of_0_and_1_and_is_off_outside_training() -> None:
    frames = torch.rand(4, 5, 6) + 1
    assert torch.equal(fast_dropout(frames, 0.0), frames)
    assert not fast_dropout(frames, 1.0).any()
    assert fast_dropout(frames, 0.999999).isfinite().all()
    layer = FastDropout(0.5)
    assert not torch.equal(layer(frames), frames)
    assert torch.equal(layer.eval()(frames), frames)
