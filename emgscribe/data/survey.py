"""Many session files at once: what is wrong with them, and what was typed in them."""

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emgscribe.config import require
from emgscribe.data.charset import BACKSPACE, ENTER, SPACE
from emgscribe.data.hdf5 import SessionFile, kind_of, session_files
from emgscribe.data.inspect import Inspection, inspect
from emgscribe.data.splits import file_fault, listed_sessions
from emgscribe.errors import EmgscribeError, needing
from emgscribe.files import replacing
from emgscribe.machine import cores

_SHOWN = {SPACE: "␣"}


@dataclass(frozen=True)
class Checked:
    """The `inspect` findings of a file, and how it compares with the published one.

    `published`: "same" where size and SHA-256 are known and equal, "listed" where they are not known, how it differs,
    or empty for a session that is not of the data set.
    """

    inspection: Inspection
    published: str

    @property
    def good(self) -> bool:
        """Whether it can be used and does not differ from the published file."""
        return self.inspection.usable and self.published in ("", "same", "listed")

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON-ready data."""
        return self.inspection.to_json() | {"published": self.published, "good": self.good}


def check_all(files: Sequence[Path], jobs: int = 0, progress: Callable[[float], None] | None = None) -> list[Checked]:
    """Check files and folders, `jobs` files at a time; the results are in order, whatever is found."""
    require(0 <= jobs <= 1000, "jobs", jobs, "0 to 1000")
    listed, paths = listed_sessions(), session_files(files)

    def one(path: Path) -> Checked:
        (found,), row = inspect(path), listed.get(path.stem)
        if row is None or not path.is_file():
            return Checked(found, "")
        return Checked(found, file_fault(path, row) or ("same" if row.sha256 else "listed"))

    # Threads: reading, hashing and NumPy take the time, and let other threads run meanwhile.
    with ThreadPoolExecutor(jobs or cores()) as pool:
        running = [pool.submit(one, path) for path in paths]
        for number, _ in enumerate(as_completed(running), 1):
            if progress:
                progress(number / len(paths))
        return [each.result() for each in running]


@dataclass(frozen=True)
class Stats:
    """What a user typed. `simulated` is true if the EMG is, `real_keys` if a person pressed the keys even so."""

    user: str
    simulated: bool
    real_keys: bool
    sessions: int
    seconds: float
    symbols: Counter[str]

    @property
    def keys(self) -> int:
        return self.symbols.total()

    @property
    def kind(self) -> str:
        """In words: recorded, simulated, or simulated EMG, real keys."""
        return kind_of(simulated=self.simulated, real_keys=self.real_keys)

    @property
    def backspaces(self) -> float:
        """In per cent of the keys."""
        return 100 * self.symbols[BACKSPACE] / max(self.keys, 1)

    def cells(self) -> list[str]:
        """A row of a table."""
        common = "".join(_SHOWN.get(symbol, symbol) for symbol, _ in self.symbols.most_common(8))
        rate = self.keys / self.seconds if self.seconds else 0.0
        return [
            self.user,
            self.kind,
            str(self.sessions),
            f"{self.seconds / 3600:.2f}",
            str(self.keys),
            f"{rate:.2f}",
            f"{self.backspaces:.1f}",
            common,
        ]

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON-ready data."""
        return vars(self) | {"symbols": dict(self.symbols.most_common())}


def stats_of(files: Sequence[Path]) -> list[Stats]:
    """What was typed in session files and folders of them, by user and kind. Samples are not read.

    Copies of a session count once.
    """
    found: dict[tuple[str, bool, bool], Stats] = {}
    known = set[int]()  # hashes: the keys of a whole data set would fill the memory
    for path in session_files(files):
        with SessionFile(path) as file:
            header, samples, seconds = file.header, len(file), len(file) / file.shape.rate
        if (content := hash((header, samples))) in known:
            continue
        known.add(content)
        key = header.user, bool(header.simulation), header.real_keys
        before = found.get(key, Stats(*key, 0, 0.0, Counter()))
        found[key] = Stats(*key, before.sessions + 1, before.seconds + seconds, before.symbols + Counter(header.text))
    return [found[key] for key in sorted(found)]


def draw_stats(found: Sequence[Stats], out: Path) -> None:
    """Draw hours and speed of each user, and the share of each symbol, as a PNG."""
    with needing("train"):
        from matplotlib.figure import Figure

    if not any(each.keys for each in found):
        raise EmgscribeError("no keystroke has a symbol, so there is nothing to draw", hint="leave out --out")
    figure = Figure(figsize=(14, 4 + 0.25 * len(found)), layout="constrained")
    figure.suptitle("SIMULATED sessions" if all(each.simulated for each in found) else "sessions by user")
    rows, shares = figure.subplots(1, 2, width_ratios=(1, 1.6))
    names = [f"{each.user}{f' ({each.kind})' * each.simulated}" for each in found]
    rows.barh(names, [each.seconds / 3600 for each in found], color="#9fb8d0")
    for place, each in enumerate(found):
        speed = f" {each.keys / max(each.seconds, 1e-9):.1f} keys/s, ⌫ {each.backspaces:.1f} %"
        rows.text(0, place, speed, va="center", fontsize=8)
    rows.set(xlabel="hours", title="hours, speed and backspaces")
    rows.invert_yaxis()
    counted = sum((each.symbols for each in found), Counter[str]())
    top = counted.most_common(40)
    labels = [{**_SHOWN, ENTER: "⏎"}.get(symbol, symbol) for symbol, _ in top]
    shares.bar(range(len(top)), [100 * number / counted.total() for _, number in top], color="#3f6f9f")
    shares.set_xticks(range(len(top)), labels, parse_math=False)
    shares.set(ylabel="% of all keys", title="symbols")
    with replacing(out) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
