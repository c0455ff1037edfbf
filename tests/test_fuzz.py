"""Damaged and hostile input gives one error with a hint; no code in it is run, and nothing runs forever."""

import gzip
import os
import pickle
import re
import shutil
from collections.abc import Callable
from io import BytesIO
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from mutators import MUTATORS
from tiny import TINY

from emgscribe import cli
from emgscribe.models.model import Model, save_model


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The text of a language model, and its ARPA file, plain and gzipped."""
    folder = tmp_path_factory.mktemp("words")
    paths = [folder / name for name in ("text.txt", "words.arpa", "words.arpa.gz")]
    paths[0].write_text("It is the end of the day, and I am at home.\n" * 20)
    for path in paths[1:]:
        assert cli.main(["lm", "train", str(paths[0]), "--out", str(path), "--order", "3"]) == 0
    return paths


@pytest.fixture
def folder(
    words: list[Path], tmp_path: Path, make_session: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The working folder: s.hdf5, m (a model with random weights), text.txt, words.arpa and words.arpa.gz."""
    monkeypatch.chdir(tmp_path)
    make_session(samples=4000).rename("s.hdf5")
    torch.manual_seed(0)
    save_model(Model(TINY.model), "m")
    for path in words:
        shutil.copy(path, tmp_path)
    return tmp_path


READ = "transcribe s.hdf5 --model m"
BEAM = f"{READ} --decoder beam --lm"
DAMAGED = [
    ("s.hdf5", "inspect s.hdf5", ("structure", "hdf5", "bytes"), 60),
    ("s.hdf5", READ, ("structure", "hdf5"), 40),
    ("m/config.json", READ, ("json", "bytes"), 60),
    ("m/model.safetensors", READ, ("safetensors", "structure", "bytes"), 60),
    ("words.arpa", f"{BEAM} words.arpa", ("text", "bytes"), 40),
    ("words.arpa.gz", f"{BEAM} words.arpa.gz", ("gzipped text", "bytes"), 40),
]


@pytest.mark.parametrize(("name", "line", "mutators", "seeds"), DAMAGED, ids=[f"{d[0]} {d[1][:7]}" for d in DAMAGED])
def test_a_damaged_file_is_read_or_gives_one_error(
    name: str, line: str, mutators: tuple[str, ...], seeds: int, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, whole, refused = folder / name, (folder / name).read_bytes(), 0
    capsys.readouterr()
    for seed in range(seeds):
        rng = Random(seed)
        path.write_bytes(MUTATORS[rng.choice(mutators)](whole, rng))
        status, message = cli.main(line.split()), capsys.readouterr().err
        assert status in (0, 2), f"seed {seed}: {message}"
        wanted = r"Error: .+\nHint: .+\n" if status and not line.startswith("inspect") else ""
        assert re.fullmatch(wanted, message), f"seed {seed}: {message}"
        refused += status == 2
    assert refused > seeds // 4


class Trap:
    """An object whose pickle makes a file when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path("ran").touch, ()


def test_no_pickle_is_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trap = pickle.dumps(Trap())
    pickle.loads(trap)
    Path("ran").unlink()  # it works
    for name, line in (
        ("m/config.json", READ),
        ("m/model.safetensors", READ),
        ("words.arpa", f"{BEAM} words.arpa"),
        ("s.hdf5", READ),
        ("text.txt", "lm train text.txt --out new.arpa"),
    ):
        whole = Path(name).read_bytes()
        for bytes_ in (trap, _saved(Trap())):
            Path(name).write_bytes(bytes_)
            assert cli.main(line.split()) == 2, name
            assert "Error: " in capsys.readouterr().err
        Path(name).write_bytes(whole)
        assert not Path("ran").exists(), name
    np.save(array := BytesIO(), np.array([Trap()]), allow_pickle=True)
    assert cli.main(READ.split()) == 0
    entries = [*Path(os.environ["EMGSCRIBE_CACHE"]).rglob("entry")]
    for entry, bytes_ in product(entries, (trap, array.getvalue())):
        entry.write_bytes(bytes_)
        assert cli.main(READ.split()) == 0  # rebuilt
        assert not Path("ran").exists(), entry
    assert entries


def _saved(value: object) -> bytes:
    torch.save(value, "saved")
    data = Path("saved").read_bytes()
    Path("saved").unlink()
    return data


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f"{BEAM} /dev/zero", "is not a file"),
        (f"{BEAM} bomb.arpa.gz", ""),
        ("simulate --out new --users 99999999999999999999", "users is 9"),
        ("simulate --out new --sessions 99999999999999999999", "sessions is 9"),
        ("simulate --out new --minutes 1e300", "minutes is 1e"),
        ("lm train text.txt --out new.arpa --order 99999999999999999999", "order is 9"),
        ("lm tune m s.hdf5 --lm words.arpa --beam-size 99999999999999999999", "beam_size is 9"),
        ("transcribe a\0b --model m", "NUL"),
        ("transcribe a\n\x1b[31mb --model m", r"a\n\x1b[31mb: no such file"),
        (f"transcribe {'x' * 300} --model m", "File name too long"),
        (f"transcribe s.hdf5 --model {'x' * 300}", "File name too long"),
        (f"{BEAM} {'x' * 300}", "File name too long"),
        (f"lm train text.txt --out {'x' * 300}.arpa", "File name too long"),
    ],
)
def test_hostile_arguments_give_one_error(
    line: str, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("bomb.arpa.gz").write_bytes(gzip.compress(bytes(1 << 27)))
    before = sorted(path for path in folder.rglob("*") if path.name != "cache")
    capsys.readouterr()
    assert cli.main(line.split(" ")) == 2, capsys.readouterr().err
    shown = capsys.readouterr().err
    assert re.fullmatch(r"Error: .+\nHint: .+\n", shown)
    assert message in shown
    left = sorted(path for path in folder.rglob("*") if path.name != "cache" and "cache" not in path.parts)
    assert [path for path in left if path not in before] == []
