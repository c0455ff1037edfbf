"""Recordings and key logs in NumPy and CSV files."""

import csv
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from emgscribe.data.hdf5 import Emg, Keystroke, Prompt, Times
from emgscribe.data.recordings import HOLD, Recording, bands_of
from emgscribe.data.shape import Band
from emgscribe.errors import EmgscribeError
from emgscribe.files import open_file, open_text, reading_rows, separator

TABLES = (".csv", ".tsv", ".txt", ".npy", ".npz")
_TIMES = ("time", "times", "timestamp", "timestamps", "t", "seconds", "unix_time", "time_s")
_STARTS, _ENDS = ("start", "onset", "time", "timestamp", "down", "press"), ("end", "offset", "up", "release")
_DATE = re.compile(r"\d{4}-\d\d-\d\d|\d\d?:\d\d:\d\d")
_MAX_BYTES = 8 << 30


def read_table(
    path: Path, bands: Sequence[Band], *, rate: float = 0.0, columns: Sequence[str] = (), unit: str = "uV"
) -> Recording:
    """A recording in a CSV, .npy or .npz file.

    CSV: a row for each sample, with or without names in the first row; a column named time (or timestamp, t, seconds)
    holds seconds. .npy: (T, electrodes) or (T, bands, electrodes). .npz: `emg` likewise, and `times` (T,), where there
    are any. `columns` chooses electrodes by name, or by number from 0. Without times, `rate` gives them.
    """
    if path.suffix.lower() in (".npy", ".npz"):
        names, emg, times = _numpy(path)
    else:
        names, emg, times = _csv(path)
    if columns:
        emg = emg[:, [_place(name, names, emg.shape[1], path) for name in columns]]
    if times is None:
        if not rate > 0:
            hint = "name the column of seconds `time` in the first row, or give the rate: --rate 200"
            raise EmgscribeError("holds no times", where=str(path), hint=hint)
        times = np.arange(len(emg)) / rate
    return Recording(tuple(bands), tuple(bands_of(emg, times, bands)), rate, 0.0, unit)


def _place(name: str, names: Sequence[str], count: int, path: Path) -> int:
    if name in names:
        return list(names).index(name)
    if name.isdecimal() and int(name) < count:
        return int(name)
    raise EmgscribeError(
        f"has no column {name!r}", where=str(path), hint=f"one of {', '.join(names) or f'0 to {count - 1}'}"
    )


def _numpy(path: Path) -> tuple[list[str], Emg, Times | None]:
    with open_file(path) as file:
        size = path.stat().st_size
        try:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                arrays = {"emg": loaded}
            else:
                if sum(part.file_size for part in loaded.zip.infolist()) > min(_MAX_BYTES, 200 * size):
                    raise ValueError("it is far larger than its file")
                arrays = {name: loaded[name] for name in ("emg", "times") if name in loaded.files}
            with np.errstate(over="raise"):
                emg = np.asarray(arrays["emg"], dtype=np.float32)
            times = np.asarray(arrays["times"], dtype=np.float64) if "times" in arrays else None
        except KeyError as error:
            raise EmgscribeError(
                "has no array 'emg'", where=str(path), hint="np.savez(path, emg=..., times=...)"
            ) from error
        except Exception as error:  # damaged bytes may raise anything
            what = f"is not a NumPy file, is damaged, or holds no numbers ({error!s:.100})"
            raise EmgscribeError(what, where=str(path), hint="write it with np.save or np.savez") from error
    if emg.ndim not in (2, 3) or (times is not None and times.shape != emg.shape[:1]):
        what = f"emg is {emg.shape}{'' if times is None else f', times {times.shape}'}"
        raise EmgscribeError(what, where=str(path), hint="give emg (T, electrodes), and times (T,) in seconds")
    return [], emg.reshape(len(emg), math.prod(emg.shape[1:])), times


def _csv(path: Path) -> tuple[list[str], Emg, Times | None]:
    try:
        with open_text(path) as file, warnings.catch_warnings():
            warnings.simplefilter("error")  # NumPy's about a table without a row
            if not (start := "".join(islice(file, 5))).strip():
                raise ValueError("it is empty")
            mark = separator(start)
            first = next(csv.reader([start.splitlines()[0].strip()], delimiter=mark), [])
            named = not all(map(_is_number, first))
            if {"key", "start"} <= {name.strip().lower() for name in first}:
                hint = "name it NAME_keys.csv beside the samples in NAME.csv, or give it with --keys"
                raise EmgscribeError("holds keys, not samples", where=str(path), hint=hint)
            file.seek(0)
            lines: Iterator[str] = islice(file, int(named), None)
            if mark in ";\t":  # the commas are decimal ones
                lines = (line.replace(",", ".") for line in lines)
            rows = np.loadtxt(lines, delimiter=None if mark == " " else mark, ndmin=2, dtype=np.float64)
    except EmgscribeError:
        raise
    except (ValueError, UserWarning, csv.Error) as error:
        what = f"is not a table of numbers ({error!s:.150})"
        hint = "write times in seconds" if _DATE.search(what) else "write a row per sample, a column per electrode"
        raise EmgscribeError(what, where=str(path), hint=hint) from error
    if not rows.size:
        raise EmgscribeError("holds no samples", where=str(path), hint="write a row per sample, a column per electrode")
    names = [name.strip() for name in first] if named else []
    timed = [place for place, name in enumerate(names) if name.lower() in _TIMES]
    if len(names) not in (0, rows.shape[1]):
        raise EmgscribeError(
            f"has {len(names)} names for {rows.shape[1]} columns", where=str(path), hint="name every column"
        )
    times = rows[:, timed[0]] if timed else None
    kept = [place for place in range(rows.shape[1]) if place not in timed[:1]]
    with np.errstate(over="ignore"):  # what is too large for EMG becomes infinite, which every later step refuses
        return [names[place] for place in kept] if names else [], rows[:, kept].astype(np.float32), times


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", "."))
    except ValueError:
        return False
    return True


def read_keys(path: Path) -> tuple[tuple[Keystroke, ...], tuple[Prompt, ...]]:
    """Keystrokes and prompts of a CSV file with the columns key, start and end (or duration), in seconds.

    A row with `prompt` instead of a key is what was to be typed from start to end. A key without an end counts as held
    for 0.1 s. Keys are named as in pynput, in browsers or in plain words: a, space, Enter, Key.backspace.
    """
    keys, prompts = list[Keystroke](), list[Prompt]()
    with reading_rows(path, "write a header key,start,end and a row per key, in seconds") as rows:
        rows.fieldnames = [name.strip().lower() for name in rows.fieldnames or ()]
        start = next((name for name in _STARTS if name in rows.fieldnames), "start")
        end = next((name for name in _ENDS if name in rows.fieldnames), "end")
        if missing := [name for name in (start, "key") if name not in rows.fieldnames]:
            raise ValueError(f"no column {missing[0]}")
        for row in rows:
            began = seconds_in(row[start])
            ended = seconds_in(row[end]) if row.get(end) else began + seconds_in(row.get("duration") or str(HOLD))
            if prompt := row.get("prompt"):
                prompts.append(Prompt(f"prompt-{len(prompts)}", began, ended, prompt.replace("\\n", "\n")))
            elif row["key"]:
                keys.append(Keystroke(row["key"], began, ended))
    return tuple(keys), tuple(prompts)


def seconds_in(text: str) -> float:
    """The number of seconds in `text`, with a decimal point or comma; `ValueError` where it is not a finite number."""
    if not math.isfinite(value := float(text.replace(",", "."))):
        raise ValueError(f"{text} is not a time")
    return value
