"""Every named experiment is a value that can be stored, built and trained for a step."""

import re
from collections import defaultdict
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from emgscribe.config import from_json, to_json
from emgscribe.data.windows import Batch
from emgscribe.errors import EmgscribeError
from emgscribe.experiments.recipes import (
    ABLATIONS,
    BASELINE,
    BEST,
    EXPERIMENTS,
    GROUPS,
    RECORDS,
    SMALL,
    SUITES,
    TABLE1,
    TABLE2,
    Experiment,
)
from emgscribe.experiments.tables import published_numbers
from emgscribe.models.attention import AttentionConfig
from emgscribe.models.model import Model
from emgscribe.training.losses import attention_loss, ctc_loss, keypress_loss
from emgscribe.transcription import inference_plan


def test_round_trip_through_json() -> None:
    for name, experiment in EXPERIMENTS.items():
        assert experiment.name == name
        assert from_json(Experiment, to_json(experiment), where="test") == experiment


# One name for each network: experiments that differ in data, augmentation or training alone take the same step.
DISTINCT = {repr(experiment.model): name for name, experiment in reversed(EXPERIMENTS.items())}.values()


@pytest.mark.parametrize("name", DISTINCT)
def test_every_network_takes_a_training_step(name: str) -> None:
    experiment = EXPERIMENTS[name]
    torch.manual_seed(0)
    model = Model(experiment.model)
    left, right = model.context
    emg = torch.randn(2, left + 960 + right, 2, 16)
    labels = torch.tensor([[1, 2], [3, 98]])
    batch = Batch(
        emg, left, right, torch.tensor([960, 960]), labels, torch.tensor([2, 1]), torch.tensor([[9, 50], [7, -1]])
    )
    generator = torch.Generator().manual_seed(0)
    augmented = experiment.augment.on_batch(batch, generator)
    features = experiment.augment.on_features(model.featurize(augmented), generator)
    frames = model.encode(features, batch.lengths)
    emissions, lengths = model.classify(frames), model.frames(batch.lengths)
    assert emissions.shape == (2, model.frames(960), 99)
    loss = ctc_loss(emissions, lengths, batch) + keypress_loss(emissions, lengths, batch, model.samples_per_frame)
    if model.attention is not None:
        loss = loss + attention_loss(model.attention(frames, lengths, batch.labels), batch)
    loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_the_baseline_is_the_published_one() -> None:
    assert counted(Model(BASELINE.model)) == 5_293_315
    train, windows = BASELINE.train, BASELINE.windows
    assert (train.epochs, train.batch_size, train.lr, train.warmup_epochs, train.seed) == (150, 32, 1e-3, 10, 1501)
    assert (windows.length, windows.stride, windows.left, windows.right) == (8000, 8000, 1800, 200)
    augment = BASELINE.augment
    assert (augment.rotation.offsets, augment.jitter.samples) == ((-1, 0, 1), 120)
    spec = augment.spec
    assert (spec.time_masks, spec.time_frames, spec.frequency_masks, spec.frequency_bins) == (3, 25, 2, 4)


def test_table1_is_that_of_the_course_project() -> None:
    assert len(TABLE1) == 9
    assert {experiment.train.epochs for experiment in TABLE1.values()} == {30}
    base = TABLE1["table1/baseline"]
    assert replace(base, name="baseline", train=replace(base.train, epochs=150)) == BASELINE
    masks = {name: (e.augment.spec.time_masks, e.augment.spec.frequency_masks) for name, e in TABLE1.items()}
    assert masks["table1/specaugment-4-3"] == masks["table1/specaugment-4-3-warp-4-0.2"] == (4, 3)
    assert masks["table1/specaugment-2-1"] == (2, 1)
    warps = {name: (e.augment.warp.knots, e.augment.warp.sigma) for name, e in TABLE1.items()}
    assert warps["table1/warp-4-0.2"] == warps["table1/specaugment-4-3-warp-4-0.2"] == (4, 0.2)
    assert warps["table1/warp-3-0.1"] == (3, 0.1)
    # In each row, only what its name says differs from the baseline.
    for name, experiment in TABLE1.items():
        assert (experiment.model == base.model) == ("reduction" not in name)
        assert (experiment.augment == base.augment) == ("specaugment" not in name and "warp" not in name)


