"""The benchmarks: ours and the plain version compute the same, and the scripts run."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import agreement
import encoders
import probes
import pytest
import textbook
import torch
from textbook_networks import network_like

from emgscribe.data.session import open_sessions
from emgscribe.data.windows import Store, Windows
from emgscribe.experiments.recipes import EXPERIMENTS
from emgscribe.models.augment import AlignmentJitter, Augmentation, BandRotation
from emgscribe.models.encoders import EncoderConfig, EnsembleConfig, LookaheadsConfig, TdsConfig
from emgscribe.models.features import FeaturesConfig, SeveralConfig
from emgscribe.models.model import Model, ModelConfig
from emgscribe.simulation.config import SimulationConfig
from emgscribe.simulation.sessions import simulate

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
TINY = ModelConfig(encoder=TdsConfig(mlp_features=24, blocks=2, channels=6, kernel=5, lookahead=3))


@pytest.fixture
def session(make_session: Callable[..., Path]) -> Path:
    return make_session(samples=6000, keys=[(key, 0.3 * n + 0.1) for n, key in enumerate("abcdefghi")])


def ours(session: Path, starts: list[int], model: Model) -> tuple[torch.Tensor, list[list[int]]]:
    store = Store(open_sessions([session], session.parent / "cache"))
    batch = Windows(store, 2000, 2000, *model.context).batch([(0, start) for start in starts])
    return model.featurize(batch), batch.references()


def test_textbook_reads_the_same_features_and_labels(session: Path) -> None:
    starts, model = [0, 1234, 4000], Model(TINY)
    left, right = model.context
    windows = textbook.WindowDataset(session, starts, length=2000, left=left, right=right)
    features, labels, lengths = textbook.collate([windows[n] for n in range(len(windows))])
    expected, references = ours(session, starts, model)
    assert torch.allclose(features, expected, atol=1e-4)
    assert [row[:n] for row, n in zip(labels.tolist(), lengths.tolist(), strict=True)] == references


@pytest.mark.parametrize("training", [True, False])
def test_textbook_network_computes_the_same(session: Path, training: bool) -> None:
    torch.manual_seed(0)
    model = Model(TINY).train(training)
    for parameter in model.parameters():  # no weight may be hidden by its initial value
        parameter.data += 0.1 * torch.randn_like(parameter)
    features, _ = ours(session, [0, 1234, 4000], model)
    network = network_like(model)
    emissions, expected = network.emit(features), model.classify(model.encode(features, torch.full((3,), 2000)))
    assert emissions.shape == expected.shape == (3, 125, 99)
    assert torch.allclose(emissions, expected, atol=1e-4)


def test_textbook_computes_the_same_as_every_measured_encoder() -> None:
    torch.manual_seed(0)
    for name in encoders.CHOSEN:
        model = Model(EXPERIMENTS[name].model).eval()
        for value in model.state_dict().values():  # initially, norms, biases and statistics have no effect
            if value.ndim == 1:
                value += 0.2 * torch.rand_like(value)
        batch = encoders.random_batch(model, 2, 0.25)
        network = network_like(model)
        assert sum(p.numel() for p in network.parameters()) == sum(p.numel() for p in model.parameters()), name
        with torch.inference_mode():
            expected, emissions = model(batch)[0], network(batch.emg)
            assert torch.allclose(network.features(batch.emg), model.featurize(batch), atol=1e-4), name
        assert emissions.shape == expected.shape, name
        assert expected.std() > 0.1, name
        assert torch.allclose(emissions, expected, atol=1e-4), name


def test_every_kind_of_encoder_and_of_features_is_measured() -> None:
    measured = [EXPERIMENTS[name].model for name in encoders.CHOSEN]
    # A linear layer on another encoder's frames is not worth measuring, nor are several networks one after the other.
    expected = set(EncoderConfig.kinds.values()) - {LookaheadsConfig, EnsembleConfig}
    assert set().union(*(encoders.kinds(model.encoder) for model in measured)) == expected
    assert {type(model.features) for model in measured} == set(FeaturesConfig.kinds.values()) - {SeveralConfig}


def test_textbook_augmentation_keeps_what_it_does_not_mask(session: Path) -> None:
    spec_only = Augmentation(BandRotation((0,)), AlignmentJitter(0))
    sizes = {"length": 2000, "left": 0, "right": 0}
    plain, _ = textbook.WindowDataset(session, [1000], **sizes)[0]
    masked, _ = textbook.WindowDataset(session, [1000], **sizes, augmentation=spec_only)[0]
    assert 0 < (masked == 0).float().mean() < 0.5
    assert torch.equal(masked[masked != 0], plain[masked != 0])
    jittered, _ = textbook.WindowDataset(session, [1000], **sizes, augmentation=Augmentation())[0]
    assert len(plain) - 8 <= len(jittered) <= len(plain)


def test_the_committed_results_agree_with_recordings() -> None:
    assert agreement.main() == 0


def test_agreement_fails_where_the_simulator_leads_to_other_conclusions(
    write_result: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_result("ablation/full", texts=[("one", "abcd" * 6, "abcX" * 6)])
    half = write_result("ablation/electrodes-8", texts=[("one", "abcd" * 6, "abcX" * 5 + "abXX")])
    assert agreement.main(str(tmp_path / "results")) == 0  # 1.17, and 1.14 to 1.33 were published
    printed = capsys.readouterr().out
    assert "\n-0.05  8 electrodes a band\n" in f"\n{printed}"
    assert "   no  4 electrodes a band\n" in printed
    assert printed.endswith("Furthest off, by a factor of 1.06: 8 electrodes a band.\n")
    write_result("ablation/electrodes-8", texts=[("one", "abcd" * 6, "abcX" * 2 + "abXX" * 4)])  # 1.67
    assert agreement.main(str(tmp_path / "results")) == 1
    half.unlink()
    assert agreement.main(str(tmp_path / "results")) == 1  # nothing to compare


def test_probes_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    simulate(tmp_path, users=2, sessions=3, minutes=0.4, config=SimulationConfig(units_per_muscle=4))
    probes.main(tmp_path)
    printed = capsys.readouterr().out
    shares = [re.match(r"(.{45}) +([\d.]+) +([\d.]+) ", line) for line in printed.splitlines()]
    found = {each[1].strip(): float(each[2]) for each in shares if each}
    assert {"everything", "250 Hz", "8 electrodes", "left band alone", "other people"} < found.keys()
    assert found["everything"] < found["other people"]  # in per cent of keys
    assert printed.count("median frequency") == 2


@pytest.mark.parametrize(
    "command", [["bench.py"], ["encoders.py", "records/mingru-48"], ["decoding.py", "--seconds", "30"]]
)
def test_benchmark_runs(command: list[str]) -> None:
    quick = [] if command[0] == "decoding.py" else ["--quick"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # two threads wait for each other on a busy machine
    called = [sys.executable, str(BENCHMARKS / command[0]), *command[1:], *quick]
    finished = subprocess.run(called, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert finished.returncode == 0, finished.stderr
    assert "times" in finished.stdout
    assert ("times real time a core, peak" in finished.stdout) == (command[0] == "bench.py")
