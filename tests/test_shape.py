"""Recordings of other shapes than the data set's: one band, other electrodes, another sampling rate."""

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from conftest import START
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from emgscribe.data.hdf5 import Keystroke, SessionFile, SessionHeader, write_session
from emgscribe.data.inspect import inspect
from emgscribe.data.session import Session, open_session
from emgscribe.data.shape import Shape
from emgscribe.data.splits import split_sessions
from emgscribe.data.windows import WindowConfig, shape_of
from emgscribe.errors import EmgscribeError
from emgscribe.evaluation import evaluate
from emgscribe.experiments.recipes import DEMO, EXPERIMENTS
from emgscribe.experiments.run import run_experiment
from emgscribe.models.encoders import MlpConfig, TdsConfig
from emgscribe.models.features import SpectrogramConfig, StridedConvConfig
from emgscribe.models.model import Model, ModelConfig, load_model, save_model
from emgscribe.simulation.config import SimulationConfig
from emgscribe.simulation.sessions import simulate, simulate_session
from emgscribe.transcription import published_blocks

ARMBAND = Shape(("left",), 8, 200.0)
SHAPES = [ARMBAND, Shape(("right",), 1, 1000.0), Shape(electrodes=12, rate=2048.0)]
SMALL = replace(
    DEMO,
    model=ModelConfig(DEMO.model.features, MlpConfig(8)),
    windows=WindowConfig(2000, 2000, 0, 0),
    train=replace(DEMO.train, epochs=1),
)


def written(path: Path, shape: Shape, seconds: float = 2.0) -> np.ndarray:
    """Write a session of noise with two keys; returns its EMG."""
    count = shape.samples(seconds)
    emg = np.random.default_rng(0).normal(size=(count, len(shape.bands), shape.electrodes)).astype(np.float32)
    keys = tuple(Keystroke(key, START + at, START + at + 0.1) for key, at in (("h", 0.5), ("i", 1.0)))
    header = SessionHeader(path.stem, "user", "on_keyboard", seconds / 60, keys, ())
    write_session(path, header, START + np.arange(count) / shape.rate, emg, shape)
    return emg


@pytest.mark.parametrize("shape", [Shape(), *SHAPES])
@pytest.mark.parametrize("layout", [{}, {"chunks": (50,), "compression": "gzip"}])
def test_a_session_keeps_its_shape(shape: Shape, layout: dict[str, object], tmp_path: Path) -> None:
    emg = written(path := tmp_path / "one.hdf5", shape)
    if layout:
        with h5py.File(path, "a") as file:
            rows = file["emg2qwerty/timeseries"][:]
            del file["emg2qwerty/timeseries"]
            file["emg2qwerty"].create_dataset("timeseries", data=rows, **layout)
    (found,) = inspect(path)
    assert (found.usable, found.findings, found.summary["shape"]) == (True, [], str(shape))
    for session in (open_session(path), open_session(path)):  # the second one from the cache
        assert session.shape == shape
        np.testing.assert_array_equal(session.emg, emg)
        assert (session.text, session.minutes) == ("hi", pytest.approx(2 / 60, abs=1e-3))
        np.testing.assert_array_equal(session.onsets, np.ceil(np.array([0.5, 1.0]) * shape.rate))
    with SessionFile(path) as file:
        np.testing.assert_array_equal(file.read(3, 9)[1], emg[3:9])


@pytest.mark.parametrize(
    ("bands", "electrodes", "rate"),
    [((), 16, 2000.0), (("right", "left"), 16, 2000.0), (("left", "left"), 1, 2000.0), (("left",), 0, 2000.0),
     (("left",), 257, 2000.0), (("left",), 8, 0.0), (("left",), 8, float("nan")), (("left",), 8, float("inf"))],
)  # fmt: skip
def test_impossible_shapes_are_refused(bands: tuple[str, ...], electrodes: int, rate: float) -> None:
    with pytest.raises(EmgscribeError, match=r"shape\."):
        Shape(bands, electrodes, rate)  # type: ignore[arg-type]


