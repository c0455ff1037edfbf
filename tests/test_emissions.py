"""Emissions in the cache: computed once, exact, rebuilt when damaged, bounded."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from emgscribe import evaluate as evaluation
from emgscribe.charset import BLANK, NUM_CLASSES
from emgscribe.decode import Emissions, GreedyDecoder
from emgscribe.emissions import kept_emissions, model_hash
from emgscribe.encoders import TdsConfig
from emgscribe.errors import EmgscribeError
from emgscribe.evaluate import evaluate, read, session_emissions, stored_emissions
from emgscribe.model import Model, ModelConfig, load_model, save_model
from emgscribe.store import StoredSession

MakeStored = Callable[..., StoredSession]
RANDOM = np.random.default_rng(0).normal(size=(7, NUM_CLASSES)).astype(np.float32)


def never() -> Iterator[Emissions]:
    raise AssertionError("the network ran again")
    yield


@pytest.fixture
def model() -> Model:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Model(
            ModelConfig(encoder=TdsConfig(mlp_features=24, blocks=1, channels=4, kernel=4, lookahead=2))
        ).eval()


def only_entry(cache: Path) -> Path:
    (path,) = cache.iterdir()
    return path


def test_what_was_computed_is_read_again_to_the_last_bit(isolated_cache: Path) -> None:
    blocks = [RANDOM[:3], RANDOM[3:3], RANDOM[3:]]
    np.testing.assert_array_equal(kept_emissions("key", 7, iter(blocks)), RANDOM)
    again = kept_emissions("key", 7, never())
    np.testing.assert_array_equal(again, RANDOM)
    again[:] = 0  # a copy of the page, never the file
    np.testing.assert_array_equal(kept_emissions("key", 7, never()), RANDOM)
    np.testing.assert_array_equal(kept_emissions("other", 7, [-RANDOM]), -RANDOM)
    assert len(list(isolated_cache.iterdir())) == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-40]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"something else"),
        lambda path: np.save(path, RANDOM[:6]),
        lambda path: np.save(path, RANDOM.astype(np.float64)),
    ],
    ids=["cut", "empty", "foreign", "shape", "type"],
)
def test_a_damaged_entry_is_computed_anew(damage: Callable[[Path], None], isolated_cache: Path) -> None:
    kept_emissions("key", 7, [RANDOM])
    damage(only_entry(isolated_cache))
    np.testing.assert_array_equal(kept_emissions("key", 7, [RANDOM]), RANDOM)
    np.testing.assert_array_equal(kept_emissions("key", 7, never()), RANDOM)


def test_the_entries_used_longest_ago_go_first(isolated_cache: Path) -> None:
    size = RANDOM.nbytes + 128
    (isolated_cache / "0123456789ab-session").mkdir(parents=True)
    for age, key in enumerate(("old", "middle", "young")):
        before = set(isolated_cache.iterdir())
        kept_emissions(key, 7, [RANDOM])
        (path,) = set(isolated_cache.iterdir()) - before
        os.utime(path, (1e9 + age, 1e9 + age))
    kept_emissions("old", 7, never())  # used just now
    kept_emissions("new", 7, [RANDOM], most=3 * size)
    assert len(list(isolated_cache.iterdir())) == 4
    for key in ("old", "young", "new"):
        kept_emissions(key, 7, never())
    with pytest.raises(AssertionError):
        kept_emissions("middle", 7, never())
    kept_emissions("last", 7, [RANDOM], most=1)
    assert len(list(isolated_cache.glob("*.npy"))) == 1
    kept_emissions("last", 7, never())
    assert (isolated_cache / "0123456789ab-session").is_dir()


def test_a_full_disk_and_unreadable_emissions_leave_nothing(isolated_cache: Path) -> None:
    def full() -> Iterator[Emissions]:
        yield RANDOM[:3]
        raise OSError(errno.ENOSPC, "No space left on device")

    def not_a_number() -> Iterator[Emissions]:
        yield RANDOM[:3]
        yield np.full((4, NUM_CLASSES), np.nan, np.float32)

    for blocks, told in (
        (full(), "cannot be written .No space left on device"),
        (not_a_number(), "emissions are NaN"),
        ([RANDOM[:, :50]], "shape"),
    ):
        with pytest.raises(EmgscribeError, match=told):
            kept_emissions("key", 7, blocks)
        assert list(isolated_cache.iterdir()) == []
    np.testing.assert_array_equal(kept_emissions("key", 7, [RANDOM]), RANDOM)


def test_the_hash_is_of_network_and_weights(model: Model, tmp_path: Path) -> None:
    first = model_hash(model)
    save_model(model, tmp_path / "model")
    assert model_hash(load_model(tmp_path / "model")) == first
    with torch.no_grad():
        model.head.bias[BLANK] += 1e-3
    assert model_hash(model) != first


def test_decoders_share_one_run_of_the_network(
    model: Model, make_stored: MakeStored, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = make_stored(9_000, [(1, 500), (2, 4000)])
    fractions: list[float] = []
    first = evaluate(model, [session], GreedyDecoder(), block_seconds=2, progress=fractions.append)
    assert fractions == sorted(fractions)
    assert len(fractions) == 3
    assert fractions[-1] == 1
    computed = np.concatenate(list(session_emissions(model, session, 2)))
    monkeypatch.setattr(evaluation, "_emissions", lambda *_: never())
    assert evaluate(model, [session], GreedyDecoder(), block_seconds=2) == first
    np.testing.assert_array_equal(stored_emissions(model, session, block_seconds=2), computed)
    for other in (make_stored(9_000, seed=1), session.first(8_000)):
        with pytest.raises(AssertionError, match="ran again"):
            read(model, other, GreedyDecoder(), block_seconds=2)
    with torch.no_grad():
        model.head.bias[BLANK] += 1
    with pytest.raises(AssertionError, match="ran again"):
        read(model, session, GreedyDecoder(), block_seconds=2)
