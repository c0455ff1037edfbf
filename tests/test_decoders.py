"""Decoders by name: what each is made of, and what is said where that does not fit."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st

from emgscribe import evaluation
from emgscribe.data.charset import BLANK, NUM_CLASSES
from emgscribe.data.session import Session
from emgscribe.decoding import registry as decoders
from emgscribe.decoding.beam import BeamConfig, BeamDecoder
from emgscribe.decoding.greedy import Emissions, GreedyDecoder, decode
from emgscribe.decoding.language_model import LanguageModel, train
from emgscribe.decoding.registry import DECODERS, Inputs
from emgscribe.decoding.tuning import load_tuned, tune_model
from emgscribe.errors import EmgscribeError
from emgscribe.evaluation import read
from emgscribe.models.ancestry import Ancestry
from emgscribe.models.encoders import MlpConfig
from emgscribe.models.model import Model, ModelConfig

MakeStored = Callable[..., Session]
WORDS = train("the cat sat on the mat and the rat ate the oat " * 3, order=3)
OTHER = train("a dog is a dog and no cat " * 3, order=3)


@pytest.fixture(scope="module")
def model() -> Model:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Model(ModelConfig(encoder=MlpConfig())).eval()


@pytest.fixture
def validated(model: Model, make_stored: MakeStored, monkeypatch: pytest.MonkeyPatch) -> list[Session]:
    """A session that validated the model, beside one that trained it."""
    sessions = [make_stored(3000, [(3, 500), (4, 1500)], name=name) for name in ("trained", "validated")]
    monkeypatch.setattr(model, "ancestry", Ancestry().after(sessions[:1], sessions[1:]))
    return sessions


@pytest.fixture
def tuned(model: Model, validated: list[Session], tmp_path: Path) -> Path:
    """The folder of a model whose beam was tuned."""
    folder = tmp_path / "model"
    tune_model(folder, model, validated[1:], WORDS, BeamConfig(beam_size=3, labels_per_frame=3))
    return folder


def made(model: Model, folder: Path, **changes: object) -> tuple[BeamDecoder, dict]:
    found = DECODERS["beam"](Inputs(model, folder, **changes))
    assert isinstance(found.decoder, BeamDecoder)
    return found.decoder, found.settings


def test_greedy_needs_nothing(model: Model, tmp_path: Path) -> None:
    assert isinstance(DECODERS["greedy"](Inputs(model, tmp_path)).decoder, GreedyDecoder)


def test_without_tuned_weights_the_beam_takes_the_stated_defaults(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_out = []

    def default(*, exclude: frozenset[str]) -> LanguageModel:
        left_out.append(exclude)
        return WORDS

    monkeypatch.setattr(decoders, "default_language_model", default)
    decoder, settings = made(model, tmp_path, exclude=frozenset({"a prompt"}))
    assert left_out == [{"a prompt"}]
    assert decoder.config == BeamConfig()
    assert (settings["lm_weight"], settings["insertion_bonus"], settings["tuned_on"]) == (0.5, 1.0, [])
    OTHER.write(tmp_path / "other.arpa")
    assert made(model, tmp_path, language_model=tmp_path / "other.arpa")[1]["language_model"] == OTHER.digest
    assert len(left_out) == 1


def test_what_was_tuned_is_taken_with_its_language_model(model: Model, tuned: Path) -> None:
    stored = load_tuned(tuned)
    assert stored
    assert sorted(path.name for path in tuned.iterdir()) == [
        "beam.json",
        f"language-model-{WORDS.digest}.arpa.gz",
    ]
    decoder, settings = made(model, tuned)
    assert decoder.config == stored.config
    assert decoder.config.beam_size == 3
    assert settings["language_model"] == WORDS.digest
    assert settings["tuned_on"] == ["validated"]
    assert settings["order"] == 3
    WORDS.write(tuned / "same.arpa")  # another file, the same model
    assert made(model, tuned, language_model=tuned / "same.arpa")[1] == settings


def test_tuned_anew_the_old_language_model_goes(model: Model, validated: list[Session], tuned: Path) -> None:
    tune_model(tuned, model, validated[1:], OTHER, BeamConfig(beam_size=2))
    assert sorted(path.name for path in tuned.iterdir()) == ["beam.json", f"language-model-{OTHER.digest}.arpa.gz"]
    assert made(model, tuned)[1]["language_model"] == OTHER.digest


def test_of_two_who_tune_one_model_the_second_is_told(model: Model, validated: list[Session], tuned: Path) -> None:
    before = {path.name: path.read_bytes() for path in tuned.iterdir()}
    with (
        FileLock(tuned.parent / ".lock"),
        pytest.raises(EmgscribeError, match="another process is training or tuning a model") as caught,
    ):
        tune_model(tuned, model, validated[1:], OTHER, BeamConfig(beam_size=1))
    assert caught.value.where == str(tuned.parent)
    assert {path.name: path.read_bytes() for path in tuned.iterdir()} == before


def test_weights_of_another_language_model_are_refused(model: Model, tuned: Path, tmp_path: Path) -> None:
    OTHER.write(tmp_path / "other.arpa.gz")
    with pytest.raises(EmgscribeError, match="were tuned with another language model") as caught:
        made(model, tuned, language_model=tmp_path / "other.arpa.gz")
    assert "lm tune" in str(caught.value)


def test_what_it_was_tuned_on_is_not_scored(
    model: Model, validated: list[Session], tuned: Path, make_stored: MakeStored
) -> None:
    with pytest.raises(EmgscribeError, match="validated: the beam's weights were tuned on this session"):
        made(model, tuned, scored=validated[1:])
    made(model, tuned, scored=[make_stored(100, name="fresh")])


def test_only_what_validated_is_tuned_on(
    model: Model, validated: list[Session], make_stored: MakeStored, tmp_path: Path
) -> None:
    trained, (test,) = validated[0], [make_stored(3000, [(1, 50)], name="test")]
    for session, told in ((trained, "was trained on this session"), (test, "it may be a test.*tune on validated")):
        with pytest.raises(EmgscribeError, match=f"(?s){session.name}: .*{told}"):
            tune_model(tmp_path / "model", model, [validated[1], session], WORDS)
    assert not (tmp_path / "model").exists()
    model.ancestry = replace(model.ancestry, validated_on=())  # a model that does not say
    tune_model(tmp_path / "model", model, [test], WORDS, BeamConfig(beam_size=1))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda folder, path: path.unlink(), "cannot be read"),
        (lambda folder, path: path.write_bytes(path.read_bytes()[:-30]), "is damaged"),
        (lambda folder, path: OTHER.write(path), "not the language model that the weights were tuned with"),
        (lambda folder, path: (folder / "beam.json").write_text("{}"), "not of format emgscribe-beam version 1"),
        (lambda folder, path: (folder / "beam.json").write_text("{"), "not valid JSON"),
        (
            lambda folder, path: (folder / "beam.json").write_text(
                (folder / "beam.json").read_text().replace('"beam_size": 3', '"beam_size": 0')
            ),
            "beam_size is 0",
        ),
    ],
    ids=["gone", "cut", "another", "foreign", "no-json", "impossible"],
)
def test_damage_is_told(model: Model, tuned: Path, damage: Callable[[Path, Path], None], told: str) -> None:
    (path,) = tuned.glob("*.arpa.gz")
    damage(tuned, path)
    with pytest.raises(EmgscribeError, match=told) as caught:
        made(model, tuned)
    assert caught.value.hint


def test_another_version_is_told(model: Model, tuned: Path) -> None:
    content = json.loads((tuned / "beam.json").read_text())
    (tuned / "beam.json").write_text(json.dumps(content | {"version": 2}))
    with pytest.raises(EmgscribeError, match="version 1"):
        made(model, tuned)


def emitted(frames: int, seed: int, impossible: float) -> Emissions:
    """Log-probabilities of which a share is minus infinity, the blank's never."""
    random = np.random.default_rng(seed)
    scores = 3 * random.normal(size=(frames, NUM_CLASSES))
    scores[random.random(scores.shape) < impossible] = -np.inf
    scores[:, BLANK] = 0
    return (scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))).astype(np.float32)


