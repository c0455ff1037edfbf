"""Damage for fuzz.py: functions of the bytes of a file and a random number generator, which return other bytes."""

import gzip
import io
import json
import re
import sqlite3
import struct
from collections.abc import Callable
from copy import deepcopy
from random import Random
from typing import Any

import h5py
import numpy as np
import torch

HOSTILE: list[Any] = [
    *(None, True, False, 0, -1, 1, 2, 99, 2**31, 2**63, -(2**63), 10**20, 10**400),
    *(0.0, -0.0, 0.5, -1e-300, 1e308, float("nan"), float("inf"), float("-inf")),
    *("", " ", "0", "nan", "x\0y", "../../x", "⌫\ud800", "x" * 5000, "-", "--help", "⏎"),
    *([], {}, [None], [[]] * 50, {"": None}, [1, "a", None]),
]
SIGNATURES = re.compile(rb"GCOL|TREE|SNOD|HEAP|OHDR|FSSE|PK\x01\x02|PK\x03\x04|PK\x05\x06|CREATE|\{|\[")


def damage(data: bytes, rng: Random) -> bytes:
    """Bits flipped, sectors zeroed, parts cut, repeated, moved or foreign, anywhere."""
    return _damage_at(data, rng, lambda: rng.randrange(len(data) + 1))


def damage_structure(data: bytes, rng: Random) -> bytes:
    """The same near the beginning, the end and signatures: most other bytes of a big file are numbers."""
    places = [0, len(data), *(found.start() for found in SIGNATURES.finditer(data))]
    return _damage_at(data, rng, lambda: min(max(0, rng.choice(places) + rng.randint(-64, 512)), len(data)))


def _damage_at(data: bytes, rng: Random, place: Callable[[], int]) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        at, size = min(place(), len(changed)), rng.choice((1, 2, 4, 8, 64, 512, 4096))
        match rng.randrange(9):
            case 0 | 1 | 2 if at < len(changed):
                changed[at] ^= 1 << rng.randrange(8)
            case 3 if at < len(changed):
                changed[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
            case 4:
                changed[at : at + size] = bytes(len(changed[at : at + size]))
            case 5:
                changed[at : at + size] = rng.randbytes(len(changed[at : at + size]))
            case 6:
                del changed[at : at + size]
            case 7:
                changed[at:at] = changed[at : at + size] * rng.choice((1, 2, 100))
            case _ if rng.random() < 0.5:
                del changed[at:]
            case _:
                changed[at : at + 8] = struct.pack("<q", rng.choice((0, -1, 2**31, 2**62, len(data), at)))
    return bytes(changed)


def change_json(data: bytes, rng: Random) -> bytes:
    """Values of other types and sizes, keys missing, unknown or twice, deep nesting, numbers that JSON lacks."""
    content = json.loads(data)
    for _ in range(rng.choice((1, 1, 2))):
        content = _changed(content, rng)
    text = json.dumps(content)
    if rng.random() < 0.05:
        text = text.replace("{", '{"a": 1, "a": 2, ', 1)
    if rng.random() < 0.05:
        text = text.replace("1", "[" * rng.choice((10, 100_000)), 1)
    return text.encode("utf-8", "surrogatepass")


def _changed(value: Any, rng: Random) -> Any:
    """`value` with one part, at a random depth, replaced by something hostile."""
    inside = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list | tuple) else ()
    if not inside or rng.random() < 0.05:
        if isinstance(value, int | float) and rng.random() < 0.5 and abs(value) < 1e300:
            return rng.choice((-value, value + 1, value * 2, value * 10**6, float(value), str(value)))
        return deepcopy(rng.choice(HOSTILE))
    value = list(value) if isinstance(value, tuple) else value
    key = rng.choice(inside)
    match rng.randrange(12):
        case 0:
            del value[key]
        case 1 if isinstance(value, dict):
            value[rng.choice(["", "x", "kind", "name", str(key) * 2])] = value[key]
        case 1:
            value += value * rng.choice((1, 1000))
        case _:
            value[key] = _changed(value[key], rng)
    return value


def change_text(data: bytes, rng: Random) -> bytes:
    """Lines dropped, repeated and moved, numbers and words replaced."""
    lines = data.decode("utf-8", "replace").split("\n")
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(lines))
        match rng.randrange(6):
            case 0 if len(lines) > 1:
                del lines[at]
            case 1:
                lines[at:at] = [lines[at]] * rng.choice((1, 100))
            case 2:
                lines[at] = rng.choice(lines)
            case _:
                parts = re.split(r"(-?[\d.]+|\w+)", lines[at])
                parts[rng.randrange(len(parts))] = str(rng.choice(HOSTILE))
                lines[at] = "".join(parts)
    return "\n".join(lines).encode("utf-8", "replace")