def test_an_ablation_changes_what_its_name_says_and_nothing_else() -> None:
    base = Model(SMALL.model)
    for name, experiment in ABLATIONS.items():
        changed = {f.name for f in fields(Experiment) if getattr(experiment, f.name) != getattr(SMALL, f.name)} - {
            "name"
        }
        kind = name.removeprefix("ablation/").split("-")[0]
        if kind in ("electrodes", "rate", "left", "right", "raw"):
            assert changed == {"model"}
            assert experiment.model.encoder == SMALL.model.encoder
        elif kind == "hop":
            assert changed == {"model", "augment"}
        elif kind == "gru":
            assert changed - {"augment"} == {"model", "train"}
        elif kind == "no":
            assert changed == {"augment"}
        elif kind != "full":
            assert changed - {"augment"} <= {"data", "train", "start"}
            assert ("augment" in changed) == name.endswith("no-rotation")
        if "hop" not in name:
            assert Model(experiment.model).samples_per_frame == base.samples_per_frame


def test_ablations_see_the_same_stretch_of_time_at_every_hop() -> None:
    spans = {
        sum(Model(e.model).context) for name, e in ABLATIONS.items() if name.startswith("ablation/hop") or e == SMALL
    }
    assert max(spans) - min(spans) < 160  # samples: 80 ms


def test_table2_is_that_of_the_course_project() -> None:
    epochs = {name.removeprefix("table2/"): experiment.train.epochs for name, experiment in TABLE2.items()}
    assert {name for name, count in epochs.items() if count == 150} == {"cnn-gru-no-dropout"}
    assert {name for name, count in epochs.items() if count == 50} == {
        *("transformer", "cnn-transformer-1", "cnn-transformer-2", "cnn-transformer-4")
    }
    assert {name for name, count in epochs.items() if count == 30} == {"specaugment-4-3"}
    assert set(epochs.values()) == {30, 50, 150, 400}
    # Each row differs from the baseline only in its epochs and its network, and in the network only in the encoder.
    for name, experiment in TABLE2.items():
        changed = replace(experiment, name="baseline", train=replace(experiment.train, epochs=150))
        assert changed.model.features == BASELINE.model.features
        if "specaugment" not in name:
            assert replace(changed, model=BASELINE.model) == BASELINE
    assert TABLE2["table2/baseline"].model == BASELINE.model


@pytest.mark.parametrize("name", TABLE2)
def test_table2_asks_for_the_published_context(name: str) -> None:
    model = Model(TABLE2[name].model)
    if name != "table2/excitation-finite":  # its squeeze needs more context, so that no block cuts it short
        assert model.context == (112 * 16 + 24, 12 * 16 + 24)


def test_causal_experiments_look_ahead_as_far_as_their_names_say() -> None:
    causal = {name: Model(experiment.model) for name, experiment in RECORDS.items() if "causal" in name}
    for name, model in causal.items():
        spectra = 24  # samples by which a spectrum reaches beyond the hop that it stands for
        assert not model.encoder.unbounded_right
        assert model.context[1] == spectra + (96 * 2 if name.endswith("-96") else 0)
        assert model.encoder.causal == (not name.endswith("-96"))
    assert len(causal) == 5


def test_the_attention_experiment_is_the_baseline_with_a_second_head() -> None:
    experiment = RECORDS["records/attention"]
    assert (
        replace(experiment, name="baseline", model=replace(experiment.model, attention=AttentionConfig())) == BASELINE
    )
    small, base = EXPERIMENTS["small/records/attention"], EXPERIMENTS["small/table1/baseline"]
    second = small.model.attention
    assert (second.layers, second.width, second.heads, second.feed_forward) == (2, 128, 4, 512)
    assert replace(small, name=base.name, model=replace(small.model, attention=AttentionConfig())) == base


def counted(model: Model) -> int:
    """Parameters of a network, learned features included."""
    return sum(parameter.numel() for parameter in model.parameters())


def test_the_best_bigru_has_the_size_that_its_source_names() -> None:
    assert counted(Model(RECORDS["records/bigru-48"].model)) == pytest.approx(6.4e6, rel=0.005)


