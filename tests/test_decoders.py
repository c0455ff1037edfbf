"""Decoders by name, and the search of the beam's two weights that is stored with a model."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from emgscribe.cli.models import decoder_names
from emgscribe.data.charset import BLANK, NUM_CLASSES, labels_of_text
from emgscribe.data.hdf5 import Prompt
from emgscribe.data.session import Session, open_session
from emgscribe.decoding import registry, tuning
from emgscribe.decoding.beam import PUBLISHED, BeamConfig, BeamDecoder
from emgscribe.decoding.decoder import Emissions
from emgscribe.decoding.greedy import GreedyDecoder
from emgscribe.decoding.language_model import LanguageModel, train
from emgscribe.decoding.registry import DECODERS, make_decoder
from emgscribe.decoding.tuning import Trial, load_tuned, tune, tune_model
from emgscribe.errors import EmgscribeError
from emgscribe.models.ancestry import Ancestry, Seen
from emgscribe.scoring import count, total

MakeStored = Callable[..., Session]
TEXT = "the cat sat on the mat and the rat ate the oat that the cat had at the mat "
WORDS = train(TEXT * 3, order=3)
OTHER = train("a dog is a dog and no cat " * 3, order=3)
SMALL = BeamConfig(beam_size=8, labels_per_frame=6)


def misread(text: str, seed: int = 0) -> Emissions:
    """Emissions of a typed text in which wrong letters are often the likelier ones, and keys are weak."""
    random = np.random.default_rng(seed)
    scores = random.normal(size=(4 * len(text), NUM_CLASSES))
    scores[:, BLANK] += 6
    for place, label in enumerate(labels_of_text(text)):
        scores[4 * place + 1, label] += 6 + random.normal()
        scores[4 * place + 1, random.choice(labels_of_text("bcdefgnopqrst"))] += 6 + random.normal()
    return (scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))).astype(np.float32)


def tuned_on(
    folder: Path, ancestry: Ancestry, sessions: list[Session], lm: LanguageModel = WORDS, beam_size: int = 3
) -> None:
    tune_model(folder, ancestry, sessions, (misread("cat") for _ in sessions), lm, BeamConfig(beam_size, 3))


@pytest.fixture
def trained_and_validated(make_stored: MakeStored) -> list[Session]:
    return [make_stored(3000, [(3, 500), (4, 1500)], name=name) for name in ("trained", "validated")]


@pytest.fixture
def ancestry(trained_and_validated: list[Session]) -> Ancestry:
    return Ancestry().after(trained_and_validated[:1], trained_and_validated[1:])


@pytest.fixture
def tuned(ancestry: Ancestry, trained_and_validated: list[Session], tmp_path: Path) -> Path:
    """The folder of a model whose beam was tuned."""
    tuned_on(tmp_path / "model", ancestry, trained_and_validated[1:])
    return tmp_path / "model"


def made(folder: Path | str | None = None, **changes: object) -> tuple[BeamDecoder, dict]:
    found = make_decoder("beam", folder=folder, **changes)
    assert isinstance(found, BeamDecoder)
    return found, found.settings


def test_decoders_have_names() -> None:
    assert isinstance(make_decoder("greedy"), GreedyDecoder)
    assert list(DECODERS) == ["greedy", "beam"]
    assert decoder_names("greedy, beam,greedy") == ["greedy", "beam"]  # once each
    with pytest.raises(EmgscribeError, match="decoder is 'bean', allowed: greedy, beam"):
        make_decoder("bean")


def test_without_tuned_weights_the_beam_takes_the_stated_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_session: Callable[..., Path], make_stored: MakeStored
) -> None:
    left_out = []

    def default(*, exclude: frozenset[str]) -> LanguageModel:
        left_out.append(exclude)
        return WORDS

    monkeypatch.setattr(registry, "default_language_model", default)
    path = make_session(prompts=[Prompt("p", 1.0, 2.0, "a prompt")])
    decoder, settings = made(tmp_path, scored=[open_session(path), make_stored()])  # in memory there are no prompts
    assert left_out == [{"a prompt"}]
    assert decoder.config == BeamConfig()
    assert (settings["lm_weight"], settings["insertion_bonus"], settings["tuned_on"]) == (0.5, 1.0, [])
    OTHER.write(tmp_path / "other.arpa")
    for lm in (OTHER, tmp_path / "other.arpa", str(tmp_path / "other.arpa")):
        assert made(lm=lm)[1]["language_model"] == OTHER.digest
    assert len(left_out) == 1


def test_tuned_weights_are_used_with_their_language_model(tuned: Path) -> None:
    stored = load_tuned(tuned)
    assert stored
    assert sorted(path.name for path in tuned.iterdir()) == ["beam.json", f"language-model-{WORDS.digest}.arpa.gz"]
    decoder, settings = made(str(tuned))
    assert decoder.config == stored.config
    assert decoder.config.beam_size == 3
    assert (settings["language_model"], settings["tuned_on"], settings["order"]) == (WORDS.digest, ["validated"], 3)
    WORDS.write(tuned / "same.arpa")  # another file, the same model
    assert made(tuned, lm=tuned / "same.arpa")[1] == settings


def test_tuning_again_replaces_the_language_model_unless_another_process_is_tuning(
    ancestry: Ancestry, trained_and_validated: list[Session], tuned: Path
) -> None:
    before = {path.name: path.read_bytes() for path in tuned.iterdir()}
    with (
        FileLock(tuned.parent / ".lock"),
        pytest.raises(EmgscribeError, match=r"another process \(.*\) is training or tuning a model") as caught,
    ):
        tuned_on(tuned, ancestry, trained_and_validated[1:], OTHER, 1)
    assert caught.value.where == str(tuned.parent)
    assert {path.name: path.read_bytes() for path in tuned.iterdir()} == before
    tuned_on(tuned, ancestry, trained_and_validated[1:], OTHER)
    assert sorted(path.name for path in tuned.iterdir()) == ["beam.json", f"language-model-{OTHER.digest}.arpa.gz"]
    assert made(tuned)[1]["language_model"] == OTHER.digest


def test_another_language_model_and_the_sessions_tuned_on_are_refused(
    tuned: Path, trained_and_validated: list[Session], make_stored: MakeStored
) -> None:
    with pytest.raises(EmgscribeError, match=r"(?s)were tuned with another language model.*lm tune"):
        made(tuned, lm=OTHER)
    _, validated = trained_and_validated
    for scored in (validated, validated.first(2000), validated.part(1000, 3000)):
        with pytest.raises(EmgscribeError, match="validated: the beam's weights were tuned on this session"):
            made(tuned, scored=[scored])
    made(tuned, scored=[make_stored(100, name="fresh")])


def test_beam_weights_are_tuned_on_validation_sessions_only(
    ancestry: Ancestry, trained_and_validated: list[Session], make_stored: MakeStored, tmp_path: Path
) -> None:
    (trained, validated), test = trained_and_validated, make_stored(3000, [(1, 50)], name="test")

    def unwanted() -> None:
        pytest.fail("the network ran on refused sessions")
        yield

    for session, reason in ((trained, "was trained on this session"), (test, "may be a test.*tune on validated")):
        with pytest.raises(EmgscribeError, match=f"(?s){session.name}: .*{reason}"):
            tune_model(tmp_path / "model", ancestry, [validated, session], unwanted(), WORDS)
    assert not (tmp_path / "model").exists()
    tuned_on(tmp_path / "model", replace(ancestry, validated_on=()), [test])  # a model without validation sessions
    for known in (Seen(f"{test.content}:2000", "another name", "user"), Seen("", test.name, "user")):
        tuned_on(tmp_path / "part", replace(ancestry, validated_on=(known,)), [test])


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder, path: path.unlink(), "no such file"),
        (lambda folder, path: path.write_bytes(path.read_bytes()[:-30]), "is damaged"),
        (lambda folder, path: OTHER.write(path), "not the language model that the weights were tuned with"),
        (lambda folder, path: (folder / "beam.json").write_text("{}"), "lacks config"),
        (lambda folder, path: (folder / "beam.json").write_text("[]"), "is \\[\\], allowed: an object"),
        (lambda folder, path: (folder / "beam.json").write_text("{"), "not valid JSON"),
    ],
    ids=["gone", "cut", "another", "foreign", "list", "no-json"],
)
def test_damage_to_the_files_of_a_tuned_beam_is_reported(
    tuned: Path, damage: Callable[[Path, Path], None], reason: str
) -> None:
    (path,) = tuned.glob("*.arpa.gz")
    damage(tuned, path)
    with pytest.raises(EmgscribeError, match=reason) as caught:
        made(tuned)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("version", "2", "version is 2, allowed: 1"),
        ("beam_size", "0", "beam_size is 0"),
        ("beam_size", "1" + "0" * 20, "beam_size is 10"),
        ("beam_size", "9" * 9999, "not valid JSON"),
        ("beam_size", "3.5", "beam_size"),
        ("labels_per_frame", "null", "labels_per_frame"),
        ("lm_weight", "1e999", "not valid JSON"),
        ("lm_weight", "9" * 999, "lm_weight"),
        ("lm_weight", "NaN", "NaN is not a number"),
        ("lm_weight", "[[]]", "lm_weight"),
        ("convention", '"\\u0000"', "control character"),
        ("convention", '"another"', "convention"),
        ("language_model", '"\\u0000"', "control character"),
        ("language_model", '"../words"', "language_model is"),
        ("sessions", '{"a": 1}', "sessions"),
        ("sessions", '["\\ud800"]', "not valid JSON"),
        ("config", "7", "config"),
    ],
    ids=lambda text: text[:20],
)
def test_damaged_settings_are_reported(tuned: Path, field: str, value: str, reason: str) -> None:
    path = tuned / "beam.json"
    content = json.loads(path.read_text())
    (content if field in content else content["config"])[field] = "here"
    path.write_text(json.dumps(content).replace('"here"', value))
    with pytest.raises(EmgscribeError, match=reason) as caught:
        made(tuned)
    assert caught.value.where == str(path)


# The search.


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return train(TEXT * 3, order=4)


@pytest.fixture(scope="module")
def validation() -> tuple[list[Emissions], list[list[int]]]:
    texts = [TEXT[:40], TEXT[20:70], TEXT[8:30]]
    return [misread(text, seed) for seed, text in enumerate(texts)], [labels_of_text(text) for text in texts]


@pytest.mark.parametrize("config", [SMALL, replace(PUBLISHED, beam_size=8)])
def test_the_best_pair_is_the_best_of_all_that_were_tried(
    config: BeamConfig, model: LanguageModel, validation: tuple[list[Emissions], list[list[int]]]
) -> None:
    emissions, references = validation
    seen: list[Trial] = []
    tuning = tune(emissions, references, model, config, progress=seen.append)
    assert tuple(seen) == tuning.trials
    pairs = [(trial.lm_weight, trial.insertion_bonus) for trial in tuning.trials]
    assert len(set(pairs)) == len(pairs) > 22
    assert min(pairs)[0] >= 0
    found = tuning.config
    assert replace(found, lm_weight=config.lm_weight, insertion_bonus=config.insertion_bonus) == config
    assert (tuning.best.lm_weight, tuning.best.insertion_bonus) == (found.lm_weight, found.insertion_bonus)
    assert tuning.best.counts.edits == min(trial.counts.edits for trial in tuning.trials)
    texts = [BeamDecoder(found, model).decode(item).labels for item in emissions]
    assert total([count(*pair) for pair in zip(references, texts, strict=True)]) == tuning.best.counts
    without = next(trial for trial in tuning.trials if (trial.lm_weight, trial.insertion_bonus) == (0, 0))
    assert tuning.best.counts.cer < 0.6 * without.counts.cer
    assert tune(emissions, references, model, config) == tuning


def test_ties_go_to_the_smaller_weights_and_refinements_halve_the_smallest_step(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    emissions = np.full((6, NUM_CLASSES), -np.inf, np.float32)
    emissions[range(6), [*labels_of_text("cat"), BLANK, BLANK, BLANK]] = 0
    monkeypatch.setattr(tuning, "_WEIGHTS", (4.0, 2.0, 1.0))
    monkeypatch.setattr(tuning, "_BONUSES", (2.0, -1.0))
    monkeypatch.setattr(tuning, "_REFINEMENTS", 1)
    found = tune([emissions], [labels_of_text("cat")], model, SMALL)
    assert {trial.counts.edits for trial in found.trials} == {0}
    assert {trial.lm_weight for trial in found.trials[6:]} == {0.5, 1.0, 1.5}  # around the best, which is (1, -1)
    assert {trial.insertion_bonus for trial in found.trials[6:]} == {-2.5, -1.0, 0.5}
    assert (found.config.lm_weight, found.config.insertion_bonus) == (0.5, 0.5)


@pytest.mark.parametrize(("sessions", "texts"), [(0, []), (1, []), (1, [""]), (1, ["a", "b"])])
def test_tuning_without_text_to_score_is_refused(model: LanguageModel, sessions: int, texts: list[str]) -> None:
    with pytest.raises(EmgscribeError, match=f"{sessions} sessions and {len(texts)} references"):
        tune([misread("the")] * sessions, [labels_of_text(text) for text in texts], model)
