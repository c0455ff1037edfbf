"""Every named experiment is a value that can be stored, built and trained for a step."""

from dataclasses import fields, replace

import pytest
import torch

from emgscribe.config import from_json, to_json
from emgscribe.experiments import ABLATIONS, BASELINE, EXPERIMENTS, SMALL, TABLE1, Experiment
from emgscribe.model import Model
from emgscribe.objective import ctc_loss, keypress_loss
from emgscribe.windows import Batch


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_round_trip_through_json(name: str) -> None:
    experiment = EXPERIMENTS[name]
    assert experiment.name == name
    assert from_json(Experiment, to_json(experiment), where="test") == experiment


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_takes_a_step(name: str) -> None:
    experiment = EXPERIMENTS[name]
    torch.manual_seed(0)
    model = Model(experiment.model)
    left, right = model.context
    emg = torch.randn(2, left + 4000 + right, 2, 16)
    labels = torch.tensor([[1, 2], [3, 98]])
    batch = Batch(
        emg, left, right, torch.tensor([4000, 4000]), labels, torch.tensor([2, 1]), torch.tensor([[9, 50], [7, -1]])
    )
    generator = torch.Generator().manual_seed(0)
    augmented = experiment.augment.on_batch(batch, generator)
    features = experiment.augment.on_features(model.featurize(augmented), generator)
    emissions = model.emit(features, batch.lengths)
    assert emissions.shape == (2, -(-4000 // model.samples_per_frame), 99)
    (ctc_loss(emissions, batch, model) + keypress_loss(emissions, batch, model)).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_the_baseline_is_the_published_one() -> None:
    assert sum(p.numel() for p in Model(BASELINE.model).parameters()) == 5_293_315
    train, windows = BASELINE.train, BASELINE.windows
    assert (train.epochs, train.batch_size, train.lr, train.warmup_epochs, train.seed) == (150, 32, 1e-3, 10, 1501)
    assert (windows.length, windows.stride, windows.left, windows.right) == (8000, 8000, 1800, 200)
    augment = BASELINE.augment
    assert (augment.rotation.offsets, augment.jitter.samples) == ((-1, 0, 1), 120)
    spec = augment.spec
    assert (spec.time_masks, spec.time_frames, spec.frequency_masks, spec.frequency_bins) == (3, 25, 2, 4)


def test_table1_is_the_seed_papers() -> None:
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
    # Only what its name says differs from the baseline in a row.
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
        if kind in ("electrodes", "rate", "left", "right"):
            assert changed == {"model"}
            assert experiment.model.encoder == SMALL.model.encoder
        elif kind == "hop":
            assert changed == {"model", "augment"}
        elif kind == "no":
            assert changed == {"augment"}
        elif kind != "full":
            assert changed - {"augment"} <= {"data", "train", "start"}
            assert ("augment" in changed) == name.endswith("no-rotation")
        if kind != "hop":
            assert Model(experiment.model).samples_per_frame == base.samples_per_frame


def test_ablations_see_the_same_stretch_of_time_at_every_hop() -> None:
    spans = {sum(Model(e.model).context) for name, e in ABLATIONS.items() if "hop" in name or e == SMALL}
    assert max(spans) - min(spans) < 160  # samples: 80 ms