def test_the_docs_list_every_network_as_it_is() -> None:
    page = (Path(__file__).parent.parent / "docs" / "encoders.md").read_text()
    found = re.findall(
        r"^\| `((?:table2|records)/\S+|best|best-causal)` \|.*\| ([\d,]+) \| (\d+) / (\d+) \| ([^|]+) \|$",
        page,
        re.MULTILINE,
    )
    expected = []
    for name, experiment in {**TABLE2, **RECORDS, **{n: BEST[n] for n in ("best", "best-causal")}}.items():
        model = Model(experiment.model).eval()
        left, right = (round(samples / 2) for samples in model.context)
        plan = inference_plan(model, 20 * 60 * 2000).name
        expected.append((name, f"{counted(model):,}", str(left), str(right), plan.split(",")[0]))
    assert found == expected


@pytest.mark.parametrize(
    "name", ["", "../x", "a/../../x", "/x", "a//b", ".hidden", "a\0b", "a\nb", "\udcff", "é" * 101]
)
def test_a_name_stays_in_the_folders_of_runs_and_results(name: str) -> None:
    assert replace(SMALL, name="my/" + "é" * 98)
    with pytest.raises(EmgscribeError, match=r"^name is "):
        replace(SMALL, name=name)


@pytest.mark.parametrize("field", ["time_masks", "time_frames"])
def test_more_masks_than_frames_are_refused_when_the_experiment_is_made(field: str) -> None:
    frames = 8000 // 48
    assert replace(SMALL, augment=replace(SMALL.augment, spec=replace(SMALL.augment.spec, **{field: frames})))
    too_many = replace(SMALL.augment.spec, **{field: frames + 1})
    with pytest.raises(EmgscribeError, match=f"augment.spec.{field} is 167, allowed: 0 to 166"):
        replace(SMALL, augment=replace(SMALL.augment, spec=too_many))


@pytest.mark.parametrize("table", ["table1", "table2"])
@pytest.mark.parametrize("budget", ["small", "medium"])
def test_a_small_experiment_differs_from_its_table_as_its_original_does(budget: str, table: str) -> None:
    suite = SUITES[f"{budget}/{table}"]
    base = suite.experiments[0]
    assert (suite.protocol, SUITES[table].protocol) == ("latest", "course")
    for original, small in zip(SUITES[table].experiments, suite.experiments, strict=True):
        assert small.name == f"{budget}/{original.name}"
        assert (small.data, small.windows, small.model.features) == (base.data, base.windows, base.model.features)
        assert replace(small.train, seed=base.train.seed) == base.train
        assert (small.model == base.model) == (original.model == BASELINE.model)
        assert (small.augment == base.augment) == (original.augment == BASELINE.augment)


def test_suites_hold_named_experiments_and_no_run_twice() -> None:
    for name, suite in SUITES.items():
        assert (suite.name, bool(suite.about)) == (name, True)
        assert all(replace(e, train=EXPERIMENTS[e.name].train) == EXPERIMENTS[e.name] for e in suite.experiments)
        assert len({(e.name, e.train.seed) for e in suite.experiments}) == len(suite.experiments)
        assert suite.protocol in {e.data.protocol for e in suite.experiments}
    assert len(SUITES["benchmark"].experiments) == 1 + 2 * 8
    assert len(EXPERIMENTS) == sum(map(len, GROUPS.values()))


@pytest.mark.parametrize("budget", ["", "small/", "medium/"])
def test_the_rows_of_the_course_tables_that_conclusions_rest_on_have_three_seeds(budget: str) -> None:
    several = {
        "table1": {"baseline", "specaugment-4-3"},
        "table2": {"baseline", "dropout", "bilstm", "excitation", "cnn-gru"},
    }
    for table, names in several.items():
        seeds = defaultdict[str, list[int]](list)
        for experiment in SUITES[f"{budget}{table}"].experiments:
            seeds[experiment.name.removeprefix(f"{budget}{table}/")].append(experiment.train.seed)
        assert names < seeds.keys()
        assert dict(seeds) == {name: [1501, 1502, 1503] if name in names else [1501] for name in seeds}


def test_figure1_has_a_panel_for_each_row_of_table2() -> None:
    published = published_numbers()["experiments"]
    figure1 = SUITES["figure1"].experiments
    assert {e.name for e in figure1} == {name for name in published if name.startswith("table2/")}
    assert len(figure1) == 12
