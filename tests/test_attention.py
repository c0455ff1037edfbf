"""The attention decoder: what a prefix may see, the search, and that it can be learnt beside CTC."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from networks import FEATURES, TDS, batch_for, memorize, noise, seeded
from torch import Tensor
from torch.nn import functional as F

from emgscribe.data.windows import Batch
from emgscribe.models.attention import END, AttentionConfig, AttentionDecoder, CtcPrefixes, search
from emgscribe.models.model import Model, ModelConfig
from emgscribe.training.losses import attention_loss, ctc_loss

CONFIG = AttentionConfig(layers=2, width=16, heads=2, feed_forward=32, dropout=0.1)
WIDTH = 12  # of the frames


def decoder(seed: int = 0) -> AttentionDecoder:
    """An untrained decoder in evaluation mode whose predictions differ much from place to place."""
    torch.manual_seed(seed)
    made = AttentionDecoder(CONFIG, WIDTH).eval()
    torch.nn.init.normal_(made.head.weight, std=0.5)
    return made


def keys(*shape: int) -> Tensor:
    return torch.randint(0, END, shape, generator=seeded())


def likely(made: AttentionDecoder, frames: Tensor, counts: list[int], labels: Tensor) -> Tensor:
    with torch.no_grad():
        return made(frames, torch.tensor(counts), labels)


def test_one_distribution_for_every_prefix() -> None:
    for length in (0, 1, 7):
        found = likely(decoder(), noise(3, 9, WIDTH), [9, 9, 9], keys(3, length))
        assert found.shape == (3, length + 1, 99)
        torch.testing.assert_close(found.exp().sum(-1), torch.ones(3, length + 1))


def test_a_later_key_does_not_change_an_earlier_prediction() -> None:
    made, frames, labels = decoder(), noise(2, 9, WIDTH), keys(2, 8)
    before = likely(made, frames, [9, 9], labels)
    labels[:, 5] = (labels[:, 5] + 1) % END
    moved = (likely(made, frames, [9, 9], labels) - before).abs().amax(dim=(0, 2))
    assert moved[:6].max() < 1e-5
    assert moved[6:].min() > 1e-3  # while those that follow the key all depend on it


def test_order_matters_in_the_text_and_in_the_frames() -> None:
    made, frames, labels = decoder(), noise(1, 9, WIDTH), keys(1, 6)
    last = likely(made, frames, [9], labels)[0, -1]
    swapped = labels[:, [1, 0, 2, 3, 4, 5]]
    assert (likely(made, frames, [9], swapped)[0, -1] - last).abs().max() > 1e-3
    assert (likely(made, frames.flip(1), [9], labels)[0, -1] - last).abs().max() > 1e-3


def test_neither_padding_nor_other_items_change_an_item() -> None:
    made, counts, lengths = decoder(), [9, 4, 1], [6, 0, 3]
    frames, labels = noise(3, 9, WIDTH), keys(3, 6)
    together = likely(made, frames, counts, labels)
    for item, (count, length) in enumerate(zip(counts, lengths, strict=True)):
        alone = likely(made, frames[item : item + 1, :count], [count], labels[item : item + 1, :length])
        torch.testing.assert_close(together[item, : length + 1], alone[0], rtol=1e-4, atol=1e-4)
        frames[item, count:], labels[item, length:] = torch.nan, END
    again = likely(made, frames, counts, labels)
    for item, length in enumerate(lengths):
        torch.testing.assert_close(again[item, : length + 1], together[item, : length + 1], rtol=1e-4, atol=1e-4)
    made.head.bias.data[END] -= 2  # else there is next to no text to compare
    emissions = noise(3, 9, 99).log_softmax(-1)
    texts = search(made, frames, torch.tensor(counts), emissions)
    assert len(texts[0]) > 1
    for item, count in enumerate(counts):
        own = slice(item, item + 1), slice(count)
        assert search(made, frames[own], torch.tensor([count]), emissions[own]) == [texts[item]]


def plain_search(made: AttentionDecoder, frames: Tensor, beam_size: int) -> list[int]:
    """The same search over frames (1, F, WIDTH), which reads every text from its beginning at each step."""
    limit = frames.shape[1]
    beams: list[tuple[float, list[int], bool]] = [(0.0, [], False)]
    while not beams[0][2]:
        found = [beam for beam in beams if beam[2]]
        for score, text, ended in beams:
            if not ended:
                row = likely(made, frames, [limit], torch.tensor([text], dtype=torch.int64))[0, -1].tolist()
                found.append((score + row[END], text, True))
                if len(text) < limit:
                    found += [(score + row[symbol], [*text, symbol], False) for symbol in range(END)]
        beams = sorted(found, key=lambda beam: -beam[0])[:beam_size]
    return beams[0][1]


@pytest.mark.parametrize("beam_size", [1, 3])
def test_the_search_finds_what_a_plain_search_finds(beam_size: int) -> None:
    made, frames, counts = decoder(), noise(6, 7, WIDTH), [7, 7, 7, 7, 7, 3]
    made.head.bias.data[END] -= 1.5  # so that some end early, and others where they must
    found = search(made, frames, torch.tensor(counts), beam_size=beam_size)
    assert found == [plain_search(made, frames[n : n + 1, :count], beam_size) for n, count in enumerate(counts)]
    assert len({len(text) for text in found}) > 1


@pytest.mark.parametrize("weight", [0.0, 0.4])
def test_a_wide_beam_finds_the_likeliest_of_all_texts(weight: float) -> None:
    made, frames, counts = decoder(seed=11), noise(1, 2, WIDTH), torch.tensor([2])  # texts of two keys at most
    emissions = noise(1, 2, 99, seed=1).log_softmax(-1)
    pairs = torch.tensor(list(itertools.product(range(END), repeat=2)))
    rows = likely(made, frames.expand(len(pairs), -1, -1), [2] * len(pairs), pairs)
    first, second = (rows[:, place].gather(1, pairs[:, place, None])[:, 0] for place in (0, 1))
    scores = {(): rows[0, 0, END].item()}
    for pair, one, two, end in zip(pairs.tolist(), first, second, rows[..., END], strict=True):
        scores |= {(pair[0],): (one + end[1]).item(), tuple(pair): (one + two + end[2]).item()}
    if weight:
        scores = {text: (1 - weight) * score + weight * by_ctc(emissions[0], text) for text, score in scores.items()}
    best = max(scores, key=lambda text: scores[text])
    assert best  # of an untrained decoder the empty text may well be the likeliest
    by_both = emissions if weight else None
    assert search(made, frames, counts, by_both, beam_size=(END + 1) ** 2, ctc_weight=weight) == [list(best)]
    assert search(made, frames, counts, beam_size=1) != [list(best)]  # else there would be nothing to find


def by_ctc(emissions: Tensor, text: Sequence[int]) -> float:
    """Log-probability of exactly this text, from emissions (F, V)."""
    lengths = torch.tensor([len(emissions)]), torch.tensor([len(text)])
    return -F.ctc_loss(emissions[:, None], torch.tensor([text], dtype=torch.int64), *lengths, 98, "sum").item()


def test_prefix_scores_agree_with_the_ctc_loss() -> None:
    emissions, counts = noise(2, 6, 99).log_softmax(-1), torch.tensor([6, 4])
    emissions[1, 4:] = torch.nan
    ctc = CtcPrefixes(emissions, counts, 2)
    ends, texts = torch.full((2, 2), END), [[[], []], [[], []]]
    for symbols in ([[5, 5], [7, 8]], [[5, 6], [8, 7]], [[6, 5], [7, 7]]):
        found = ctc.extended(ends)
        for item, beam in itertools.product(range(2), range(2)):
            whole = by_ctc(emissions[item, : counts[item]], texts[item][beam])
            assert found[item, beam, END].item() == pytest.approx(whole, abs=1e-4)
        swapped, symbol = torch.tensor([[1, 0], [1, 0]]), torch.tensor(symbols)
        with_it = found.gather(1, swapped[..., None].expand_as(found)).gather(2, symbol[..., None])[..., 0]
        ctc.extend(ends, swapped, symbol)
        ends = symbol
        texts = [[[*texts[n][1 - b], symbols[n][b]] for b in range(2)] for n in range(2)]
        # A text that begins with a prefix is the prefix itself, or the prefix and a further key.
        torch.testing.assert_close(ctc.extended(ends).logsumexp(-1), with_it)


@pytest.mark.parametrize("beam_size", [1, 3])
def test_a_text_has_at_most_as_many_keys_as_frames(beam_size: int) -> None:
    made, frames, counts = decoder(), noise(3, 9, WIDTH), torch.tensor([9, 4, 1])
    made.head.bias.data[END] = -1e4  # never by itself
    assert [len(text) for text in search(made, frames, counts, beam_size=beam_size)] == [9, 4, 1]
    made.head.bias.data[END] = 1e4  # at once
    assert search(made, frames, counts, beam_size=beam_size) == [[], [], []]


def network(**changes: Any) -> Model:
    torch.manual_seed(0)
    return Model(ModelConfig(FEATURES, TDS, replace(CONFIG, **changes)))


def encoded(model: Model, batch: Batch) -> Tensor:
    return model.encode(model.featurize(batch), batch.lengths)


def loss_of(model: Model, batch: Batch, smoothing: float = 0.0) -> Tensor:
    """The loss of the attention decoder's predictions."""
    assert model.attention is not None
    likely = model.attention(encoded(model, batch), model.frames(batch.lengths), batch.labels)
    return attention_loss(likely, batch, smoothing)