@given(st.integers(1, 40), st.integers(0, 99), st.sampled_from([0.0, 0.5, 0.97]), st.sampled_from(["beam", "greedy"]))
def test_a_session_is_read_as_its_emissions_are(
    model: Model, make_stored: MakeStored, frames: int, seed: int, impossible: float, name: str
) -> None:
    given_emissions = emitted(frames, seed, impossible)
    session = make_stored(frames * model.samples_per_frame, name=f"{frames}-{seed}-{impossible}")
    folder = Path("no folder")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoders, "default_language_model", lambda **_: WORDS)
        patch.setattr(evaluation, "_emissions", lambda *_: iter([given_emissions]))
        decoder = DECODERS[name](Inputs(model, folder)).decoder
        assert read(model, session, decoder, block_seconds=0.1) == decode(decoder, given_emissions)


@pytest.mark.parametrize(
    ("emissions", "told"),
    [
        (np.zeros((2, 98), np.float32), r"shape \(2, 98\), expected \(frames, 99\)"),
        (np.zeros((2, 100), np.float32), r"shape \(2, 100\)"),
        (np.full((2, 99), np.nan, np.float32), "NaN from frame 0 on"),
        (np.full((2, 99), -np.inf, np.float32), "no class is possible in frame 0"),
    ],
    ids=["fewer", "more", "nan", "impossible"],
)
def test_emissions_that_no_beam_can_read_are_told(
    model: Model, make_stored: MakeStored, monkeypatch: pytest.MonkeyPatch, emissions: Emissions, told: str
) -> None:
    monkeypatch.setattr(evaluation, "_emissions", lambda *_: iter([emissions]))
    with pytest.raises(EmgscribeError, match=told):
        read(model, make_stored(2 * model.samples_per_frame), BeamDecoder(BeamConfig(3), WORDS.automaton()))
