"""Published checkpoints are imported and exported; everything else is refused."""

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import DATA
from hypothesis import given, settings
from hypothesis import strategies as st

from emgscribe.cli import main
from emgscribe.data.session import open_session
from emgscribe.data.splits import published_names
from emgscribe.errors import EmgscribeError
from emgscribe.models.attention import AttentionConfig
from emgscribe.models.encoders import MlpConfig, TdsConfig
from emgscribe.models.features import SpectrogramConfig
from emgscribe.models.model import Model, ModelConfig, load_model, save_model
from emgscribe.models.published import export_checkpoint, import_checkpoint

TINY = DATA / "published_tiny.ckpt"


def stored(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def with_pickle(path: Path, made: bytes) -> Path:
    """The tiny checkpoint with another pickle in it."""
    with zipfile.ZipFile(TINY) as whole, zipfile.ZipFile(path, "w") as parts:
        for name in whole.namelist():
            parts.writestr(name, made if name.endswith("/data.pkl") else whole.read(name))
    return path


def weights() -> dict[str, torch.Tensor]:
    """The weights of the tiny checkpoint by their published names."""
    model = import_checkpoint(TINY)
    export_checkpoint(model, path := Path("tiny.ckpt"))
    found: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return found


def test_a_model_survives_export_and_import(tmp_path: Path) -> None:
    model = import_checkpoint(TINY)
    export_checkpoint(model, tmp_path / "out.ckpt")
    again = import_checkpoint(tmp_path / "out.ckpt")
    assert again.config == model.config
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    full = Model(ModelConfig())
    export_checkpoint(full, tmp_path / "full.ckpt")
    assert len(torch.load(tmp_path / "full.ckpt", weights_only=True)["state_dict"]) == 51
    assert torch.equal(import_checkpoint(tmp_path / "full.ckpt").head.weight, full.head.weight)


def test_the_exported_names_are_the_published_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile(TINY) as parts:
        content = parts.read("archive/data.pkl").decode("latin-1")
    names = weights()
    assert len(names) == 31
    assert all(name in content for name in names)


def test_an_import_can_name_the_published_split_that_trained_the_model(
    tmp_path: Path, make_session: Callable[..., Path]
) -> None:
    name, _ = published_names("generic", "train")[0]
    with pytest.raises(EmgscribeError, match="latest is not a published split"):
        import_checkpoint(TINY, trained_on="latest")
    known, unknown = import_checkpoint(TINY, trained_on="generic"), import_checkpoint(TINY)
    save_model(known, tmp_path / "known")
    session = open_session(make_session(name=name))
    with pytest.raises(EmgscribeError, match="was trained on this session"):
        load_model(tmp_path / "known").ancestry.refuse([session])
    unknown.ancestry.refuse([session])
    assert (known.ancestry.complete, unknown.ancestry.complete) == (True, False)
    assert len(known.ancestry.trained_on) == 837
    course = published_names("course", "test")  # the leak: they are training sessions of the generic split
    assert set(course) <= {(seen.name, seen.user) for seen in known.ancestry.trained_on}


def test_the_commands_import_and_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", str(TINY), "--out", str(tmp_path / "model"), "--trained-on", "generic"]) == 0
    assert "<Model tds, " in capsys.readouterr().out
    assert len(load_model(tmp_path / "model").ancestry.trained_on) == 837
    assert main(["export", str(tmp_path / "model"), "--out", str(tmp_path / "again.ckpt")]) == 0
    assert torch.equal(import_checkpoint(tmp_path / "again.ckpt").head.bias, import_checkpoint(TINY).head.bias)
    assert main(["import", str(tmp_path / "model" / "config.json"), "--out", str(tmp_path / "other")]) == 2
    assert not (tmp_path / "other").exists()


class Attack:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return exec, ("open('executed', 'w').close()",)


class Quiet:
    """Runs through functions that a checkpoint may name."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return torch.save, ({}, "executed")


@pytest.mark.parametrize("attack", [Attack(), Quiet()])
@pytest.mark.parametrize("place", ["state_dict", "hyper_parameters", "whole", "raw"])
def test_code_in_a_checkpoint_is_not_executed(
    attack: object, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content: dict[str, Any] = {"state_dict": OrderedDict(weights()), "hyper_parameters": {}}
    if place == "raw":
        path = tmp_path / "raw.ckpt"
        path.write_bytes(pickle.dumps(attack))
    else:
        path = stored(tmp_path / "bad.ckpt", attack if place == "whole" else content | {place: attack})
    if isinstance(attack, Quiet) and place == "hyper_parameters":
        assert isinstance(import_checkpoint(path), Model)  # an inert object replaces the call
    else:
        with pytest.raises(EmgscribeError):
            import_checkpoint(path)
    assert not Path("executed").exists()


def compressed(path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as parts:
        parts.writestr("archive/data.pkl", b"\0" * (80 << 20))
    return path


def changed(path: Path, **others: torch.Tensor | None) -> Path:
    state = weights() | {name.replace("_of_", "."): value for name, value in others.items()}
    return stored(path, {"state_dict": {name: value for name, value in state.items() if value is not None}})


BROKEN: dict[str, tuple[Callable[[Path], Path], str]] = {
    "pointer": (
        lambda p: (p.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n"), p)[1],
        "Git LFS pointer",
    ),
    "truncated": (lambda p: (p.write_bytes(TINY.read_bytes()[:-400]), p)[1], "is damaged, or not a checkpoint"),
    "text": (lambda p: (p.write_text("weights"), p)[1], "is damaged, or not a checkpoint"),
    "empty": (lambda p: (p.write_bytes(b""), p)[1], "is damaged, or not a checkpoint"),
    "code": (lambda p: stored(p, {"state_dict": Attack()}), "builtin(s|__).exec, which no checkpoint needs"),
    "bomb": (compressed, "larger than the file"),
    "other network": (lambda p: stored(p, {"state_dict": {"layer.weight": torch.zeros(3)}}), "mlp.0.weight is missing"),
    "no weights": (lambda p: stored(p, {"epoch": 3}), "no weights by name"),
    "a list": (lambda p: stored(p, [1, 2]), "no weights by name"),
    "shape": (lambda p: changed(p, model_of_4_of_bias=torch.zeros(98)), r"model.4.bias is of shape \[98\]"),
    "further": (lambda p: changed(p, model_of_9=torch.zeros(1)), "further weights: model.9"),
    "fewer": (lambda p: changed(p, model_of_4_of_bias=None), "lacks model.4.bias"),
    "not finite": (lambda p: changed(p, model_of_4_of_bias=torch.full((99,), torch.nan)), "not finite"),
    "deep pickle": (lambda p: with_pickle(p, b"\x80\x02" + b"(" * 10_000_000 + b"."), "damaged|no weights"),
    "huge tensor": (
        lambda p: with_pickle(
            p,
            b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000"
            b"X\x03\x00\x00\x00cpuK tQK\x00J\x00\x00\x00\x7f\x85K\x00\x85\x89Nt R.".replace(b"t R", b"tR"),
        ),
        "from 32 numbers",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_kind_of_broken_checkpoint_has_its_own_message(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make, message = BROKEN[name]
    with pytest.raises(EmgscribeError, match=message) as caught:
        import_checkpoint(make(tmp_path / "broken.ckpt"))
    assert caught.value.where
    assert caught.value.hint
    assert not Path("executed").exists()


@settings(max_examples=60, deadline=None)
@given(at=st.integers(0, TINY.stat().st_size - 1), byte=st.integers(1, 255), cut=st.booleans())
def test_damaged_bytes_give_one_error(at: int, byte: int, cut: bool, tmp_path_factory: pytest.TempPathFactory) -> None:
    data = bytearray(TINY.read_bytes())
    data[at] ^= byte
    path = tmp_path_factory.mktemp("damaged") / "one.ckpt"
    path.write_bytes(data[:at] if cut else data)
    try:
        found = import_checkpoint(path)
    except EmgscribeError:
        return
    assert torch.equal(found.head.weight, import_checkpoint(TINY).head.weight)  # the byte did not matter


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(encoder=MlpConfig(8)),
        ModelConfig(encoder=TdsConfig(excitation="global")),
        ModelConfig(features=SpectrogramConfig(electrodes=(0, 1))),
        ModelConfig(attention=AttentionConfig(1, 16, 2, 16)),
    ],
)
def test_a_network_that_the_published_code_lacks_is_not_exported(config: ModelConfig, tmp_path: Path) -> None:
    with pytest.raises(EmgscribeError, match=r"the published (code|network)"):
        export_checkpoint(Model(config), tmp_path / "out.ckpt")
    assert not (tmp_path / "out.ckpt").exists()