def test_samples_of_another_shape_are_not_written(tmp_path: Path) -> None:
    header, path = SessionHeader("one", "user", "on_keyboard", 0.1, (), ()), tmp_path / "one.hdf5"
    for emg, times in (
        (np.zeros((10, 1, 8)), np.zeros(10)),
        (np.zeros((10, 2, 16)), np.zeros(9)),
        (np.zeros((10, 16)), np.zeros(10)),
        (np.zeros((10, 2, 16)), np.zeros((10, 2))),
    ):
        with pytest.raises(EmgscribeError, match=r"(?s)one.hdf5: does not take emg .* hint: give times \(T,\)"):
            write_session(path, header, times, emg.astype(np.float32))
    assert not path.exists()


@pytest.mark.parametrize("value", ["fast", "nan", "-1", "1e9", b"\xff"])
def test_an_invalid_sample_rate_gives_one_error(value: str | bytes, tmp_path: Path) -> None:
    written(path := tmp_path / "one.hdf5", ARMBAND)
    with h5py.File(path, "a") as file:
        file["emg2qwerty"].attrs["sample_rate"] = value
    with pytest.raises(EmgscribeError, match=r"one\.hdf5: "):
        open_session(path)


@pytest.mark.parametrize("claimed", [None, 250.0])
def test_samples_at_another_rate_than_the_file_says_are_refused(claimed: float | None, tmp_path: Path) -> None:
    written(path := tmp_path / "one.hdf5", ARMBAND)
    with h5py.File(path, "a") as file:
        del file["emg2qwerty"].attrs["sample_rate"]
        if claimed:
            file["emg2qwerty"].attrs["sample_rate"] = claimed
    with pytest.raises(EmgscribeError, match=f"200 samples a second, expected {claimed or 2000:g}"):
        open_session(path)


def test_a_model_takes_only_sessions_of_its_shape(tmp_path: Path) -> None:
    written(tmp_path / "one.hdf5", ARMBAND)
    written(tmp_path / "two.hdf5", Shape())
    one, two = open_session(tmp_path / "one.hdf5"), open_session(tmp_path / "two.hdf5")
    config = ModelConfig(SpectrogramConfig(n_fft=6, hop=2), MlpConfig(4))
    save_model(Model(config, ARMBAND), tmp_path / "model")
    model = load_model(tmp_path / "model")
    assert model.shape == ARMBAND
    assert "100 frames/s" in repr(model)
    log_probs = model.log_probs(one)
    assert log_probs.shape == (200, 99)
    assert evaluate(model, [one]).counts.length == 2
    both = r"has 2 bands of 16 electrodes at 2000 Hz, but the model reads a left band of 8 electrodes at 200 Hz"
    for read in (model.log_probs, model.transcribe, lambda s: evaluate(model, [s], protocol="windows"),
                 lambda s: list(published_blocks(model, s))):  # fmt: skip
        with pytest.raises(EmgscribeError, match=both):
            read(two)
    with pytest.raises(EmgscribeError, match="one has a left band of 8 electrodes at 200 Hz"):
        shape_of([one, two])
    with pytest.raises(EmgscribeError, match="its shape says 2 bands"):
        Session("s", "u", False, "", one.emg, one.labels, one.onsets)