def test_the_loss_matches_one_computed_by_hand() -> None:
    model = network().eval()
    batch = batch_for(model, [12, 9], [[5, 7, 7], []])
    frames = encoded(model, batch)
    rows = model.attention(frames, torch.tensor([12, 9]), batch.labels)
    targets = [rows[0, 0, 5], rows[0, 1, 7], rows[0, 2, 7], rows[0, 3, END], rows[1, 0, END]]  # an empty text ends
    torch.testing.assert_close(loss_of(model, batch), -torch.stack(targets).mean())
    used = torch.cat([rows[0], rows[1, :1]])
    smooth = -0.8 * torch.stack(targets).mean() - 0.2 * used.mean()
    torch.testing.assert_close(loss_of(model, batch, 0.2), smooth)
    silent = batch_for(model, [9], [[]])
    assert loss_of(model, silent).isfinite()


def test_gradients_reach_every_parameter() -> None:
    model = network().train()
    batch = batch_for(model, [24, 20], [[1, 2, 3], [4, 5]])
    (ctc_loss(*model(batch), batch) + loss_of(model, batch)).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    model.zero_grad()
    loss_of(model, batch).backward()
    idle = {name for name, p in model.named_parameters() if p.grad is None}
    assert idle == {"head.weight", "head.bias"}  # the encoder learns from both


def test_an_attention_decoder_does_not_change_the_ctc_head() -> None:
    with_head, without = network().eval(), network(layers=0).eval()
    assert without.attention is None
    batch = batch_for(with_head, [12], [[5]])
    with torch.inference_mode():
        assert torch.equal(with_head(batch)[0], without(batch)[0])
        assert torch.equal(with_head.classify(encoded(with_head, batch)), with_head(batch)[0])


def test_bfloat16_predictions_stay_close_to_float32() -> None:
    made, frames, labels = decoder(), noise(2, 9, WIDTH), keys(2, 7)
    exact = likely(made, frames, [9, 5], labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        close = likely(made, frames, [9, 5], labels)
    assert close.dtype == torch.float32
    assert (close - exact).abs().max() < 0.1 * exact.std() + 0.02


def test_the_attention_decoder_memorizes_two_windows() -> None:
    torch.manual_seed(0)
    model = network(dropout=0.0)

    def read(frames: Tensor, counts: Tensor) -> list[list[int]]:
        greedy, beam = (search(model.attention, frames, counts, beam_size=size) for size in (1, 4))
        return greedy if greedy == beam else []

    memorize(model, batch_for(model, [24, 20], [[97, 67, 96, 24, 24, 45], [65]]), read)
