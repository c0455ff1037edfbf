"""Two public sets of people typing with other devices, each in the files that its authors publish.

- myo-keylogging (Gazzari et al. 2021, doi 10.5281/zenodo.5594651): Myo armbands of eight electrodes at 200 Hz on both
  arms, 37 people. A recording is `NAME.left.emg.csv`, `NAME.right.emg.csv` and `NAME.key.csv`.
- sEMG-TypingDatabase (Eby et al. 2025, doi 10.5683/SP3/KV65VI): 16 electrodes at 2 kHz, 19 people, one key pressed ten
  times in each file. A recording is `P1/T1/Data/A_220901_104337.rhd` (Intan), with the keys of the day in
  `P1/T1/Keylogs.txt` and the lag of each file behind them in `P1/T1/LAG_TIMINGS.csv`.

Nothing has been measured on either yet. Sources: their READMEs and example files. The second set does not say which
eight channels belong to which arm; the first eight are taken as the left arm's.
"""

import re
import string
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import numpy as np

from emgscribe.data.recordings import Recording, Track, bands_of, keystrokes_of
from emgscribe.data.shape import Band
from emgscribe.data.tables import read_table, seconds_in
from emgscribe.errors import EmgscribeError, optional
from emgscribe.files import damage_reported, open_file, open_text, reading_rows

MYO = ".emg.csv"
_MYO_RATE = 200.0
_LINE = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),(\d{3}) - (?:'(.)'|(Key\.\w+))$")
_RHD = re.compile(r"(\w+?)_(\d{6}_\d{6})$")
# X11's names of the characters, in the order of `string.punctuation`.
_NAMES = (
    "exclam quotedbl numbersign dollar percent ampersand apostrophe parenleft parenright asterisk plus comma minus"
    " period slash colon semicolon less equal greater question at bracketleft backslash bracketright asciicircum"
    " underscore grave braceleft bar braceright asciitilde adiaeresis odiaeresis udiaeresis ssharp"
)
_SIGNS = dict(zip(_NAMES.split(" "), string.punctuation + "äöüß", strict=True))


def read_myo(path: Path) -> Recording:
    """The recording that an `*.emg.csv` of myo-keylogging is part of: both arms where both have a file."""
    name = path.name.split(".")[0]
    tracks: dict[Band, Track] = {}
    for band in get_args(Band):
        if (table := path.with_name(f"{name}.{band}{MYO}")).exists():
            (tracks[band],) = read_table(table, [band], columns=[f"emg{place}" for place in range(8)]).tracks
    keys = path.with_name(f"{name}.key.csv")
    strokes = tuple(keystrokes_of(_events(keys))) if keys.exists() else ()
    return Recording(tuple(tracks), tuple(tracks.values()), _MYO_RATE, unit="raw", keystrokes=strokes, name=name)


def _events(path: Path) -> Iterator[tuple[str, float, bool]]:
    """(key, time, whether it went down) of a log with the columns time, keysym and event."""
    with reading_rows(path, "the columns are time, keycode, keysym and event") as rows:
        for row in rows:
            key, time, event = _SIGNS.get(row["keysym"], row["keysym"]), seconds_in(row["time"]), row["event"].lower()
            yield key, time, not ("release" in event or "up" in event)


def read_intan(path: Path, bands: Sequence[Band]) -> Recording:
    """The recording in an `.rhd` file, with keys of sEMG-TypingDatabase beside it. Needs neo (the extra `intan`)."""
    rawio = optional("neo.rawio", "intan")
    open_file(path).close()
    with damage_reported(path, "is damaged, or not an Intan file"):
        raw = rawio.IntanRawIO(filename=str(path))
        raw.parse_header()
        rate = float(raw.get_signal_sampling_rate(stream_index=0))
        counts = raw.get_analogsignal_chunk(stream_index=0)
        emg = raw.rescale_signal_raw_to_float(counts, dtype="float32", stream_index=0)  # µV
    tracks = tuple(bands_of(np.asarray(emg, np.float32), np.arange(len(emg)) / rate, bands))
    found = Recording(tuple(bands), tracks, rate, unit="uV", name=path.stem)
    named, day = _RHD.match(path.stem), path.parent.parent
    logs = [log for log in day.glob("*.txt") if log.name.lower() == "keylogs.txt"]
    start = named and _unix(named[2], "%y%m%d_%H%M%S")
    if start is None or not logs:
        return found
    lag = _lag(day / "LAG_TIMINGS.csv", path.stem)
    keys = ((key, time - start + lag, None) for key, time in _logged(logs[0]))
    strokes = tuple(keystrokes_of(key for key in keys if 0 <= key[1] < len(emg) / rate))
    person, session = day.parent.name, f"{day.parent.name}-{day.name}-{path.stem}"
    return Recording(tuple(bands), tracks, rate, start, "uV", strokes, user=person, name=session)


def _logged(path: Path) -> Iterator[tuple[str, float]]:
    """(key, time as if it were UTC) of each line of a key log that holds one."""
    with open_text(path, errors="replace") as file:
        for number, line in enumerate(file, 1):
            if (found := _LINE.match(line.strip())) is None:
                continue
            if (moment := _unix(found[1], "%Y-%m-%d %H:%M:%S")) is None:
                what = f"line {number}: {found[1]} is not a date and time"
                raise EmgscribeError(what, where=str(path), hint="copy the file again")
            yield found[3] or found[4], moment + int(found[2]) / 1000


def _unix(text: str, form: str) -> float | None:
    """Unix seconds of a date and time as if it were UTC; None where there is no such date."""
    try:
        return datetime.strptime(text, form).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None


def _lag(path: Path, name: str) -> float:
    """Seconds to add to a key's time: the file's name says its start in whole seconds only."""
    if not path.exists():
        return 0.0
    with reading_rows(path, "copy the file again") as rows:
        return next((seconds_in(row["Lag"]) for row in rows if row["Filename"] == name), 0.0)
