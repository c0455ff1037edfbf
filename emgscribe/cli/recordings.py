"""The verb that converts recordings of other formats and shapes into session files, and sessions into BIDS."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from emgscribe.cli.terminal import refuse, screen
from emgscribe.data.bids import write_bids
from emgscribe.data.convert import Source, recordings_in
from emgscribe.data.convert import convert as convert_files
from emgscribe.data.recordings import Conversion


def convert(
    files: Positional[Annotated[tuple[Path, ...], arg(metavar="FILES", help="Recordings, or folders of them.")]],
    *,
    out: Annotated[Path, arg(help="Folder to write to.")],
    to: Annotated[Literal["sessions", "bids"], arg(help="sessions: HDF5 files; bids: a BIDS data set.")] = "sessions",
    user: Annotated[str, arg(help="Who was recorded; empty: what the file says.")] = "",
    resample: Annotated[float, arg(help="Change to this many samples a second; 0: keep the rate.")] = 0.0,
    source: Annotated[Source, arg(name="")],
) -> None:
    """Reads CSV, NumPy (.npy, .npz), XDF (LabRecorder), BDF and EDF of BIDS data sets, Intan (.rhd), the files of
    myo-keylogging, and session files. Gaps become silence. What was changed is printed.

    Examples:
      emgscribe convert recordings --out data --bands left --user me
      emgscribe convert armband.npy --keys keys.csv --out data --bands left --rate 200 --start 2026-01-31T10:00:00
      emgscribe convert lab.xdf --out data
      emgscribe convert bids-folder --out data
      emgscribe convert data --out slow --resample 200
      emgscribe convert data --out bids-folder --to bids
    """
    if to == "bids":
        lacking = {f"--{name}": value != getattr(Source(), name) for name, value in vars(source).items()}
        refuse({"--user": user, "--resample": resample} | lacking, "--to bids")
        made = write_bids([path for given in files for path in recordings_in(given)], out)
        screen.print(f"{len(made)} sessions as a BIDS data set in {out}")
        return
    convert_files(files, out, source, user=user, resample=resample, each=_print)


def _print(done: Conversion) -> None:
    screen.print(f"{done.path}: {done.shape}, {done.seconds / 60:.2f} min, keys: {done.keys}")
    for note in done.notes:
        screen.print(f"  {note}")
