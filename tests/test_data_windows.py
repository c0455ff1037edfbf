"""Gathering windows, their labels, tiling and shuffling, batches, and the plain torch Dataset."""

import pickle
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from emgscribe.data.charset import BLANK
from emgscribe.data.session import Session
from emgscribe.data.shape import Shape
from emgscribe.data.windows import Batch, Store, WindowConfig, WindowDataset, Windows
from emgscribe.errors import EmgscribeError

MakeStored = Callable[..., Session]
LENGTHS = st.lists(st.integers(1, 400), min_size=1, max_size=3)


@pytest.fixture
def windows(make_stored: MakeStored) -> Windows:
    """Two sessions of 250 and 90 samples, windows of 100 samples with context 20 and 10."""
    first = make_stored(250, [(3, 0), (1, 99), (4, 100), (1, 199), (5, 249)], seed=1)
    return Windows(Store([first, make_stored(90, [(9, 50)], seed=2)]), 100, 100, 20, 10)


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(-120, 150)), min_size=1, max_size=6), st.integers(1, 130))
def test_gather_is_slicing_with_zeros_outside(
    make_stored: MakeStored, places: list[tuple[int, int]], length: int
) -> None:
    store = Store([make_stored(100, seed=1), make_stored(37, seed=2)])
    gathered = store.gather(places, length)
    assert gathered.shape == (len(places), length, 2, 16)
    for window, (session, start) in zip(gathered.numpy(), places, strict=True):
        padded = np.pad(store.sessions[session].emg, ((300, 300), (0, 0), (0, 0)))
        np.testing.assert_array_equal(window, padded[300 + start : 300 + start + length])
    before = store.sessions[0].emg.copy()
    store.gather([(0, 0)], 50).zero_()  # a copy: changing it does not change the session
    np.testing.assert_array_equal(store.sessions[0].emg, before)


def test_shapes_labels_and_padding(windows: Windows) -> None:
    batch = windows.batch([(0, 0), (0, 100), (0, 200), (1, 0)])
    assert batch.emg.shape == (4, 130, 2, 16)
    assert (batch.left, batch.right, batch.labelled, len(batch)) == (20, 10, 100, 4)
    assert batch.lengths.tolist() == [100, 100, 50, 90]
    assert batch.labels.tolist() == [[3, 1], [4, 1], [5, BLANK], [9, BLANK]]
    assert batch.label_lengths.tolist() == [2, 2, 1, 1]
    assert batch.onsets.tolist() == [[0, 99], [0, 99], [49, -1], [50, -1]]
    assert batch.references() == [[3, 1], [4, 1], [5], [9]]
    silent = windows.batch([(1, 60)])
    assert (silent.labels.tolist(), silent.onsets.tolist(), silent.references()) == ([[BLANK]], [[-1]], [[]])
    assert {batch.labels.dtype, batch.onsets.dtype, batch.lengths.dtype, batch.label_lengths.dtype} == {torch.int64}


def test_context_is_the_neighbouring_emg_or_zeros(windows: Windows) -> None:
    batch = windows.batch([(0, 0), (0, 100), (0, 200)])
    emg = torch.from_numpy(windows.store.sessions[0].emg)
    assert torch.equal(batch.emg[0, :20], torch.zeros(20, 2, 16))  # nothing lies before the session
    assert torch.equal(batch.emg[0, 20:], emg[:110])
    assert torch.equal(batch.emg[1], emg[80:210])  # context is the neighbours' EMG
    assert torch.equal(batch.emg[2, :70], emg[180:])
    assert torch.equal(batch.emg[2, 70:], torch.zeros(60, 2, 16))


@given(LENGTHS, st.integers(1, 150), st.data())
def test_tiling_covers_each_keystroke_exactly_once(
    make_stored: MakeStored, lengths: list[int], length: int, data: st.DataObject
) -> None:
    sessions = []
    for samples in lengths:
        onsets = sorted(data.draw(st.lists(st.integers(0, samples - 1), max_size=8)))
        sessions.append(make_stored(samples, [(i % 98, onset) for i, onset in enumerate(onsets)]))
    windows = Windows(Store(sessions), length, length, 7, 3)
    seen: list[list[tuple[int, int]]] = [[] for _ in sessions]
    covered = [0] * len(sessions)
    places = windows.tiling()
    for first, batch in zip(range(0, len(places), 2), windows.batches(places, 2), strict=True):
        for n, (session, start) in enumerate(places[first : first + 2]):
            covered[session] += int(batch.lengths[n])
            count = int(batch.label_lengths[n])
            onsets = (batch.onsets[n, :count] + start).tolist()
            seen[session] += zip(batch.labels[n, :count].tolist(), onsets, strict=True)
            assert all(0 <= onset < length for onset in batch.onsets[n, :count].tolist())
    assert covered == lengths
    assert seen == [list(zip(s.labels.tolist(), s.onsets.tolist(), strict=True)) for s in sessions]


@given(LENGTHS, st.integers(1, 150), st.integers(1, 150), st.integers(0, 2**31))
def test_shuffled_windows_lie_inside_and_near_their_place(
    make_stored: MakeStored, lengths: list[int], length: int, stride: int, seed: int
) -> None:
    sessions = [make_stored(samples) for samples in lengths]
    places = Windows(Store(sessions), length, stride, 0, 0).shuffled(torch.Generator().manual_seed(seed))
    for session, samples in enumerate(lengths):
        starts = sorted(start for s, start in places if s == session)
        last = max(samples - length, 0)
        assert len(starts) == last // stride + 1  # as many as tile it
        part = (last + 1) / len(starts)
        assert part <= stride
        for n, start in enumerate(starts):
            assert n * part - 1 < start < (n + 1) * part  # anywhere in its own equal part of 0..last


