"""What holds for every decoder, greedy decoding, and decoders by name."""

import re
from collections.abc import Callable
from itertools import groupby

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from emgscribe.data.charset import BLANK, NUM_CLASSES
from emgscribe.decoding.beam import BeamConfig, BeamDecoder
from emgscribe.decoding.decoder import Decoder, Emissions, Hypothesis, decode_batch
from emgscribe.decoding.greedy import GreedyDecoder
from emgscribe.decoding.language_model import train
from emgscribe.errors import EmgscribeError

PATHS = st.lists(st.sampled_from([BLANK, BLANK, 0, 1, 2, 97]), max_size=40)
TEXT = "abba baba ab cab bac abacab 42 ab\n" * 3
DECODERS: dict[str, Callable[[], Decoder]] = {
    "greedy": GreedyDecoder,
    "beam": BeamDecoder,
    "beam within words": lambda: BeamDecoder(BeamConfig(8), train(TEXT, order=4)),
    "beam across words": lambda: BeamDecoder(BeamConfig(8), train(TEXT, order=4, across=True)),
    "beam, reference": lambda: BeamDecoder(BeamConfig(8, convention="reference"), train(TEXT, order=4)),
}
each_decoder = pytest.mark.parametrize("make", DECODERS.values(), ids=list(DECODERS))


def emissions_of(path: list[int], seed: int = 0, impossible: float = 0.0) -> Emissions:
    """Log-probabilities (F, 99) whose best class in each frame is `path`; a share of the others is minus infinity."""
    random = np.random.default_rng(seed)
    scores = random.normal(size=(len(path), NUM_CLASSES)).astype(np.float32)
    scores[random.random(scores.shape) < impossible] = -np.inf
    scores[np.arange(len(path)), path] = 8
    return scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))


def test_a_decoder_without_all_of_its_methods_cannot_be_made() -> None:
    class Unfinished(Decoder):
        def reset(self) -> None: ...

        def feed(self, log_probs: Emissions) -> Hypothesis:
            return Hypothesis()

    with pytest.raises(TypeError, match="flush"):
        Unfinished()  # type: ignore[abstract]


@each_decoder
@given(PATHS, st.lists(st.integers(0, 12), max_size=12), st.sampled_from([0.0, 0.97]))
def test_any_chunking_gives_the_same_hypothesis(
    make: Callable[[], Decoder], path: list[int], sizes: list[int], impossible: float
) -> None:
    emissions = emissions_of(path, impossible=impossible)
    decoder = make()
    whole = decoder.decode(emissions)
    decoder.reset()
    start = 0
    for size in [*sizes, len(path)]:  # sizes of 0 are empty chunks
        decoder.feed(emissions[start : start + size])
        start += size
    assert decoder.flush() == whole == decoder.flush()


@each_decoder
def test_reset_forgets(make: Callable[[], Decoder]) -> None:
    decoder = make()
    assert decoder.flush() == Hypothesis()
    first = decoder.feed(emissions_of([3, 4]))
    decoder.feed(emissions_of([5]))
    assert first == Hypothesis((3, 4), (0, 1))  # more frames do not change what was returned
    decoder.reset()
    assert decoder.flush() == Hypothesis()
    assert decoder.feed(emissions_of([5])) == Hypothesis((5,), (0,))  # the 5 before the reset is not repeated
    assert decoder.decode(emissions_of([4])) == Hypothesis((4,), (0,))


@each_decoder
@pytest.mark.parametrize("shape", [(5, 98), (5, 100), (99,), (1, 5, 99), (0, 98)])
def test_other_shapes_and_nan_are_refused(make: Callable[[], Decoder], shape: tuple[int, ...]) -> None:
    what = re.escape(f"emissions have shape {shape}, expected (frames, 99)")
    with pytest.raises(EmgscribeError, match=what) as caught:
        make().feed(np.zeros(shape, np.float32))
    assert caught.value.hint
    emissions = emissions_of([1, 2, 3, 4])
    emissions[2:, 50] = np.nan
    with pytest.raises(EmgscribeError, match="NaN from frame 2 on"):
        make().feed(emissions)


@given(PATHS)
def test_greedy_merges_repeats_and_drops_blanks(path: list[int]) -> None:
    hypothesis = GreedyDecoder().decode(emissions_of(path))
    runs = [next(run) for _, run in groupby(enumerate(path), key=lambda place: place[1])]  # the first frame of each
    assert list(zip(hypothesis.frames, hypothesis.labels, strict=True)) == [run for run in runs if run[1] != BLANK]


def test_a_blank_between_repeats_keeps_both_and_impossible_classes_do_no_harm() -> None:
    path = [7, 7, BLANK, 7, 8, 8, BLANK, BLANK, 33]
    for impossible in (0.0, 1.0):
        hypothesis = GreedyDecoder().decode(emissions_of(path, impossible=impossible))
        assert (hypothesis.text, hypothesis.frames) == ("hhiH", (0, 3, 4, 8))
        assert repr(hypothesis) == "<Hypothesis of 4 keys: 'hhiH'>"


def test_a_batch_is_decoded_item_by_item_over_its_own_frames() -> None:
    paths = [[1, 1, BLANK, 2], [2, 3, 3, 3], [5, 5, 5, 5]]
    emissions = torch.from_numpy(np.stack([emissions_of(path) for path in paths])).requires_grad_()
    hypotheses = decode_batch(GreedyDecoder(), emissions.bfloat16(), torch.tensor([4, 2, 0]))
    assert [h.labels for h in hypotheses] == [(1, 2), (2, 3), ()]
    assert [h.frames for h in hypotheses] == [(0, 3), (0, 1), ()]
