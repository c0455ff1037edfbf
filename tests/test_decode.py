from itertools import groupby

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from emgscribe.data.charset import BLANK, NUM_CLASSES
from emgscribe.decoding.greedy import (
    Decoder,
    Emissions,
    GreedyDecoder,
    Hypothesis,
    check_emissions,
    decode,
    decode_batch,
)
from emgscribe.errors import EmgscribeError

PATHS = st.lists(st.sampled_from([BLANK, BLANK, 0, 1, 2, 97]), max_size=40)


def emissions_of(path: list[int], seed: int = 0) -> Emissions:
    """Log-probabilities (F, 99) whose best class in each frame is `path`."""
    scores = np.random.default_rng(seed).normal(size=(len(path), NUM_CLASSES)).astype(np.float32)
    scores[np.arange(len(path)), path] = 8
    return scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))


def collapsed(path: list[int]) -> list[tuple[int, int]]:
    """(label, first frame) of each run of one class that is no blank."""
    runs, frame = [], 0
    for label, run in groupby(path):
        if label != BLANK:
            runs.append((label, frame))
        frame += len(list(run))
    return runs


@given(PATHS)
def test_greedy_merges_repeats_and_drops_blanks(path: list[int]) -> None:
    hypothesis = decode(GreedyDecoder(), emissions_of(path))
    assert list(zip(hypothesis.labels, hypothesis.frames, strict=True)) == collapsed(path)


def test_a_blank_between_repeats_keeps_both() -> None:
    hypothesis = decode(GreedyDecoder(), emissions_of([7, 7, BLANK, 7, 8, 8, BLANK, BLANK, 33]))
    assert hypothesis.text == "hhiH"
    assert hypothesis.frames == (0, 3, 4, 8)


@given(PATHS, st.lists(st.integers(0, 12), max_size=12))
def test_any_chunking_gives_the_same(path: list[int], sizes: list[int]) -> None:
    emissions = emissions_of(path)
    whole = decode(GreedyDecoder(), emissions)
    decoder = GreedyDecoder()
    start = 0
    for size in [*sizes, len(path)]:  # sizes of 0 are empty chunks
        part = decoder.feed(emissions[start : start + size])
        start += size
        assert list(zip(part.labels, part.frames, strict=True)) == collapsed(path[:start])
    assert decoder.flush() == whole
    assert decoder.flush() == whole


def test_reset_forgets() -> None:
    decoder: Decoder = GreedyDecoder()
    decoder.feed(emissions_of([3, 4]))
    decoder.reset()
    assert decoder.flush() == Hypothesis()
    assert decoder.feed(emissions_of([4])) == Hypothesis((4,), (0,))  # the 4 before the reset is not repeated
    assert decode(decoder, emissions_of([5])) == Hypothesis((5,), (0,))


def test_a_hypothesis_does_not_change_when_more_is_fed() -> None:
    decoder = GreedyDecoder()
    first = decoder.feed(emissions_of([1]))
    decoder.feed(emissions_of([2]))
    assert first == Hypothesis((1,), (0,))


@pytest.mark.parametrize("shape", [(5, 98), (5, 100), (99,), (1, 5, 99), (0, 98)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(EmgscribeError, match="expected \\(frames, 99\\)") as caught:
        GreedyDecoder().feed(np.zeros(shape, np.float32))
    assert str(shape) in caught.value.what
    assert caught.value.hint


def test_nan_is_refused_and_the_frame_named() -> None:
    emissions = emissions_of([1, 2, 3, 4])
    emissions[2:, 50] = np.nan
    with pytest.raises(EmgscribeError, match="NaN from frame 2 on"):
        GreedyDecoder().feed(emissions)


def test_impossible_classes_are_no_fault() -> None:
    emissions = np.full((4, NUM_CLASSES), -np.inf, np.float32)
    emissions[range(4), [1, 1, BLANK, 2]] = 0
    check_emissions(emissions)
    assert decode(GreedyDecoder(), emissions) == Hypothesis((1, 2), (0, 3))


def test_a_batch_is_decoded_item_by_item_over_its_own_frames() -> None:
    paths = [[1, 1, BLANK, 2], [2, 3, 3, 3], [5, 5, 5, 5]]
    emissions = torch.from_numpy(np.stack([emissions_of(path) for path in paths])).requires_grad_()
    hypotheses = decode_batch(GreedyDecoder(), emissions.bfloat16(), torch.tensor([4, 2, 0]))
    assert [h.labels for h in hypotheses] == [(1, 2), (2, 3), ()]
    assert [h.frames for h in hypotheses] == [(0, 3), (0, 1), ()]