def test_shuffled_is_a_function_of_the_generator_and_fresh_each_epoch(make_stored: MakeStored) -> None:
    windows = Windows(Store([make_stored(5000), make_stored(3000, seed=1)]), 200, 100, 0, 0)
    generator = torch.Generator().manual_seed(4)
    first, second = windows.shuffled(generator), windows.shuffled(generator)
    again = torch.Generator().manual_seed(4)
    assert [windows.shuffled(again), windows.shuffled(again)] == [first, second]
    assert sorted(first) != sorted(second)  # other offsets, not only another order
    assert first != sorted(first)
    offsets = {start % 100 for _, start in first[:40]}
    assert len(offsets) > 20  # each window draws its own


def test_shuffled_favours_no_start(make_stored: MakeStored) -> None:
    windows = Windows(Store([make_stored(30)]), 10, 7, 0, 0)
    generator = torch.Generator().manual_seed(0)
    starts = [start for _ in range(2000) for _, start in windows.shuffled(generator)]
    counts = np.bincount(starts, minlength=21)
    assert counts.shape == (21,)  # 0 to 20, both ends included
    assert counts.min() > 220  # 286 expected of each, standard deviation 16
    assert counts.max() < 350


def test_parts_of_a_batch_cover_it_and_are_weighted_by_size(windows: Windows) -> None:
    places = [(1, 0), (0, 50), (0, 0), (0, 150), (0, 7)]
    for parts in (1, 2, 3):
        of_each = [list(windows.batches(places, 4, part=part, parts=parts)) for part in range(parts)]
        assert [[len(batch) for batch in batches] for batches in of_each] == [
            [len(places[part:4:parts]), max(1, len(places[4 + part :: parts]))] for part in range(parts)
        ]
        for step, whole in enumerate((places[:4], places[4:])):
            for part, batches in enumerate(of_each):
                own = whole[part::parts]
                assert batches[step].share == len(own) * parts / len(whole)
                for emg, place in zip(batches[step].emg, own, strict=bool(own)):
                    assert torch.equal(emg, windows.batch([place]).emg[0])


@given(LENGTHS, st.integers(1, 150), st.integers(1, 5), st.sampled_from([0, 1]))
def test_a_data_loader_gives_the_same_batches(
    make_stored: MakeStored, lengths: list[int], length: int, batch_size: int, seed: int
) -> None:
    sessions = []
    for samples in lengths:
        onsets = sorted(np.random.default_rng([seed, samples]).integers(0, samples, size=9).tolist())
        sessions.append(make_stored(samples, [(i, onset) for i, onset in enumerate(onsets)]))
    dataset = WindowDataset(sessions, WindowConfig(length, length, 7, 3))
    batches = list(DataLoader(dataset, batch_size=batch_size, collate_fn=dataset.collate))
    windows = Windows(Store(sessions), length, length, 7, 3)
    expected = list(windows.batches(windows.tiling(), batch_size))
    assert len(dataset) == len(windows.tiling())
    for batch, other in zip(batches, expected, strict=True):
        assert isinstance(batch, Batch)
        for name, value in vars(other).items():
            assert torch.equal(torch.as_tensor(getattr(batch, name)), torch.as_tensor(value)), name
        assert repr(batch).startswith(f"<Batch of {len(batch)} windows: 7 + {length} + 3 samples, ")
    typed = [label for batch in batches for labels in batch.references() for label in labels]
    assert typed == [label for session in sessions for label in session.labels.tolist()]


def test_a_dataset_shuffles_and_travels_to_workers(make_stored: MakeStored) -> None:
    session = make_stored(100, [(label, 10 * label + 5) for label in range(10)])
    dataset = pickle.loads(pickle.dumps(WindowDataset([session], WindowConfig(10, 10), context=(2, 0))))
    generator = torch.Generator().manual_seed(0)
    loader = DataLoader(dataset, 3, shuffle=True, collate_fn=dataset.collate, generator=generator)
    seen = []
    for batch in loader:
        assert (batch.left, batch.right, batch.emg.shape[1]) == (2, 0, 12)
        for emg, (label,) in zip(batch.emg, batch.references(), strict=True):
            start = 10 * label
            assert torch.equal(emg[2:], torch.from_numpy(session.emg[start : start + 10]))
            seen.append(label)
    assert sorted(seen) == list(range(10)) != seen


def test_windows_of_a_dataset_keep_their_durations_at_another_rate(make_stored: MakeStored) -> None:
    slow = replace(make_stored(1000), shape=Shape(rate=200.0))
    (batch, *others) = (WindowDataset([slow])[place] for place in (0, 1))
    assert (batch.left, batch.labelled, batch.right) == (180, 800, 20)
    assert [len(other.lengths) for other in others] == [1]
    with pytest.raises(EmgscribeError, match="use sessions of one shape together"):
        WindowDataset([slow, make_stored(1000)])


@pytest.mark.parametrize("field", ["length", "stride", "left", "right"])
@pytest.mark.parametrize("value", [10**9, 10**20, -1])
def test_window_settings_out_of_range_are_refused(field: str, value: int) -> None:
    with pytest.raises(EmgscribeError, match=rf"windows\.{field} is {value}, allowed: a whole number"):
        WindowConfig(**{field: value})
