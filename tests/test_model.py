import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from emgscribe.data.session import Session
from emgscribe.data.windows import Batch, Store, Windows
from emgscribe.errors import EmgscribeError
from emgscribe.models.ancestry import Ancestry, Seen
from emgscribe.models.encoders import TdsConfig
from emgscribe.models.features import SpectrogramConfig
from emgscribe.models.model import Model, ModelConfig, load_ancestry, load_model, save_model
from emgscribe.training.losses import ctc_loss

TINY = ModelConfig(
    features=SpectrogramConfig(n_fft=64, hop=16),
    encoder=TdsConfig(mlp_features=24, blocks=2, channels=4, kernel=4, lookahead=2),
)
CONFIGS = st.builds(
    lambda n_fft, hop, blocks, kernel, share: ModelConfig(
        SpectrogramConfig(n_fft, min(hop, n_fft)),
        TdsConfig(8, blocks, 4, kernel, round(share * blocks * (kernel - 1))),
    ),
    st.integers(8, 64),
    st.integers(3, 64),
    st.integers(1, 3),
    st.integers(1, 6),
    st.floats(0, 1),
)


def made(config: ModelConfig, seed: int = 0) -> Model:
    """An untrained model in evaluation mode, the same for the same seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Model(config).eval()


def batch_of(emg: Tensor, left: int, right: int, lengths: list[int] | None = None) -> Batch:
    """A batch of EMG (N, T, 2, 16) without keystrokes."""
    items = len(emg)
    lengths = lengths or [emg.shape[1] - left - right] * items
    none = torch.full((items, 1), -1)
    return Batch(emg, left, right, torch.tensor(lengths), none + 99, torch.zeros(items, dtype=torch.int64), none)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def emitted(model: Model, emg: Tensor, left: int, right: int) -> Tensor:
    with torch.inference_mode():
        return model(batch_of(emg, left, right))[0]


def test_the_baseline_has_the_published_number_of_parameters() -> None:
    model = Model(ModelConfig())
    assert sum(parameter.numel() for parameter in model.parameters()) == 5_293_315
    assert model.samples_per_frame == 16
    assert sum(model.context) == 124 * 16 + 64 - 16  # 125 frames of features


@settings(max_examples=30)
@given(CONFIGS, st.integers(1, 300), st.integers(0, 400), st.integers(0, 400), st.integers(1, 2))
def test_emissions_cover_the_labelled_samples_whatever_the_context(
    config: ModelConfig, labelled: int, left: int, right: int, items: int
) -> None:
    model = made(config)
    emissions = emitted(model, noise(items, left + labelled + right, 2, 16), left, right)
    assert emissions.shape == (items, -(-labelled // model.samples_per_frame), 99)
    assert emissions.dtype == torch.float32
    assert torch.allclose(emissions.exp().sum(dim=-1), torch.ones(emissions.shape[:2]), atol=1e-4)


@settings(max_examples=25)
@given(CONFIGS, st.integers(1, 300), st.integers(0, 400), st.integers(0, 400))
def test_missing_context_is_zero_and_surplus_is_cut_off(
    config: ModelConfig, labelled: int, left: int, right: int
) -> None:
    model = made(config)
    need_left, need_right = model.context
    need_right += -labelled % model.samples_per_frame  # the last frame may reach past the labelled samples
    emg = noise(1, left + labelled + right, 2, 16)
    cropped = emg[:, max(0, left - need_left) : left + labelled + min(right, need_right)]
    exact = F.pad(cropped, (0, 0, 0, 0, max(0, need_left - left), max(0, need_right - right)))
    assert exact.shape[1] == need_left + labelled + need_right
    assert torch.equal(emitted(model, emg, left, right), emitted(model, exact, need_left, need_right))


@settings(max_examples=25)
@given(CONFIGS, st.integers(1, 12))
def test_emissions_depend_on_the_context_and_on_nothing_beyond(config: ModelConfig, frames: int) -> None:
    model = made(config)
    left, right = model.context
    labelled = frames * model.samples_per_frame
    emg = noise(1, 40 + left + labelled + right + 40, 2, 16)
    expected = emitted(model, emg, 40 + left, 40 + right)
    emg[:, :40], emg[:, -40:] = torch.nan, torch.nan
    assert torch.equal(emitted(model, emg, 40 + left, 40 + right), expected)
    for first_or_last in (40, -41):  # the outermost samples of the context do count
        broken = emg.clone()
        broken[:, first_or_last] = torch.nan
        assert emitted(model, broken, 40 + left, 40 + right).isnan().any()


@settings(max_examples=25)
@given(CONFIGS, st.integers(1, 12), st.integers(0, 10**6))
def test_a_sample_reaches_exactly_the_frames_whose_receptive_field_holds_it(
    config: ModelConfig, frames: int, where: int
) -> None:
    model = made(config)
    left, right = model.context
    hop = model.samples_per_frame
    sample = where % (left + frames * hop + right) - left  # 0 is the first labelled sample
    emg = noise(1, left + frames * hop + right, 2, 16)
    emg[0, left + sample, 1, 7] = torch.nan  # NaN marks all that depends on it
    reached = emitted(model, emg, left, right)[0].isnan().any(dim=-1)
    expected = [f * hop - left <= sample < (f + 1) * hop + right for f in range(frames)]
    assert reached.tolist() == expected
    assert not 0 <= sample < frames * hop or reached[sample // hop]  # its own frame among them


def test_a_burst_moves_the_frame_in_which_it_lies_most() -> None:
    config = replace(TINY, encoder=TdsConfig(mlp_features=8, blocks=1, channels=4, kernel=1, lookahead=0))
    model = made(config)
    left, right = model.context
    emg = 1e-3 * noise(1, left + 20 * 16 + right, 2, 16)
    quiet = emitted(model, emg, left, right)
    emg[:, left + 7 * 16 : left + 8 * 16] *= 30  # the samples that frame 7 stands for
    change = (emitted(model, emg, left, right) - quiet).abs().sum(dim=-1)[0]
    assert change[7] > 0
    assert change[:5].max() == change[10:].max() == 0  # 64 samples of window reach 24 to either side
    features = model.featurize(batch_of(emg, left, right))[0].mean(dim=(1, 2, 3))
    assert int(features.argmax()) == 7


def test_causal_without_lookahead_up_to_the_window_of_the_features() -> None:
    encoder = TdsConfig(mlp_features=24, blocks=2, channels=4, kernel=4, lookahead=0)
    model = made(replace(TINY, encoder=encoder))
    assert model.encoder.causal
    assert model.context[1] == (64 - 16) // 2
    left, right = model.context
    emg = noise(1, left + 10 * 16 + right, 2, 16)
    before = emitted(model, emg, left, right)
    emg[:, left + 5 * 16 + right :] += 10
    after = emitted(model, emg, left, right)
    assert torch.equal(after[:, :5], before[:, :5])
    assert (after[:, 5:] != before[:, 5:]).any(dim=-1).all()


def test_items_of_a_batch_do_not_influence_each_other() -> None:
    model = made(TINY)
    left, right = model.context
    emg = noise(4, left + 320 + right, 2, 16)
    together = emitted(model, emg, left, right)
    for n in range(4):
        assert torch.allclose(together[n], emitted(model, emg[n : n + 1], left, right)[0], atol=1e-5)
    emg[1:] = torch.nan
    assert torch.allclose(emitted(model, emg, left, right)[0], together[0], atol=1e-5)


def test_short_items_emit_as_if_alone() -> None:
    model = made(TINY)
    left, right = model.context
    emg = noise(2, left + 320 + right, 2, 16)
    with torch.inference_mode():
        together, frames = model(batch_of(emg, left, right, [320, 100]))
        alone, _ = model(batch_of(emg[1:], left, right, [100]))
    assert frames.tolist() == [20, 7]
    assert torch.allclose(together[1, :7], alone[0, :7], atol=1e-5)


@pytest.mark.parametrize(("samples", "frames"), [(0, 0), (1, 1), (16, 1), (17, 2), (8000, 500)])
def test_frames_is_the_ceiling(samples: int, frames: int) -> None:
    model = made(TINY)
    assert model.frames(samples) == frames
    assert model.frames(torch.tensor([samples])).tolist() == [frames]


def test_gradients_reach_every_parameter(make_stored: Callable[..., Session]) -> None:
    model = made(TINY).train()
    session = make_stored(2000, [(3, 100), (4, 600), (4, 900), (97, 1500)])
    windows = Windows(Store([session]), 1000, 1000, *model.context)
    batch = windows.batch(windows.tiling())
    ctc_loss(*model(batch), batch).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder that holds a tiny model."""
    save_model(made(TINY, seed=3), tmp_path / "runs" / "model")
    return tmp_path / "runs" / "model"


