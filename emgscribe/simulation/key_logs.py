"""Key logs, to simulate EMG for keys that people pressed: session files, or the events of a BIDS data set.

BIDS: `sub-USER_ses-TIME_…_events.tsv`, TIME the start in unix seconds, with the columns onset and duration (s), value
(`keystroke_…` or `prompt`), key (as pynput names it) and prompt_text, in which a line feed is written as a backslash
and n. A copy of emg2qwerty in this layout is NEMAR's NM000104.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

from emgscribe.data.bids import EVENTS, read_events
from emgscribe.data.hdf5 import Keystroke, Prompt, SessionFile, is_session_name, moved
from emgscribe.errors import EmgscribeError

NUM_USERS = 100_000_000  # users are numbered with eight digits
_LONGEST = 600 * 60.0  # s, of a session
_QUIET = 1.0  # s after the last event


@dataclass(frozen=True)
class KeyLog:
    """Keystrokes and prompts of a session, in seconds from `start` (unix s); `real` where a person pressed the keys."""

    user: str
    start: float
    duration: float
    keystrokes: tuple[Keystroke, ...]
    prompts: tuple[Prompt, ...]
    real: bool = True

    @property
    def person(self) -> int:
        """The number of the simulated person: that in the user id, if it is one."""
        known = self.user.isdecimal() and int(self.user) < NUM_USERS
        return int(self.user) if known else crc32(self.user.encode()) % NUM_USERS


def find_key_logs(folder: Path) -> Sequence[Path]:
    """The session files of a folder, or the events files in and below it, by name; none raises `EmgscribeError`."""
    sessions = (path for path in folder.glob("*") if is_session_name(path))
    if found := sorted(sessions) or sorted(folder.rglob(EVENTS)):
        return [path for path in found if path.is_file()]
    what = "has no key logs" if folder.is_dir() else "no such folder"
    raise EmgscribeError(what, where=str(folder), hint=f"name a folder of session files (*.hdf5, *.h5) or of {EVENTS}")


def read_key_log(path: Path) -> KeyLog:
    """The key log in a file; `EmgscribeError` where it is broken, or its times cannot be those of a session."""
    log = _of_session(path) if is_session_name(path) else _of_events(path)
    for start, end in [(e.start, e.end) for part in (log.keystrokes, log.prompts) for e in part]:
        if not 0 <= start <= end <= log.duration <= _LONGEST:  # false for NaN
            what = f"an event lasts from {start:g} to {end:g} s, a session at most from 0 to {_LONGEST:g} s"
            raise EmgscribeError(what, where=str(path), hint="repair the file or take it out of the folder")
    if not log.keystrokes or not 0 <= log.start < 1e10:
        what = f"starts at {log.start:g} in unix seconds" if log.keystrokes else "has no keystrokes"
        raise EmgscribeError(what, where=str(path), hint="take it out of the folder")
    return log


def _of_session(path: Path) -> KeyLog:
    with SessionFile(path) as session:
        header, start = session.header, session.layout.start
    keys = moved(header.keystrokes, -start)
    prompts = moved(header.prompts, -start)
    duration = max(header.duration_mins * 60, _end(keys, prompts))
    return KeyLog(header.user, start, duration, keys, prompts, not header.simulation or header.real_keys)


def _of_events(path: Path) -> KeyLog:
    user, start, keys, prompts = read_events(path)
    return KeyLog(user, start, _end(keys, prompts), keys, prompts)


def _end(*events: Sequence[Keystroke | Prompt]) -> float:
    return max((each.end for part in events for each in part), default=0.0) + _QUIET
