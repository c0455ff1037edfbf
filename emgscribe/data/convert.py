"""Files of other formats -> sessions, chosen by file ending; a `Source` supplies what a file lacks."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from emgscribe.config import require
from emgscribe.data import bids
from emgscribe.data.hdf5 import SUFFIXES, Keystroke, Times
from emgscribe.data.public_sets import MYO, read_intan, read_myo
from emgscribe.data.recordings import Conversion, Recording, of_session, write_recording
from emgscribe.data.shape import MAX_HZ, MIN_HZ, Band
from emgscribe.data.tables import TABLES, read_keys, read_table
from emgscribe.data.xdf import read_xdf
from emgscribe.errors import EmgscribeError

_KEYS = "_keys.csv"
_XDF = (".xdf", ".xdfz")
_UNIX = 1e8  # s: clocks that show less do not count from 1970


@dataclass(frozen=True)
class Source:
    """What recording files lack."""

    keys: Path | None = None  # CSV file with the columns key, start and end (s); else NAME_keys.csv beside NAME.csv
    bands: tuple[Band, ...] = ("left", "right")  # bands that were worn: left, right or both
    columns: tuple[str, ...] = ()  # columns of the electrodes, left band first; none: all
    streams: tuple[str, ...] = ()  # streams of an XDF file that hold EMG; none: those of the type EMG
    rate: float = 0.0  # samples a second, where a file has no times; 0: its own
    unit: str = ""  # unit of the samples: uV, mV, V, nV or raw; empty: the file's, else uV
    start: str = ""  # date and time of the first sample, where the file does not say it

    def __post_init__(self) -> None:
        require(len(self.bands) > 0, "bands", "empty", "left, right, or both")
        require(self.rate == 0 or MIN_HZ <= self.rate <= MAX_HZ, "rate", self.rate, f"0, or {MIN_HZ} to {MAX_HZ}")

    def read(self, path: Path) -> Recording:
        """The recording in a file. Raises `EmgscribeError` where its format is unknown or it is damaged."""
        found = self._read(path)
        if not len(found.tracks[0].times):
            raise EmgscribeError("holds no samples", where=str(path), hint="record again, or leave it out")
        beside = path.with_name(f"{path.stem}{_KEYS}")
        if keys := self.keys or (beside if beside.exists() else None):
            keystrokes, prompts = read_keys(keys)
            _require_one_clock(keystrokes, found.tracks[0].times, keys)
            found = replace(found, keystrokes=keystrokes, prompts=prompts)
        if found.start == 0 and found.tracks[0].times[0] < _UNIX:
            found = replace(found, start=self._unix_start(path) - float(found.tracks[0].times[0]))
        return replace(found, name=found.name or path.stem)

    def _read(self, path: Path) -> Recording:
        """What the reader of a file's format finds in it."""
        ending = path.suffix.lower()
        if path.name.endswith(MYO):
            return read_myo(path)
        if ending == ".rhd":
            return read_intan(path, self.bands)
        if ending in TABLES:
            return read_table(path, self.bands, rate=self.rate, columns=self.columns, unit=self.unit or "uV")
        if ending in _XDF:
            return read_xdf(path, self.bands, streams=self.streams, unit=self.unit)
        if ending in bids.ENDINGS:
            return bids.read_recording(path, self.bands)
        if ending in SUFFIXES:
            return of_session(path)
        if not os.path.exists(path):  # False too for a name that no file can have
            raise EmgscribeError("there is no such file or folder", where=str(path), hint="check the name")
        hint = f"known formats: {', '.join((*TABLES, *_XDF, *bids.ENDINGS, '.rhd', *SUFFIXES))}"
        raise EmgscribeError("has an unknown format", where=str(path), hint=hint)

    def _unix_start(self, path: Path) -> float:
        """`start` in unix seconds; where it is empty, the time of the file's last change."""
        if not self.start:
            return path.stat().st_mtime
        try:
            moment = datetime.fromisoformat(self.start)
        except ValueError as error:
            hint = "write it like 2026-11-28T21:40:00"
            raise EmgscribeError(f"{self.start!r} is not a date and time", where="--start", hint=hint) from error
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _require_one_clock(keystrokes: Sequence[Keystroke], times: Times, path: Path) -> None:
    """Raise `EmgscribeError` where all keys of a file lie before or after the samples."""
    if len(times) and keystrokes and not any(times[0] <= key.start <= times[-1] for key in keystrokes):
        last = max(key.start for key in keystrokes)
        what = f"its last key is at {last:.1f} s, and the samples run from {times[0]:.1f} to {times[-1]:.1f} s"
        hint = "write keys in s on the clock of the samples; where these have no times, from the first sample on"
        raise EmgscribeError(what, where=str(path), hint=hint)


def convert(
    files: Path | str | Iterable[Path | str],
    out: Path | str,
    source: Source | None = None,
    *,
    user: str = "",
    resample: float = 0.0,
    each: Callable[[Conversion], object] | None = None,
) -> list[Conversion]:
    """Write each recording as a session file into the folder `out`. A folder stands for the recordings in it.

    `source` supplies what the files lack, `resample` (Hz) changes the rate, `each` is called after each file. Returns
    what was found and changed. Raises `EmgscribeError` where a file cannot be read or written; those before it are
    already written.
    """
    given = [files] if isinstance(files, Path | str) else files
    found = [path for one in given for path in recordings_in(Path(one))]
    source, made = source or Source(), list[Conversion]()
    if not found:
        raise EmgscribeError("no recording given", hint="name files, or folders of them")
    for option in ("keys", "start"):
        if getattr(source, option) and len(found) > 1:
            what = f"--{option} is for one recording, and there are {len(found)}"
            raise EmgscribeError(what, hint="convert them one by one")
    names = dict[str, Path]()
    for path in found:
        try:
            recording = source.read(path)
            if (first := names.setdefault(recording.name, path)) != path:
                hint = "rename one of the files, or convert them into different folders"
                raise EmgscribeError(f"would become {recording.name}.hdf5, as {first} did", hint=hint)
            if (new := Path(out, f"{recording.name}.hdf5")).exists() and any(map(new.samefile, found)):
                hint = "choose another folder for what is converted"
                raise EmgscribeError(f"would be lost: the new {new.name} takes its place", hint=hint)
            made.append(write_recording(recording, Path(out), user=user, resample=resample))
        except EmgscribeError as error:
            raise EmgscribeError(error.what, where=error.where or str(path), hint=error.hint) from error
        if each is not None:
            each(made[-1])
    return made


def recordings_in(given: Path) -> list[Path]:
    """The file itself; for a folder, the BDF, EDF or Intan files in and below it, else session files, else those of
    myo-keylogging, else tables and XDF files.
    """
    if not given.is_dir():
        return [given]
    below = sorted(path for path in given.rglob("*") if path.is_file())
    here = [path for path in below if path.parent == given]
    of_bids = [path for path in below if path.stem.endswith("_emg")]  # among EEG, perhaps
    for endings, among in ((bids.ENDINGS, of_bids), (bids.ENDINGS, below), ((".rhd",), below), (SUFFIXES, here)):
        if found := [path for path in among if path.suffix.lower() in endings]:
            return found
    if both := {path.name.split(".")[0]: path for path in here if path.name.endswith(MYO)}:
        return list(both.values())
    known = (*TABLES, *_XDF)
    tables = [path for path in here if path.suffix.lower() in known and not path.name.endswith(_KEYS)]
    if not tables:
        hint = "name the folder that they are in: folders inside a folder are searched for BIDS and Intan only"
        raise EmgscribeError("holds no recordings", where=str(given), hint=hint)
    return tables