def test_a_model_reads_back_as_it_was(tmp_path: Path) -> None:
    config = ModelConfig(SpectrogramConfig(32, 9, 1e-5), TdsConfig(10, 3, 4, 5, 6))
    model = made(config).train()
    model(batch_of(noise(2, 900, 2, 16), 0, 0))  # moves the running statistics of the norm
    model.eval()
    save_model(model, tmp_path / "model")
    assert names(tmp_path / "model") == ["config.json", "model.safetensors"]
    again = load_model(tmp_path / "model")
    assert again.config == config
    assert not again.training
    emg = noise(1, 700, 2, 16)
    assert torch.equal(emitted(again, emg, 100, 50), emitted(model, emg, 100, 50))


def test_saving_replaces_the_old_model(saved: Path) -> None:
    other = made(TINY, seed=9)
    save_model(other, saved)
    assert torch.equal(load_model(saved).head.weight, other.head.weight)
    assert names(saved.parent) == ["model"]


def test_a_failure_while_saving_keeps_the_old_model(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = load_model(saved).head.weight

    def fails(*_: Any) -> None:
        raise RuntimeError("in the middle")

    monkeypatch.setattr("emgscribe.models.model.save_file", fails)
    with pytest.raises(RuntimeError, match="in the middle"):
        save_model(made(TINY, seed=9), saved)
    assert torch.equal(load_model(saved).head.weight, before)
    assert names(saved.parent) == ["model"]


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(EmgscribeError) as caught:
        load_model(folder)
    assert str(folder) in caught.value.where
    assert caught.value.hint
    for word in words:
        assert word in caught.value.what


def changed(folder: Path, **entries: Any) -> None:
    """Change entries of a model's config.json."""
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, **entries}))


