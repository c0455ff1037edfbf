"""A model's streaming step in onnxruntime computes what the model computes."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import FEATURES, GRU, LOOKAHEADS, SMALL, TDS, scrambled

from emgscribe.cli import main
from emgscribe.data.charset import text_of_labels
from emgscribe.data.session import open_session
from emgscribe.decoding.greedy import GreedyDecoder
from emgscribe.errors import EmgscribeError
from emgscribe.live.hub import Choice, Live, Recordings
from emgscribe.live.sources import Replay
from emgscribe.models.features import StridedConvConfig
from emgscribe.models.model import Model, ModelConfig, save_model
from emgscribe.streaming import Stream

pytest.importorskip("onnxruntime", reason="pip install 'emgscribe[export]'")
pytest.importorskip("onnxscript", reason="pip install 'emgscribe[export]'")

from emgscribe.models.onnx import OnnxModel, export_onnx

ROLLING = SMALL["mlp, rolling norm"]
KINDS = {
    "tds": ModelConfig(FEATURES, TDS),
    "rolling norm": ModelConfig(FEATURES, SMALL["tds, rolling norm"]),
    "raw EMG and GRU": ModelConfig(StridedConvConfig(), SMALL["recurrent, causal"]),
    "LSTM": ModelConfig(FEATURES, SMALL["recurrent, causal lstm"]),
    "lookaheads": ModelConfig(FEATURES, replace(LOOKAHEADS, base=replace(SMALL["recurrent, causal"], base=ROLLING))),
    "banded transformer": ModelConfig(FEATURES, SMALL["transformer, banded"]),
    "minGRU": ModelConfig(FEATURES, SMALL["linear-recurrence, with lookahead"]),
    "ensemble": ModelConfig(FEATURES, SMALL["ensemble"]),
    "conformer": ModelConfig(FEATURES, SMALL["conformer, banded"]),
}
EMG = np.random.default_rng(0).normal(0, 20, (4000, 2, 16)).astype(np.float32)


@pytest.mark.parametrize(("kind", "frames"), [*((kind, 1) for kind in KINDS), ("tds", 3), ("raw EMG and GRU", 3)])
def test_an_exported_models_emissions_are_those_of_the_stream(kind: str, frames: int, tmp_path: Path) -> None:
    model = Model(KINDS[kind])
    scrambled(model)
    export_onnx(model, tmp_path / "m.onnx", frames=frames)
    ours, theirs = Stream(model).feed(EMG).emissions, OnnxModel(tmp_path / "m.onnx")
    found = np.concatenate([theirs.feed(EMG[at : at + 700]) for at in range(0, len(EMG), 700)])
    assert len(ours) - frames <= len(found) <= len(ours)
    # A recurrence forgets how it began; convolutions are equal from the first frame on.
    first = 100 if model.encoder.unbounded_left else 0
    np.testing.assert_allclose(found[first:], ours[first : len(found)], rtol=1e-4, atol=1e-4)
    theirs.reset()
    np.testing.assert_array_equal(theirs.feed(EMG.astype(float)[:, ::-1][:, ::-1]), found)
    with pytest.raises(EmgscribeError, match="expected \\(samples, 2, 16\\)"):
        theirs.feed(EMG[:, 0])
    whole = OnnxModel(tmp_path / "m.onnx").log_probs(EMG[:3333])  # a stream of the step gives the same in any chunks
    for size in (7, 333, 3333):
        stream, made = Stream(theirs), list[np.ndarray]()
        for at in range(0, 3333, size):
            update = stream.feed(EMG[at : min(at + size, 3333)])
            made.append(update.emissions)
            assert update.lag < stream.delay + theirs.samples_per_frame / 2000  # samples short of a frame wait too
        np.testing.assert_allclose(np.concatenate([*made, stream.flush().emissions]), whole, atol=1e-5)
        stream.reset()


# Half the size shows that the recurrence, most of this network, is quantised too; an operator GRU never is.
@pytest.mark.parametrize(("kind", "frames", "share"), [("tds", 1, 1), ("wide GRU", 2, 0.5), ("wide GRU", 40, 1)])
def test_an_int8_export_is_smaller_and_its_emissions_stay_close(
    kind: str, frames: int, share: float, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    wide = ModelConfig(FEATURES, replace(SMALL["recurrent, causal"], hidden=128))
    model = Model({**KINDS, "wide GRU": wide}[kind]).eval()
    export_onnx(model, tmp_path / "m.onnx", frames=frames)
    export_onnx(model, tmp_path / "small.onnx", frames=frames, int8=True)
    assert (tmp_path / "small.onnx").stat().st_size < share * (tmp_path / "m.onnx").stat().st_size
    whole, rounded = (OnnxModel(tmp_path / name).feed(EMG) for name in ("m.onnx", "small.onnx"))
    assert 0 < np.abs(whole - rounded).mean() < 0.15


def test_the_export_command_compares_the_error_rates_of_the_files(
    make_session: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    save_model(Model(ModelConfig(FEATURES, TDS)), tmp_path / "m")
    session = make_session(samples=3001)
    line = ["export", str(tmp_path / "m"), "--out", str(tmp_path / "m.onnx"), "--int8", "--sessions", str(session)]
    assert main(line) == 0
    rates = re.findall(r"CER ([\d.]+) %", capsys.readouterr().out)
    assert (len(rates), rates[0]) == (3, rates[1])
    assert (tmp_path / "m-int8.onnx").exists()


def test_models_that_cannot_be_exported_and_damaged_files_give_one_error(tmp_path: Path) -> None:
    with pytest.raises(EmgscribeError, match="whole recording"):
        export_onnx(Model(ModelConfig(FEATURES, GRU)), tmp_path / "m.onnx")
    with pytest.raises(EmgscribeError, match="frames is 0"):
        export_onnx(Model(ModelConfig(FEATURES, TDS)), tmp_path / "m.onnx", frames=0)
    assert not list(tmp_path.iterdir())
    for content in (b"", b"no model", b"\x08\x0a" * 1000):
        (tmp_path / "m.onnx").write_bytes(content)
        with pytest.raises(EmgscribeError, match="is damaged, or not an ONNX file"):
            OnnxModel(tmp_path / "m.onnx")


def test_an_exported_model_runs_live(make_session: Callable[..., Path], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, session = Model(KINDS["raw EMG and GRU"]), open_session(make_session(samples=9001))
    scrambled(model)
    path = tmp_path / "m.onnx"
    export_onnx(model, path, frames=3)
    made = {"replay": lambda _: Replay(session.path, speed=0)}
    found = list[str]()
    into = Recordings(tmp_path)
    live = Live(made, {"m.onnx": path}, Choice("replay", "m.onnx"), recordings=into, on_text=found.append)
    live.begin(live.choice)
    assert live.engine
    assert live.engine.stream
    live.engine.join()
    expected = GreedyDecoder().decode(OnnxModel(path).log_probs(session.emg))
    assert "".join(found) == text_of_labels(expected.labels)
    ready = json.loads(str(live.first()[0]))
    assert (ready["model"], ready["delay"]) == (repr(OnnxModel(path)), live.engine.stream.delay)
    assert ready["choices"]["lookahead"] == {"chosen": None, "known": []}
    live.recorded.append(session.path)
    with pytest.raises(EmgscribeError, match="an exported model cannot be adapted"):
        live.adapt()
    live.end()


def test_an_exported_step_refuses_sliding_windows_and_damaged_metadata(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    export_onnx(Model(ModelConfig(FEATURES, TDS)), tmp_path / "m.onnx")
    with pytest.raises(EmgscribeError, match="window is 4"):
        Stream(OnnxModel(tmp_path / "m.onnx"), window=4)
    bad = {"frames": "2", "samples_per_frame": "0", "shape": '{"bands": ["left"]}', "drop": "x"}
    for name, value in bad.items():
        model = onnx.load(tmp_path / "m.onnx")
        next(entry for entry in model.metadata_props if entry.key == name).value = value
        (tmp_path / "bad.onnx").write_bytes(model.SerializeToString())
        with pytest.raises(EmgscribeError, match=r"damaged|shape"):
            OnnxModel(tmp_path / "bad.onnx")


def test_export_needs_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(Model(ModelConfig(FEATURES, TDS)), tmp_path / "m")
    monkeypatch.setenv("EMGSCRIBE_DEVICE", "cuda")  # which this machine may lack; the step is traced on the CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    model, before = Model(ModelConfig(FEATURES, TDS)).train(), torch.get_rng_state()
    export_onnx(model, tmp_path / "trained.onnx")
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)
    assert main(["export", str(tmp_path / "m"), "--out", str(tmp_path / "m.onnx")]) == 0
    assert OnnxModel(tmp_path / "m.onnx").chunk == 1
