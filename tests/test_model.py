import json
import math
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import CNN, HEAD, LOOKAHEADS, TDS, batch_for, memorize, noise
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from emgscribe.config import Range, Settings
from emgscribe.data.windows import Batch
from emgscribe.decoding.decoder import decode_batch
from emgscribe.decoding.greedy import GreedyDecoder
from emgscribe.errors import EmgscribeError
from emgscribe.models.ancestry import Ancestry, Seen
from emgscribe.models.attention import AttentionConfig
from emgscribe.models.augment import Augmentation, BandRotation
from emgscribe.models.encoders import EncoderConfig, TdsConfig
from emgscribe.models.features import FeaturesConfig, SpectrogramConfig, StridedConvConfig
from emgscribe.models.model import Model, ModelConfig, load_ancestry, load_model, model_folder, save_model, stored_hash

TINY = ModelConfig(SpectrogramConfig(n_fft=64, hop=16), TDS)
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


def test_a_burst_affects_its_own_frame_most() -> None:
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


def test_short_items_emit_as_if_alone() -> None:
    model = made(TINY)
    left, right = model.context
    emg = noise(2, left + 320 + right, 2, 16)
    with torch.inference_mode():
        together, frames = model(batch_of(emg, left, right, [320, 100]))
        alone, _ = model(batch_of(emg[1:], left, right, [100]))
    assert frames.tolist() == [20, 7]
    assert torch.allclose(together[1, :7], alone[0, :7], atol=1e-5)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder that holds a tiny model."""
    save_model(made(TINY, seed=3), tmp_path / "runs" / "model")
    return tmp_path / "runs" / "model"


def test_saving_replaces_the_old_model(saved: Path) -> None:
    other, before = made(TINY, seed=9), stored_hash(saved)
    assert sorted(path.name for path in saved.iterdir()) == ["config.json", "model.safetensors"]
    save_model(other, saved)
    assert stored_hash(saved) != before
    assert torch.equal(load_model(saved).head.weight, other.head.weight)
    assert [path.name for path in saved.parent.iterdir()] == ["model"]


def test_a_failure_while_saving_keeps_the_old_model(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = load_model(saved).head.weight

    def fails(*_: Any) -> None:
        raise RuntimeError("in the middle")

    monkeypatch.setattr("emgscribe.models.model.save", fails)
    with pytest.raises(RuntimeError, match="in the middle"):
        save_model(made(TINY, seed=9), saved)
    assert torch.equal(load_model(saved).head.weight, before)
    assert [path.name for path in saved.parent.iterdir()] == ["model"]


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(EmgscribeError) as caught:
        load_model(folder)
    assert str(folder) in caught.value.where
    assert caught.value.hint
    assert len(str(caught.value)) < 1000
    for word in words:
        assert word in str(caught.value)


def changed(folder: Path, **entries: Any) -> None:
    """Change entries of a model's config.json."""
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, **entries}))


def test_folders_that_hold_no_model_are_refused(tmp_path: Path) -> None:
    refused(tmp_path / "none", "config.json is missing")
    refused(tmp_path, "config.json is missing")
    for content in ("{}", "[]", '"text"', '{"format": "other", "version": 1}', '{"format": "emgscribe-model"}'):
        (tmp_path / "config.json").write_text(content)
        refused(tmp_path, "not of format emgscribe-model version 2")
    for content in ("{", "[" * 100_000, "9" * 10_000, '{"format": NaN}', '{"format": 1, "format": 2}', "\0"):
        (tmp_path / "config.json").write_text(content)
        refused(tmp_path, "not valid JSON")


def nested(kind: str, levels: int, **settings: Any) -> dict[str, Any]:
    encoder: dict[str, Any] = {"kind": "mlp", "mlp_features": 8}
    for _ in range(levels):
        encoder = {"kind": kind, "base": encoder, **settings}
    return encoder


SPECTRUM, CONV = {"kind": "spectrogram"}, {"kind": "strided-conv"}


