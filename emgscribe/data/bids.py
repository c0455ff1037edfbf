"""Sessions as a BIDS data set of EMG (Gorgolewski et al. 2016; EMG since BIDS 1.11), read and written.

The layout is that of the BIDS copy of emg2qwerty (NEMAR NM000104): a session is `sub-USER/ses-TIME/emg/`, TIME the
start in unix seconds, with samples in BDF or EDF, the columns onset, duration, sample, value, key and prompt_text in
`*_events.tsv`, and the arm of each channel as its group in `*_channels.tsv`.
"""

import csv
import math
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np

from emgscribe.config import require
from emgscribe.data.hdf5 import Emg, Keystroke, Prompt, SessionFile, SessionHeader
from emgscribe.data.recordings import UNITS, Recording, bands_of
from emgscribe.data.shape import Band, Shape
from emgscribe.errors import EmgscribeError, optional
from emgscribe.files import damage_reported, open_file, read_json, reading_rows, replacing, write_json

EVENTS = "*_events.tsv"
ENDINGS = (".bdf", ".edf")
_NAME = re.compile(r"sub-([A-Za-z0-9]+)_ses-(\d{1,10})_")
_COLUMNS = ("onset", "duration", "value", "key", "prompt_text")
_TABLE = {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
_VERSION = "1.11.0"
_LATEST = 1e11  # s: later than any recording
_EVENT_FIELDS = {
    "onset": {"Description": "Time of the event from the first sample", "Units": "s"},
    "duration": {"Description": "How long the key was held, or the prompt was shown", "Units": "s"},
    "sample": {"Description": "The first sample at or after the onset, counted from 0"},
    "value": {"Description": "keystroke_KEY, or prompt"},
    "key": {"Description": "The key, as pynput names it"},
    "prompt_text": {"Description": "What was to be typed; a line feed is written as a backslash and n"},
}


def read_events(path: Path) -> tuple[str, float, tuple[Keystroke, ...], tuple[Prompt, ...]]:
    """The user, the start in unix seconds, and the keys and prompts of a `*_events.tsv`, in seconds from the start.

    Raises `EmgscribeError` where the name or a line is not as in the data set.
    """
    named = _NAME.match(path.name)
    if named is None:
        what = "is not named sub-USER_ses-TIME_…_events.tsv, TIME in unix seconds"
        raise EmgscribeError(what, where=str(path), hint="name it like the files of a BIDS data set")
    keys, prompts = list[Keystroke](), list[Prompt]()
    with reading_rows(path, "copy the file again", **_TABLE) as rows:
        if missing := [name for name in _COLUMNS if name not in (rows.fieldnames or ())]:
            raise ValueError(f"no column {', '.join(missing)}")
        for row in rows:
            onset, duration, value, key, text = (row[name] for name in _COLUMNS)
            start, end = float(onset), float(onset) + float(duration)
            if not math.isfinite(start + end):
                raise ValueError(f"{onset} for {duration} s is not a time")
            if value.startswith("keystroke"):
                keys.append(Keystroke(key, start, end))
            elif value == "prompt":
                prompts.append(Prompt(f"prompt-{len(prompts)}", start, end, text.replace("\\n", "\n")))
    return named[1], float(named[2]), tuple(keys), tuple(prompts)


def read_recording(path: Path, bands: Sequence[Band] = ()) -> Recording:
    """The recording in a `*_emg.bdf` or `*_emg.edf` and the files beside it. Needs edfio (the extra `bids`).

    `bands` are used where `*_channels.tsv` does not say which arm a channel belongs to. Raises `EmgscribeError` where
    one of the files is damaged.
    """
    stem = path.name.removesuffix(path.suffix).removesuffix("_emg")
    beside = {kind: path.with_name(f"{stem}_{kind}") for kind in ("emg.json", "channels.tsv", "events.tsv")}
    about = _Sidecar.read(beside["emg.json"])
    signals = _signals(path)
    groups = _groups(beside["channels.tsv"], signals)
    chosen: dict[Band, list[Any]] = {"left": [], "right": []}
    for label, signal in signals.items():
        if band := groups.get(label):
            chosen[band].append(signal)
    used: tuple[Band, ...] = tuple(band for band, own in chosen.items() if own) or tuple(bands)
    own = [signal for band in used for signal in chosen[band]] or list(signals.values())
    rates, units = {signal.sampling_frequency for signal in own}, {signal.physical_dimension for signal in own}
    if len(rates) != 1 or len(units) != 1 or not used or len({len(chosen[band]) for band in used}) != 1:
        what = f"has {len(own)} channels of EMG at {len(rates)} rates in {len(units)} units on {len(used)} bands"
        raise EmgscribeError(what, where=str(path), hint="give the group of each (left, right) in channels.tsv")
    rate = about.rate or float(*rates)
    samples = np.stack([signal.data.astype(np.float32) for signal in own], axis=1)
    if about.seconds:  # a file has whole records; the last one is padded
        samples = samples[: round(about.seconds * rate)]
    (unit,) = units
    found = Recording(
        bands=used,
        tracks=tuple(bands_of(samples, np.arange(len(samples)) / rate, used)),
        rate=rate,
        unit=unit if unit in UNITS else "raw",
        name=about.name or stem,
        simulation=about.simulation,
    )
    if not beside["events.tsv"].exists():
        return found
    user, start, keys, prompts = read_events(beside["events.tsv"])
    return replace(found, start=about.start or start, user=user, keystrokes=keys, prompts=prompts)


@dataclass(frozen=True)
class _Sidecar:
    """What we read from a `*_emg.json`; 0 or empty where it does not say."""

    rate: float = 0.0
    seconds: float = 0.0
    start: float = 0.0
    name: str = ""
    simulation: str = ""

    @classmethod
    def read(cls, path: Path) -> "_Sidecar":
        if not path.exists():
            return cls()
        about = read_json(path)
        require(isinstance(about, dict), "the content", about, "an object")

        def number(field: str) -> float:
            value = about.get(field, 0)
            fits = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < _LATEST
            if not fits:
                hint = "correct it, or copy the file again"
                raise EmgscribeError(f"{field} is {value!r:.40}, not a number", where=str(path), hint=hint)
            return float(value)

        rate, seconds, start = map(number, ("SamplingFrequency", "RecordingDuration", "StartTime"))
        return cls(rate, seconds, start, str(about.get("SessionName", "")), str(about.get("Simulation", "")))


def _signals(path: Path) -> dict[str, Any]:
    """The signals of a BDF or EDF file by label; samples that are missing at its end are an error, not a warning."""
    edfio = optional("edfio", "bids")
    open_file(path).close()
    with damage_reported(path):
        warnings.simplefilter("error")
        read = edfio.read_bdf if path.suffix.lower() == ".bdf" else edfio.read_edf
        return {signal.label: signal for signal in read(path).signals}


def _groups(path: Path, labels: Iterable[str]) -> dict[str, Band]:
    """The arm of each channel: its group in channels.tsv, else what its name says."""
    found = {label: side for label in labels for side in get_args(Band) if side in label.lower()}
    if path.exists():
        with reading_rows(path, "copy the file again", **_TABLE) as rows:
            for row in rows:
                group = row.get("group", "").lower()
                if (row.get("type") or "EMG").upper() == "EMG" and group in get_args(Band):
                    found[row["name"]] = cast(Band, group)
    return found


def write_bids(sessions: Iterable[Path], out: Path) -> list[Path]:
    """Write session files as a BIDS data set into the folder `out`; returns the BDF files.

    Labels and times stay exact; samples have 24 bits over each channel's range. Sessions of one user that start in the
    same second are refused. Simulated sessions say so in their `*_emg.json`. Needs edfio (the extra `bids`).
    """
    made: dict[Path, str] = {}
    for path in sessions:
        with SessionFile(path) as file:
            if file.shape.rate != round(file.shape.rate):
                what, hint = f"has {file.shape.rate:g} samples a second", "convert it with --resample to whole Hz"
                raise EmgscribeError(what, where=str(path), hint=hint)
            user = re.sub("[^A-Za-z0-9]", "", file.header.user) or "unknown"
            name = f"sub-{user}_ses-{int(file.layout.start)}_task-typing"
            target = out / f"sub-{user}" / f"ses-{int(file.layout.start)}" / "emg" / f"{name}_emg.bdf"
            if target in made:
                what = f"is a second session of {user} that starts at {int(file.layout.start)}"
                raise EmgscribeError(what, where=str(path), hint="leave it out")
            _write_one(file, target)
            made[target] = user
    write_json(out / "task-typing_events.json", _EVENT_FIELDS)
    about = {"Name": out.resolve().name, "BIDSVersion": _VERSION, "DatasetType": "raw"}
    write_json(out / "dataset_description.json", about)
    users = [[f"sub-{user}"] for user in dict.fromkeys(made.values())]
    _write_table(out / "participants.tsv", ["participant_id"], users)
    with replacing(out / "README.md") as temporary:
        temporary.write_text("Surface EMG of typing, written by emgscribe.\n", encoding="utf-8")
    return list(made)


def _write_one(file: SessionFile, target: Path) -> None:
    """Write the samples of a session to `target`, and the files beside it."""
    header, shape, start = file.header, file.shape, file.layout.start
    times, emg = file.read()
    _write_samples(target, emg, shape)
    write_json(target.with_suffix(".json"), _about(shape, len(times), start, header))
    places = ((band, place) for band in shape.bands for place in range(shape.electrodes))
    channels = [
        [f"EMG{number}", "EMG", "uV", f"E{place}", "bipolar", band, "forearm muscles"]
        for number, (band, place) in enumerate(places)
    ]
    fields = ["name", "type", "units", "signal_electrode", "reference", "group", "target_muscle"]
    stem = target.name.removesuffix("_emg.bdf")
    _write_table(target.with_name(f"{stem}_channels.tsv"), fields, channels)
    events = [(k.start, k.end, f"keystroke_{_plain(k.key)}", _plain(k.key), "n/a") for k in header.keystrokes]
    shown = [(p.start, p.end, p.text.replace("\n", "\\n")) for p in header.prompts if p.text]
    events += [(began, ended, "prompt", "n/a", _plain(text)) for began, ended, text in shown]
    rows = [
        [repr(began - start), repr(ended - began), str(int(np.searchsorted(times, began))), *texts]
        for began, ended, *texts in sorted(events)
        if math.isfinite(began) and math.isfinite(ended)
    ]
    _write_table(target.with_name(f"{stem}_events.tsv"), [*_EVENT_FIELDS], rows)


def _plain(text: str) -> str:
    """A cell of a table, which holds no tab or line feed and is not empty."""
    return "".join(character for character in text if character.isprintable()).strip() or "n/a"


def _about(shape: Shape, samples: int, start: float, header: SessionHeader) -> dict[str, Any]:
    placed = " and ".join(f"the {band} wrist" for band in shape.bands)
    about = {
        "TaskName": "typing",
        "TaskDescription": "Touch typing of prompted text on a keyboard.",
        "SamplingFrequency": int(shape.rate),
        "PowerLineFrequency": "n/a",
        "SoftwareFilters": "n/a",
        "RecordingType": "continuous",
        "RecordingDuration": samples / shape.rate,
        "EMGChannelCount": len(shape.bands) * shape.electrodes,
        "EMGPlacementScheme": "Other",
        "EMGPlacementSchemeDescription": f"{shape.electrodes} electrodes around {placed}.",
        "EMGReference": "bipolar",
        "EMGGround": "n/a",
        "StartTime": start,
        "SessionName": header.name,
    }
    return about | ({"Simulation": header.simulation} if header.simulation else {})


def _write_samples(path: Path, emg: Emg, shape: Shape) -> None:
    edfio, rate, signals = optional("edfio", "bids"), int(shape.rate), []
    for number, column in enumerate(emg.reshape(len(emg), -1).T):
        whole = np.pad(column.astype(np.float64), (0, -len(column) % rate))  # records of one second
        most = float(f"{1.001 * max(float(np.abs(whole).max()), 1e-3):.4g}")  # a header's field has eight characters
        about = {"label": f"EMG{number}", "physical_dimension": "uV", "physical_range": (-most, most)}
        signals.append(edfio.BdfSignal(whole, rate, **about))
    with replacing(path) as temporary:
        edfio.Bdf(signals, data_record_duration=1).write(temporary)


def _write_table(path: Path, names: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, quotechar=None)
        table.writerows([names, *rows])
