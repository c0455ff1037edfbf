"""The benchmark compares ours with a plain version: that it computes the same, and that the runner runs."""

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from emgscribe.augment import AlignmentJitter, Augmentation, BandRotation
from emgscribe.encoders import TdsConfig
from emgscribe.model import Model, ModelConfig
from emgscribe.session import Keystroke, SessionHeader, write_session
from emgscribe.store import Store, open_sessions
from emgscribe.windows import Windows

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
TINY = ModelConfig(encoder=TdsConfig(mlp_features=24, blocks=2, channels=6, kernel=5, lookahead=3))


@pytest.fixture
def textbook(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return import_module("textbook")


@pytest.fixture
def session(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    times = 1e9 + np.arange(6000) / 2000
    keys = tuple(Keystroke(key, 1e9 + 0.3 * n + 0.1, 1e9 + 0.3 * n + 0.2) for n, key in enumerate("abcdefghi"))
    header = SessionHeader("s", "u", "on_keyboard", 0.05, keys, ())
    write_session(tmp_path / "s.hdf5", header, times, random.normal(size=(6000, 2, 16)).astype(np.float32))
    return tmp_path / "s.hdf5"


def ours(session: Path, starts: list[int], model: Model) -> tuple[torch.Tensor, list[list[int]]]:
    store = Store(open_sessions([session], session.parent / "cache"))
    batch = Windows(store, 2000, 2000, *model.context).batch([(0, start) for start in starts])
    return model.featurize(batch), batch.references()


def test_textbook_reads_the_same_features_and_labels(textbook: ModuleType, session: Path) -> None:
    starts, model = [0, 1234, 4000], Model(TINY)
    left, right = model.context
    windows = textbook.WindowDataset(session, starts, length=2000, left=left, right=right)
    features, labels, lengths = textbook.collate([windows[n] for n in range(len(windows))])
    expected, references = ours(session, starts, model)
    assert torch.allclose(features, expected, atol=1e-4)
    assert [row[:n] for row, n in zip(labels.tolist(), lengths.tolist(), strict=True)] == references


@pytest.mark.parametrize("training", [True, False])
def test_textbook_network_computes_the_same(textbook: ModuleType, session: Path, training: bool) -> None:
    torch.manual_seed(0)
    model = Model(TINY).train(training)
    for parameter in model.parameters():  # no weight may be hidden by its initial value
        parameter.data += 0.1 * torch.randn_like(parameter)
    features, _ = ours(session, [0, 1234, 4000], model)
    network = textbook.network_like(model)
    assert sum(p.numel() for p in network.parameters()) == sum(p.numel() for p in model.parameters())
    emissions, expected = network(features), model.emit(features, torch.full((3,), 2000))
    assert emissions.shape == expected.shape == (3, 125, 99)
    assert torch.allclose(emissions, expected, atol=1e-4)


def test_textbook_augmentation_keeps_what_it_does_not_mask(textbook: ModuleType, session: Path) -> None:
    spec_only = Augmentation(BandRotation((0,)), AlignmentJitter(0))
    sizes = {"length": 2000, "left": 0, "right": 0}
    plain, _ = textbook.WindowDataset(session, [1000], **sizes)[0]
    masked, _ = textbook.WindowDataset(session, [1000], **sizes, augmentation=spec_only)[0]
    assert 0 < (masked == 0).float().mean() < 0.5
    assert torch.equal(masked[masked != 0], plain[masked != 0])
    jittered, _ = textbook.WindowDataset(session, [1000], **sizes, augmentation=Augmentation())[0]
    assert len(plain) - 8 <= len(jittered) <= len(plain)


@pytest.mark.parametrize(("name", "measured"), [("bench.py", "training step"), ("decoding.py", "beam search")])
def test_benchmark_runs(tmp_path: Path, name: str, measured: str) -> None:
    command = [sys.executable, str(BENCHMARKS / name), "--quick", "--out", str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # two threads wait for each other on a busy machine
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
    assert finished.returncode == 0, finished.stderr
    (path,) = tmp_path.glob("*.json")
    content = json.loads(path.read_text())
    assert {"cpu", "cores", "threads", "torch", "gpu", "date", "commit"} <= set(content["machine"])
    assert all(bar["verdict"] in ("met", "not met", "not applicable") for bar in content["bars"])
    assert all(min(values) > 0 for row in content["measurements"] for values in row["values"].values())
    assert measured in finished.stdout