@pytest.mark.parametrize(
    ("part", "settings", "words"),
    [
        *(("encoder", broken, "model.encoder") for broken in ({"kind": "none"}, {}, "tds", None, [["kind", "tds"]])),
        *(
            ("encoder", {"kind": kind, field: value}, f"model.encoder.{field} is 1")
            for kind, field in (("tds", "blocks"), ("recurrent", "layers"), ("tds", "kernel"), ("mlp", "rolling"))
            for value in (10**6, 10**9, 10**20, 10**400)
        ),
        ("encoder", {"kind": "residual-cnn", "widths": [8] * 10**5}, "more than 3000 weights"),
        ("encoder", {"kind": "residual-cnn", "widths": [8] * 20, "strides": [9] * 20, "lookahead": 0}, "model.context"),
        ("encoder", nested("conformer", 6, layers=200), "more than 3000 weights"),
        *(("encoder", nested("split-share", levels), "is nested too deep") for levels in (20, 200)),
        ("encoder", nested("transformer", 1, heads=4, layers=1000, past=10_000, future=0), "more than 3000 weights"),
        ("encoder", nested("recurrent", 1, left=10_000), "model.context"),
        ("attention", {"layers": 1000, "width": 16}, "more than 3000 weights"),
        ("attention", [], "model.attention is [], allowed: an object"),
        *(("features", SPECTRUM | {"n_fft": size, "hop": 1}, "model.features.n_fft is 1") for size in (10**6, 10**20)),
        ("features", SPECTRUM | {"edges": list(range(10**5))}, "features.edges"),
        ("features", CONV | {"strides": [1000] * 30, "filters": [1] * 29}, "model.context"),
        ("features", CONV | {"strides": [1] * 10**4, "filters": [1] * 9999}, "more than 3000 weights"),
        ("features", CONV | {"strides": [1], "filters": [], "bins": 1 << 14}, "a minute of signal takes this network"),
        ("encoder", {"kind": "tds", "mlp_features": 24, "kernel": 5}, "model.safetensors: does not fit"),
        ("colour", 1, "model has no setting 'colour'"),
    ],
)  # fmt: skip
def test_no_settings_cost_time_or_memory_or_a_traceback(saved: Path, part: str, settings: Any, words: str) -> None:
    changed(saved, model={**json.loads((saved / "config.json").read_text())["model"], part: settings})
    before = time.process_time()
    refused(saved, words)
    assert time.process_time() - before < 5


def test_weights_that_do_not_fit_the_model_are_refused(saved: Path) -> None:
    path, weights = saved / "model.safetensors", load_file(saved / "model.safetensors")
    whole = path.read_bytes()
    weights = {name: value.clone() for name, value in weights.items()}
    bias, variance = weights["head.bias"], "encoder.norm.norm.running_var"
    for changes, words in (
        ({"head.bias": torch.full((99,), torch.nan)}, "head.bias is not finite"),
        ({"head.bias": bias.where(bias != bias[3], torch.inf)}, "head.bias is not finite"),
        ({variance: -weights[variance]}, f"{variance} is not finite, or a negative variance"),
        ({"head.bias": bias[:98]}, "head.bias is [98] of torch.float32, not [99] of torch.float32"),
        ({"head.bias": bias.double()}, "head.bias is [99] of torch.float64, not [99] of torch.float32"),
        ({"more": bias.clone()}, "more is [99] of torch.float32, not none of the network's weights"),
        ({"head.bias": None}, "head.bias is missing, not [99] of torch.float32"),
    ):
        save_file({name: value for name, value in (weights | changes).items() if value is not None}, path)
        refused(saved, words)
    for damaged in (b"", whole[:4], whole[:1000], whole[:-1], whole + b"0", b"\xff" * 100, b"\xff\0" + whole):
        path.write_bytes(damaged)
        refused(saved, "not a weights file")
    path.unlink()
    refused(saved, "no such file")
    with pytest.raises(EmgscribeError, match="no such file"):
        stored_hash(saved)
    (saved / "config.json").unlink()
    refused(saved, "config.json is missing")