def change_gzipped_text(data: bytes, rng: Random) -> bytes:
    """The same inside a gzip file."""
    return gzip.compress(change_text(gzip.decompress(data), rng))


def change_safetensors(data: bytes, rng: Random) -> bytes:
    """The header's JSON, its length, or the numbers."""
    size = int.from_bytes(data[:8], "little")
    header, rest = data[8 : 8 + size], bytearray(data[8 + size :])
    match rng.randrange(4):
        case 0:
            at = rng.randrange(len(rest) // 4) * 4
            rest[at : at + 4] = struct.pack("<f", rng.choice((float("nan"), float("inf"), -1e38, 1e-40)))
            return data[:8] + header + rest
        case 1:
            size = rng.choice((0, 1, size - 1, size + 1, len(data), 2**32, 2**63))
        case _:
            header = change_json(header, rng)
            size = len(header)
    return size.to_bytes(8, "little") + header + rest


def change_hdf5(data: bytes, rng: Random) -> bytes:
    """A valid HDF5 file that holds something else: attributes, links, types, shapes, storage."""
    buffer = io.BytesIO(data)
    with h5py.File(buffer, "r+") as file:
        group, rows = file["emg2qwerty"], file["emg2qwerty/timeseries"][:]
        match rng.randrange(6):
            case 0 | 1:
                _change_attribute(group.attrs, rng)
            case 2:
                name, link = rng.choice(("emg2qwerty", "emg2qwerty/timeseries")), rng.choice(_LINKS)
                del file[name]
                if link is not None:
                    file[name] = link
            case 3:
                del group["timeseries"]
                _store_virtual(group, rows.dtype, rng)
            case _:
                del group["timeseries"]
                _store(group, _other_rows(rows, rng), rng)
    return buffer.getvalue()


_LINKS = [None, h5py.SoftLink("/emg2qwerty"), h5py.SoftLink("/"), h5py.ExternalLink("/etc/hostname", "x"),
          h5py.ExternalLink("c.hdf5", "emg2qwerty"), h5py.SoftLink("nowhere")]  # fmt: skip


def _change_attribute(attributes: Any, rng: Random) -> None:
    name = rng.choice([*attributes, "new"])
    value = attributes.pop(name, "")
    match rng.randrange(5):
        case 0:
            pass
        case 1 if isinstance(value, str) and value[:1] in "[{" and value:
            attributes[name] = change_json(value.encode(), rng).decode("utf-8", "replace").replace("\0", "")
        case 2:
            attributes[name] = rng.choice((h5py.Empty("f8"), np.zeros((3, 3)), np.bytes_(b"\xff\xfe"), [b"a", b"b"]))
        case 3:
            attributes.create(name, rng.choice((1.5, -3)), dtype=rng.choice((np.float16, np.int8, np.complex64)))
        case _:
            text = str(rng.choice(HOSTILE)).replace("\0", "").encode("utf-8", "replace")
            attributes[name] = rng.choice((text.decode(), np.bytes_(text or b" "), 1e300, np.nan))


def _store_virtual(group: Any, dtype: Any, rng: Random) -> None:
    rows = rng.choice((1000, 10**15))
    layout = h5py.VirtualLayout(shape=(rows,), dtype=dtype)
    source = rng.choice((".", "a.hdf5", "/dev/zero", "absent.hdf5"))
    layout[:] = h5py.VirtualSource(source, "emg2qwerty/timeseries", shape=(rows,), dtype=dtype)
    group.create_virtual_dataset("timeseries", layout)


def _other_rows(rows: Any, rng: Random) -> Any:
    fields = [(name, rows.dtype[name]) for name in rows.dtype.names]
    match rng.randrange(8):
        case 0:
            return rows[: rng.choice((0, 1, 2, 100))]
        case 1:
            del fields[rng.randrange(3)]
            return rows[[name for name, _ in fields]].astype(fields)
        case 2:
            at = rng.randrange(3)
            fields[at] = fields[at][0], rng.choice(("f8", ">f4", "i2", ("f4", (15,)), "S8", "f2"))
            return np.zeros(len(rows), fields)
        case 3:
            return rows.reshape(1, -1)
        case 4:
            return np.zeros(100)
        case 5:
            rows["time"][rng.randrange(len(rows))] = rng.choice((np.nan, np.inf, -1e300, 0, 1e18))
        case 6:
            rows["emg_left"][rng.randrange(len(rows))] = rng.choice((np.nan, np.inf, 3e38, -3e38, 1e-45))
        case _:
            rows = np.zeros(len(rows), [*fields, ("more", "f8", (rng.choice((1, 50)),))])
    return rows


def _store(group: Any, rows: Any, rng: Random) -> None:
    most = rng.choice((None, (None,) * rows.ndim))
    match rng.randrange(5):
        case 0 if most:
            stored = group.create_dataset("timeseries", data=rows, maxshape=most, chunks=rows.ndim * (64,))
            stored.resize((10**15,) * rows.ndim if rows.ndim == 1 else rows.shape)
        case 1:
            kind = rng.choice(("gzip", "lzf"))
            chunks = (*rows.shape[:-1], min(rows.shape[-1], rng.choice((1, 100, 10**6))) or 1)
            group.create_dataset(
                "timeseries", data=rows, compression=kind, shuffle=True, chunks=chunks, maxshape=(None,) * rows.ndim
            )
        case 2:
            group.create_dataset("timeseries", data=rows, fletcher32=True, chunks=True, maxshape=(None,) * rows.ndim)
        case 3:
            group.create_dataset("timeseries", (10**15,), rows.dtype, chunks=(rng.choice((1, 1000)),))
        case _:
            group.create_dataset("timeseries", data=rows)


def change_checkpoint(data: bytes, rng: Random) -> bytes:
    """A loadable checkpoint with another value somewhere."""
    content = torch.load(io.BytesIO(data), weights_only=True)
    keys = [key for key in content if key not in ("hyper_parameters",)]
    for _ in range(rng.choice((1, 2))):
        key = rng.choice(keys)
        content[key] = _changed_state(content[key], rng)
    if rng.random() < 0.1:
        del content[rng.choice(keys)]
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def _changed_state(value: Any, rng: Random) -> Any:
    if isinstance(value, torch.Tensor) and rng.random() < 0.9:
        other = rng.choice((value * float("nan"), value.double(), value.flatten()[:1], value[None], torch.zeros(0)))
        return other.clone()
    if isinstance(value, dict) and value and rng.random() < 0.95:
        key = rng.choice([*value])
        value[key] = _changed_state(value[key], rng)
        return value
    return _changed(value, rng)


def change_sqlite(data: bytes, rng: Random) -> bytes:
    """A valid database with another value, or without a table or rows."""
    base = sqlite3.connect(":memory:")
    base.deserialize(data)
    tables = [name for (name,) in base.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    for _ in range(rng.choice((1, 1, 3))):
        table = rng.choice(tables)
        column = rng.choice([row[1] for row in base.execute(f"PRAGMA table_info({table})")] or ["rowid"])
        value = rng.choice([x for x in HOSTILE if isinstance(x, str | float) or x is None or abs(_number(x)) < 2**63])
        value = str(value).encode("utf-8", "replace").decode() if isinstance(value, str) else value
        command = rng.choice(("UPDATE {0} SET {1} = ?", "UPDATE {0} SET {1} = ?", "DELETE FROM {0}", "DROP TABLE {0}"))
        try:
            base.execute(command.format(table, column), (value,) if "?" in command else ())
        except (sqlite3.Error, sqlite3.Warning):
            continue
    base.commit()
    return base.serialize()


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 2**64


def change_command(words: list[str], rng: Random) -> list[str]:
    """A command line with absurd values, and with words missing, repeated or unknown."""
    words = list(words)
    for _ in range(rng.choice((1, 1, 2))):
        at = rng.randrange(len(words))
        match rng.randrange(10):
            case 0 if len(words) > 1:
                del words[at]
            case 1:
                words.insert(at, words[at])
            case 2:
                words.insert(at, rng.choice(("--", "-", "--x", "-h", "--help", "--no-json", "--lm", "--decoder", "@x")))
            case _:
                values = [place for place in range(1, len(words)) if not words[place].startswith("--")]
                words[rng.choice(values or [0])] = rng.choice(ODD)
    return words


ODD = [*("", " ", "\0", "a\0b", b"\xff\xfe.hdf5".decode("utf-8", "surrogateescape"), "x" * 300, "x/" * 2500)]
ODD += [
    *("-1", "0", "1" + "0" * 20, "-1" + "0" * 20, "1" * 5000, "nan", "inf", "-inf", "1e400", "1e-400", "0x10", "0_1")
]
ODD += [*("/proc/nothing/x", ".", "data", "text.txt", "None", "True", "⌫", "*")]
ODD += ["\n", "x\ny", "[bold]", "{}", "%s", "$HOME", "a,b", "greedy,,beam", "\x1b[31m"]

MUTATORS: dict[str, Callable[[bytes, Random], bytes]] = {
    "bytes": damage,
    "structure": damage_structure,
    "json": change_json,
    "text": change_text,
    "gzipped text": change_gzipped_text,
    "safetensors": change_safetensors,
    "hdf5": change_hdf5,
    "checkpoint": change_checkpoint,
    "sqlite": change_sqlite,
}