def test_foreign_folders(tmp_path: Path) -> None:
    refused(tmp_path / "none", "config.json is missing")
    refused(tmp_path, "config.json is missing")
    for content in ("{}", "[]", '"text"', '{"format": "other", "version": 1}'):
        (tmp_path / "config.json").write_text(content)
        refused(tmp_path, "not of format emgscribe-model version 1")
    (tmp_path / "config.json").write_text("{")
    refused(tmp_path, "not valid JSON")


def test_half_a_folder(saved: Path) -> None:
    weights = (saved / "model.safetensors").read_bytes()
    (saved / "model.safetensors").unlink()
    refused(saved, "model.safetensors does not fit")
    for kept in (0, 4, 1000, len(weights) - 1):
        (saved / "model.safetensors").write_bytes(weights[:kept])
        refused(saved, "model.safetensors does not fit")
    (saved / "config.json").unlink()
    refused(saved, "config.json is missing")


def test_another_version(saved: Path) -> None:
    changed(saved, version=2)
    refused(saved, "version 1")


def test_unknown_encoder(saved: Path) -> None:
    model = json.loads((saved / "config.json").read_text())["model"]
    for encoder in ({**model["encoder"], "kind": "no such"}, {"kernel": 4}, "tds", None):
        changed(saved, model={**model, "encoder": encoder})
        refused(saved, "ModelConfig.encoder")


def test_unknown_and_broken_fields(saved: Path) -> None:
    model = json.loads((saved / "config.json").read_text())["model"]
    changed(saved, model={**model, "colour": 1})
    refused(saved, "colour")
    changed(saved, model={**model, "encoder": {**model["encoder"], "flavour": 0.5}})
    refused(saved, "flavour")
    changed(saved, model={**model, "features": {**model["features"], "hop": "often"}})
    refused(saved, "features.hop")
    changed(saved, model={**model, "features": {**model["features"], "hop": 1000}})
    refused(saved, "features")
    for broken in (None, [], 5):
        changed(saved, model=broken)
        refused(saved)


def test_weights_of_another_size(saved: Path) -> None:
    model = json.loads((saved / "config.json").read_text())["model"]
    changed(saved, model={**model, "encoder": {**model["encoder"], "kernel": 5, "lookahead": 2}})
    refused(saved, "model.safetensors does not fit")
    changed(saved, model={**model, "encoder": {**model["encoder"], "blocks": 3}})
    refused(saved, "model.safetensors does not fit")


def test_the_folder_says_what_it_is(saved: Path) -> None:
    content = json.loads((saved / "config.json").read_text())
    assert (content["format"], content["version"]) == ("emgscribe-model", 1)
    features = content["model"]["features"]
    assert (features["n_fft"], features["hop"], features["offset"]) == (64, 16, 1e-6)
    sizes = {"kind": "tds", "mlp_features": 24, "blocks": 2, "channels": 4, "kernel": 4, "lookahead": 2}
    assert content["model"]["encoder"].items() >= sizes.items()


def test_the_folder_keeps_what_the_model_has_seen(saved: Path) -> None:
    assert load_model(saved).ancestry == Ancestry()
    model = made(TINY)
    model.ancestry = Ancestry((Seen("ab12:500", "monday", "ann"),), (Seen("cd34", "friday", "bob"),), complete=False)
    save_model(model, saved)
    assert load_model(saved).ancestry == load_ancestry(saved) == model.ancestry
    kept = json.loads((saved / "config.json").read_text())["ancestry"]
    assert kept["trained_on"] == [{"content": "ab12:500", "name": "monday", "user": "ann"}]


def test_a_broken_ancestry_is_refused_by_field(saved: Path) -> None:
    for broken in (None, [], {"trained_on": 5}, {"trained_on": [{"name": "monday"}]}, {"seen": []}):
        changed(saved, ancestry=broken)
        refused(saved, "Ancestry" if broken != {"seen": []} else "seen")
    with pytest.raises(EmgscribeError, match=r"config.json is missing"):
        load_ancestry(saved.parent)