def test_the_files_of_a_model_have_the_same_permissions(saved: Path) -> None:
    assert len({path.stat().st_mode for path in saved.iterdir()}) == 1


def test_config_json_states_format_version_and_architecture(saved: Path) -> None:
    content = json.loads((saved / "config.json").read_text())
    assert (content["format"], content["version"]) == ("emgscribe-model", 2)
    assert content["model"]["features"].items() >= {"kind": "spectrogram", "n_fft": 64, "hop": 16}.items()
    assert content["model"]["encoder"].items() >= {"kind": "tds", "mlp_features": 24, "kernel": 4}.items()


def test_the_folder_keeps_what_the_model_has_seen(saved: Path) -> None:
    assert load_model(saved).ancestry == Ancestry()
    model = made(TINY)
    model.ancestry = Ancestry((Seen("ab12:500", "monday", "ann"),), (Seen("cd34", "friday", "bob"),), complete=False)
    save_model(model, saved)
    assert load_model(saved).ancestry == load_ancestry(saved) == model.ancestry
    kept = json.loads((saved / "config.json").read_text())["ancestry"]
    assert kept["trained_on"] == [{"content": "ab12:500", "name": "monday", "user": "ann"}]


def test_a_broken_ancestry_is_refused_by_field(saved: Path) -> None:
    for broken, words in (
        (None, "the content is None, allowed: an object"),
        ({"trained_on": 5}, "trained_on is 5, allowed: a list"),
        ({"trained_on": [{}] * 10**5}, "trained_on[0] lacks content"),
        ({"seen": []}, "has no setting 'seen'"),
    ):
        changed(saved, ancestry=broken)
        refused(saved, words)
    with pytest.raises(EmgscribeError, match=r"config.json is missing"):
        load_ancestry(saved.parent)


CHANGES = [type(getattr(Augmentation(), field.name)) for field in fields(Augmentation) if field.name != "more"]


@pytest.mark.parametrize(
    "kind", [*EncoderConfig.kinds.values(), *FeaturesConfig.kinds.values(), AttentionConfig, *CHANGES]
)
def test_every_number_has_a_range_and_is_named_when_out_of_it(kind: type[Settings]) -> None:
    hints = get_type_hints(kind, include_extras=True)
    for name in {field.name for field in fields(kind)} - {"offsets"}:
        many = get_origin(hints[name]) is tuple
        hint = get_args(hints[name])[0] if many else hints[name]
        assert hint not in (int, float), name
        limits = [part for part in get_args(hint) if isinstance(part, Range)] if get_origin(hint) is Annotated else []
        for limit in limits:
            edges = {limit.low - 1, limit.low, limit.high, limit.high + 1} - {math.inf}
            for value in (edge for edge in edges if not limit.holds(edge)):
                with pytest.raises(EmgscribeError, match=f"{kind.section}.{name} is .*, allowed: "):
                    kind(**{name: (value,) if many else value})


SPECTRA, CONVOLUTIONS, NARROW = SpectrogramConfig(n_fft=32, hop=32), StridedConvConfig(), replace(TDS, channels=12)


@pytest.mark.parametrize(
    ("config", "field", "value"),
    [
        (SPECTRA, "hop", 33),
        *((SPECTRA, "decimation", value) for value in (3, 1.0, True)),
        *((SPECTRA, "electrodes", value) for value in ((0, 256), (3, 3))),
        *((SPECTRA, "edges", value) for value in ((4,), (4, 2), (0, 18))),
        (CONVOLUTIONS, "strides", ()),
        (CONVOLUTIONS, "filters", (16,)),
        (TDS, "channels", 3),  # one band would get half a channel
        (TDS, "channels", 10),  # 48 features do not split into 10
        (TDS, "lookahead", 7),
        (TDS, "excitation", "some"),
        (NARROW, "reduction", 50),  # the blocks' 12 channels do not divide it
        (CNN, "widths", ()),
        *((CNN, "strides", value) for value in ((2,), (1, 6))),  # one for each of the widths, at most the kernel of 5
        (CNN, "lookahead", 5),
        (replace(HEAD, heads=1), "width", 7),
        (HEAD, "heads", 3),
        (BandRotation(), "offsets", ()),
    ],
)
def test_values_that_do_not_go_together_are_named(config: Settings, field: str, value: Any) -> None:
    with pytest.raises(EmgscribeError, match=f"{config.section}.{field} is .*, allowed: "):
        replace(config, **{field: value})