@pytest.mark.parametrize("chosen", [{"electrodes": (0, 8)}, {"bands": (1,)}])
def test_electrodes_that_are_not_there_cannot_be_chosen(chosen: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(EmgscribeError, match="in a left band of 8 electrodes"):
        Model(ModelConfig(SpectrogramConfig(**chosen)), ARMBAND)  # type: ignore[arg-type]


def test_a_recipe_keeps_its_times_at_another_rate() -> None:
    assert DEMO.for_shape(Shape(electrodes=4)) is DEMO
    slow = EXPERIMENTS["baseline"].for_shape(ARMBAND)
    assert vars(slow.windows) == {"length": 800, "stride": 800, "left": 180, "right": 20}
    assert slow.augment.jitter.samples == 12
    features = slow.model.features
    assert isinstance(features, SpectrogramConfig)
    assert (features.n_fft, features.hop) == (6, 2)
    assert slow.model.encoder == EXPERIMENTS["baseline"].model.encoder  # the encoder counts in frames, not in samples
    split = EXPERIMENTS["records/split-share"].for_shape(ARMBAND).model.features
    assert isinstance(split, SpectrogramConfig)
    assert split.edges == (1, 2, 4)
    assert StridedConvConfig().at_rate(0.1).strides == (1, 2, 2)


@given(rate=st.floats(200, 20_000), name=st.sampled_from(sorted(EXPERIMENTS)))
def test_every_recipe_has_a_version_at_every_rate(rate: float, name: str) -> None:
    before, after = EXPERIMENTS[name], EXPERIMENTS[name].for_shape(Shape(rate=rate))
    assert after.windows.length == pytest.approx(before.windows.length * rate / 2000, abs=0.5)
    ratio = after.model.features.samples_per_frame / before.model.features.samples_per_frame / (rate / 2000)
    assert 0.6 < ratio < 1.7


@pytest.mark.parametrize("rate", [2000, 1000, 500, 400, 250, 200])
def test_any_shape_can_be_simulated(rate: int, tmp_path: Path) -> None:
    config = SimulationConfig(bands=("right",), electrodes=8, sample_rate=rate)  # type: ignore[arg-type]
    simulate_session(path := tmp_path / "one.hdf5", user=1, session=0, minutes=0.35, seed=0, config=config)
    (found,) = inspect(path)
    assert (found.usable, [f for f in found.findings if f.field == "time"]) == (True, [])
    session = open_session(path)
    assert session.shape == Shape(("right",), 8, rate)
    assert len(session) == pytest.approx(0.35 * 60 * rate, abs=1)
    assert 2 < session.emg.std() < 100


def test_one_simulated_band_equals_the_same_band_of_two(tmp_path: Path) -> None:
    for name, config in {"both": SimulationConfig(), "left": SimulationConfig(bands=("left",))}.items():
        simulate_session(tmp_path / f"{name}.hdf5", user=1, session=0, minutes=0.1, seed=0, config=config)
    both, left = (open_session(tmp_path / f"{name}.hdf5") for name in ("both", "left"))
    np.testing.assert_array_equal(both.emg[:, :1], left.emg)
    assert both.text == left.text


def test_an_armband_is_simulated_trained_on_and_read(tmp_path: Path) -> None:
    config = SimulationConfig(bands=("left",), electrodes=8, sample_rate=200, text="stewardess was great\nwe were sad")
    simulate(tmp_path / "data", users=1, sessions=3, minutes=0.2, config=config)
    settings = {"runs": tmp_path / "runs", "results": tmp_path / "results", "console": Console(quiet=True)}
    result = run_experiment(SMALL, tmp_path / "data", **settings)  # type: ignore[arg-type]
    assert result.test["greedy"].counts.length > 20
    model = load_model(tmp_path / "runs/demo-0/best")
    (test,) = split_sessions(tmp_path / "data").test
    assert model.shape == ARMBAND
    assert isinstance(model.config.features, SpectrogramConfig)
    assert (model.config.features.n_fft, model.config.features.hop) == (6, 3)
    open_session(test).plot(1, 3).savefig(tmp_path / "plot.png")
    assert run_experiment(SMALL, tmp_path / "data", **settings).seconds == result.seconds  # type: ignore[arg-type]


def test_a_network_can_work_on_one_band(tmp_path: Path) -> None:
    written(tmp_path / "one.hdf5", ARMBAND)
    session = open_session(tmp_path / "one.hdf5")
    encoder = TdsConfig(mlp_features=8, blocks=1, channels=2, kernel=3, lookahead=1)
    model = Model(ModelConfig(SpectrogramConfig(n_fft=6, hop=2), encoder), ARMBAND).eval()
    with torch.no_grad():
        assert model.encoder.width == 8
    assert model.log_probs(session).shape == (200, 99)
