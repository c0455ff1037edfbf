"""Losses by hand, and the learning rate."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from emgscribe.data.charset import BLANK
from emgscribe.data.windows import Batch
from emgscribe.training.config import TrainConfig
from emgscribe.training.losses import ctc_loss, keypress_loss, learning_rate, teacher_loss


@given(st.integers(1, 50), st.integers(1, 40), st.floats(0, 60))
def test_learning_rate_rises_then_falls(epochs: int, steps: int, warmup: float) -> None:
    config = TrainConfig(epochs=epochs, warmup_epochs=warmup)
    total = epochs * steps
    rates = [learning_rate(config, step, total) for step in range(total)]
    peak = min(math.ceil(warmup * steps), total)
    assert all(config.lr_end * (1 - 1e-9) <= rate <= config.lr or rate >= config.lr_start for rate in rates)
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    if peak < total - 1:
        assert rates[-1] == pytest.approx(config.lr_end)


def test_learning_rate_at_published_values() -> None:
    config = TrainConfig()
    assert learning_rate(config, 0, 18000) == 1e-8
    assert learning_rate(config, 1200, 18000) == 1e-3
    assert learning_rate(config, 17999, 18000) == pytest.approx(1e-6)


def batch_of(onsets: list[list[int]], labels: list[list[int]], samples: int = 640) -> Batch:
    emg, lengths = torch.randn(len(labels), samples, 2, 16), torch.full((len(labels),), samples)
    counts = torch.tensor([sum(label != BLANK for label in row) for row in labels])
    return Batch(emg, 0, 0, lengths, torch.tensor(labels), counts, torch.tensor(onsets))


def test_keypress_loss_matches_one_computed_by_hand() -> None:
    """The second item has 6 frames; the others lie beyond the end of its session."""
    batch = batch_of([[0, 130], [300, -1]], [[5, 7], [9, BLANK]])
    emissions = torch.randn(2, 10, 99).log_softmax(-1)
    pressed = -(emissions[0, 0, 5] + emissions[0, 2, 7] + emissions[1, 4, 9]) / 3
    others = [(0, frame) for frame in range(10) if frame not in (0, 2)] + [(1, frame) for frame in (0, 1, 2, 3, 5)]
    by_hand = pressed - sum(emissions[item, frame, BLANK] for item, frame in others) / len(others)
    torch.testing.assert_close(keypress_loss(emissions, torch.tensor([10, 6]), batch, 64), by_hand)


def test_ctc_loss_sums_all_alignments() -> None:
    batch = batch_of([[0]], [[5]], samples=128)
    emissions = torch.randn(1, 2, 99).log_softmax(-1)
    paths = [(5, 5), (5, BLANK), (BLANK, 5)]
    by_hand = -torch.stack([emissions[0, 0, a] + emissions[0, 1, b] for a, b in paths]).logsumexp(0)
    torch.testing.assert_close(ctc_loss(emissions, torch.tensor([2]), batch), by_hand)


def test_teacher_loss_is_the_divergence_per_label_over_all_frames_but_padding() -> None:
    """The second item has one label, and 6 frames."""
    batch, lengths = batch_of([[0, 130], [300, -1]], [[5, 7], [9, BLANK]]), torch.tensor([10, 6])
    emissions, taught = torch.randn(2, 2, 10, 99).log_softmax(-1)
    apart = F.kl_div(emissions, taught, reduction="none", log_target=True).sum(-1)
    by_hand = (apart[0].sum() / 2 + apart[1, :6].sum()) / 2
    torch.testing.assert_close(teacher_loss(emissions, taught, lengths, batch), by_hand)
    assert teacher_loss(taught, taught, lengths, batch) == 0