SEVERAL = ModelConfig(TINY.features, replace(LOOKAHEADS, base=replace(CNN, lookahead=0)))  # 0, 1 and 3 frames of 8 ms


def test_a_model_can_be_used_with_any_of_its_lookaheads(tmp_path: Path) -> None:
    model = made(SEVERAL)
    assert list(model.lookaheads) == [0.0, 0.008, 0.024]
    read = {seconds: model.with_lookahead(seconds) for seconds in (0.0, 0.005, 0.009, 9.0)}
    assert [one.context[1] - model.features.span // 2 + 8 for one in read.values()] == [0, 16, 16, 48]
    assert {id(one.ancestry) for one in read.values()} == {id(model.ancestry)}
    save_model(read[0.0], tmp_path / "m")
    stored = load_model(tmp_path / "m")
    assert stored.config == read[0.0].config
    assert stored.with_lookahead(9.0).config == model.config  # all are stored
    emg = noise(1, 4000, 2, 16)
    found = {seconds: one(batch_of(emg, *one.context))[0] for seconds, one in read.items()}
    assert not torch.allclose(found[0.0][:, :100], found[9.0][:, :100], atol=1e-3)
    with pytest.raises(EmgscribeError, match="one lookahead"):
        made(TINY).with_lookahead(0.08)


@pytest.mark.parametrize("frames", [0, 3])
def test_a_short_lookahead_sees_nothing_later(frames: int) -> None:
    model = made(SEVERAL).with_lookahead(0.008 * frames)
    emg = noise(1, sum(model.context) + 160, 2, 16)

    def fifth(changed: int) -> Tensor:
        """The fifth frame of a signal that differs from the sample `changed` on."""
        later = torch.where(torch.arange(emg.shape[1])[None, :, None, None] < changed, emg, 9 * emg)
        with torch.inference_mode():
            return model(batch_of(later, *model.context))[0][0, 4]

    end = model.context[0] + 5 * 16 + 24 + 16 * frames  # half of a frame's overlap is later
    assert torch.equal(fifth(end), fifth(emg.shape[1]))
    assert not torch.equal(fifth(end - 16), fifth(end))


def test_every_lookahead_learns() -> None:
    torch.manual_seed(0)
    model = Model(replace(SEVERAL, encoder=replace(SEVERAL.encoder, output=48)))
    batch = batch_for(model, [24] * 3)
    same = replace(batch, emg=batch.emg[:1].expand_as(batch.emg), labels=batch.labels[:1].expand_as(batch.labels))
    same = replace(same, onsets=batch.onsets[:1].expand_as(batch.onsets))

    def read(frames: Tensor, counts: Tensor) -> list[list[int]]:
        return [list(found.labels) for found in decode_batch(GreedyDecoder(), model.classify(frames), counts)]

    memorize(model, same, read)  # as the longest reads it
    for seconds in model.lookaheads:
        other = model.with_lookahead(seconds).eval()
        cut = replace(same, emg=same.emg[:, : same.emg.shape[1] - model.context[1] + other.context[1]])
        cut = replace(cut, right=other.context[1])
        with torch.inference_mode():
            found = decode_batch(GreedyDecoder(), *other(cut))
        assert [list(one.labels) for one in found] == same.references()


def test_the_models_that_come_with_the_package_have_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert model_folder("live").parent.name == "shipped"
    assert model_folder("runs/live") == Path("runs/live")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "live").mkdir()  # for instance, a folder of recordings
    assert model_folder("live").parent.name == "shipped"
    (tmp_path / "live" / "config.json").touch()
    assert model_folder(Path("live")) == Path("live")  # the user's own model comes first
