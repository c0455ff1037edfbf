"""What runs on a GPU, run on a stand-in for one: nothing mixes devices, and no training step waits for the queue."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from networks import FEATURES, HEAD, SMALL
from other_device import DEVICE, OtherDevice, values
from torch.nn import functional as F

from emgscribe.data.session import Session
from emgscribe.data.windows import Store, Windows
from emgscribe.errors import EmgscribeError
from emgscribe.models import augment
from emgscribe.models.attention import search
from emgscribe.models.encoders import EncoderConfig, gru, layers
from emgscribe.models.features import FeaturesConfig, SeveralConfig, StridedConvConfig
from emgscribe.models.model import Model, ModelConfig, best_device
from emgscribe.training.callbacks import Averaging
from emgscribe.training.config import TrainConfig
from emgscribe.training.modules import training_loss

AUGMENT = augment.Augmentation(
    jitter=augment.AlignmentJitter(40),
    crop=augment.RandomCrop(200, probability=0.5),
    warp=augment.MagnitudeWarp(4, 0.2),
    scale=augment.AmplitudeScale(0.2),
    dropout=augment.ElectrodeDropout(0.2),
    noise=augment.GaussianNoise(0.1),
    spec=augment.SpecAugment(2, 3, 1, 2),
)
TRAIN = TrainConfig(epochs=1, keypress_weight=1.0, keypress_fraction=0.9)
Sessions = list[Session]


@pytest.fixture
def sessions(make_stored: Callable[..., Session]) -> Sessions:
    """Two sessions, one of them shorter than a window."""
    keys = [(key, 150 * key + 40) for key in range(1, 9)]
    return [make_stored(1400, keys), make_stored(350, keys[:2], seed=1, name="short")]


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch) -> Iterator[OtherDevice]:
    """The stand-in. Neither autocast nor generators know its device, and inference mode does not know its tensors."""
    generator = torch.Generator
    monkeypatch.setattr(torch, "Generator", lambda device="cpu": generator())
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    monkeypatch.setattr(torch, "inference_mode", torch.no_grad)
    with OtherDevice() as entered:
        yield entered


def steps(config: ModelConfig, sessions: Sessions, device: torch.device, waits: list[str]) -> tuple[list[float], Model]:
    """The losses of two whole steps, and the average of their weights; `waits` begins with the first step."""
    torch.manual_seed(0)
    model = Model(config)
    model.to(device)
    windows = Windows(Store(sessions, device), 400, 400, *model.context)
    optimizer, averaging = torch.optim.Adam(model.parameters(), lr=1e-2), Averaging(0.9)
    averaging._average_model = SimpleNamespace(module=deepcopy(model))
    waits.clear()
    generator, losses = torch.Generator().manual_seed(0), []
    for step in range(2):
        batch = windows.batch([(0, 100), (0, 1000), (1, 0)])
        found = training_loss(model, batch, AUGMENT, TRAIN, step=step, total=9, generator=generator)
        optimizer.zero_grad()
        found["total"].backward()
        optimizer.step()
        averaging.on_train_batch_end(SimpleNamespace(global_step=step + 1), model, None, batch, step)
        losses.append(found["loss"].detach())
    return [float(values(loss)) for loss in losses], averaging._average_model.module


def compare_with_the_cpu(config: ModelConfig, sessions: Sessions, other: OtherDevice) -> None:
    with pytest.MonkeyPatch.context() as patch:  # the CPU draws the masks of a dropout as a GPU does
        for module in (layers, gru):
            patch.setattr(module, "fast_dropout", F.dropout)
        expected, _ = steps(config, sessions, torch.device("cpu"), [])
    found, model = steps(config, sessions, DEVICE, other.waits)
    assert other.waits == []
    assert found == pytest.approx(expected, rel=1e-4)
    assert {value.device for value in model.state_dict().values()} == {DEVICE}


@pytest.mark.parametrize("kind", SMALL)
def test_a_step_stays_on_its_device_and_never_waits(kind: str, sessions: Sessions, other: OtherDevice) -> None:
    compare_with_the_cpu(ModelConfig(FEATURES, SMALL[kind], HEAD), sessions, other)


@pytest.mark.parametrize(
    "features",
    [
        replace(FEATURES, decimation=2, edges=(0, 4, 9)),
        StridedConvConfig(electrodes=(0, 3), bands=(1,)),
        SeveralConfig(),
    ],
)
def test_every_kind_of_features_stays_on_its_device_and_never_waits(
    features: FeaturesConfig, sessions: Sessions, other: OtherDevice
) -> None:
    compare_with_the_cpu(ModelConfig(features, SMALL["mlp"]), sessions, other)
    assert {type(FEATURES), StridedConvConfig, SeveralConfig} == set(FeaturesConfig.kinds.values())


@pytest.mark.parametrize("kind", EncoderConfig.kinds)
def test_transcription_on_a_gpu_is_that_on_the_cpu(kind: str, sessions: Sessions, other: OtherDevice) -> None:
    model = Model(ModelConfig(FEATURES, SMALL[kind], HEAD)).eval()
    expected = model.log_probs(sessions[0])
    batch = Windows(Store(sessions), 400, 400, *model.context).batch([(0, 100), (1, 0)])
    texts = texts_of(model, batch)
    model.to(DEVICE)
    assert texts_of(model, batch.to(DEVICE)) == texts
    assert model.log_probs(sessions[0]) == pytest.approx(expected, abs=1e-4)


def texts_of(model: Model, batch: Any) -> list[list[int]]:
    assert model.attention is not None
    with torch.no_grad():
        frames, counts = model.encode(model.featurize(batch), batch.lengths), model.frames(batch.lengths)
        return search.__wrapped__(model.attention, frames, counts, model.classify(frames), beam_size=2)


def test_the_stand_in_refuses_what_a_gpu_refuses_and_sees_what_waits(other: OtherDevice) -> None:
    there, here = torch.ones(3, device=DEVICE), torch.ones(3)
    with pytest.raises(RuntimeError, match=r"aten.add.Tensor has tensors on meta and on the CPU"):
        there + here
    assert (there + torch.tensor(1.0)).device == DEVICE  # a single number may come from anywhere
    assert here.to(DEVICE, non_blocking=True).device == DEVICE
    assert other.waits == []
    for wait in (
        lambda: there.sum().item(),
        lambda: there.cpu(),
        lambda: here.to(DEVICE),
        lambda: there[there > 0],
        lambda: there[torch.tensor([0, 1])],
        lambda: there.nonzero(),
        lambda: bool(there.any()),
    ):
        other.waits.clear()
        wait()
        assert len(other.waits) == 1


def test_the_environment_chooses_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EMGSCRIBE_DEVICE", raising=False)
    for cuda, mps, asked, found in (
        (False, True, "", "cpu"),  # Apple's GPU only where it is asked for
        (True, False, "", "cuda"),
        (True, False, "cpu", "cpu"),
        (False, True, "mps", "mps"),
    ):
        monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda mps=mps: mps)
        monkeypatch.setenv("EMGSCRIBE_DEVICE", asked)
        assert best_device().type == found
    for unknown in ("cuda", "tpu"):
        monkeypatch.setenv("EMGSCRIBE_DEVICE", unknown)
        with pytest.raises(EmgscribeError, match=f"EMGSCRIBE_DEVICE is '{unknown}', allowed: cpu, mps"):
            best_device()
