"""Files as other devices and laboratories write them, from their format descriptions: for tests and fuzzing."""

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

MYO_NAMES = ["time", *(f"emg{number}" for number in range(8)), "moving", "characteristics"]
MYO_KEYS = (
    "time,keycode,keysym,event\n1.0,30,t,pressed\n1.05,30,t,pressed\n1.1,30,t,released\n"
    "1.5,50,Shift_L,pressed\n1.6,10,exclam,pressed\n1.7,10,exclam,released\n2.0,65,space,pressed\n"
)


def text_table(path: Path, *columns: Sequence[float] | np.ndarray, names: Sequence[str] = (), mark: str = ",") -> Path:
    """Columns of numbers, with their names above them where there are any."""
    rows = np.column_stack(columns)
    path.write_text(
        (mark.join(names) + "\n") * bool(names) + "".join(mark.join(map(repr, row)) + "\n" for row in rows.tolist())
    )
    return path


def myo(folder: Path, emg: np.ndarray, *arms: str) -> Path:
    """A recording of myo-keylogging, `emg` (T, 8) on each arm, the second arm 10 ms late; returns its folder."""
    folder.mkdir(exist_ok=True)
    times = np.arange(len(emg)) / 200
    for place, arm in enumerate(arms):
        extra = np.zeros((len(emg), 2))
        text_table(folder / f"P1-0.{arm}.emg.csv", times + 0.01 * place, emg, extra, names=MYO_NAMES)
    (folder / "P1-0.key.csv").write_text(MYO_KEYS)
    (folder / "P1-0.meta.json").write_text("{}")
    return folder


def typing_day(folder: Path, emg: np.ndarray) -> Path:
    """A day of sEMG-TypingDatabase below `folder`, with one recording `emg` (T, 16) in µV; returns the day's folder."""
    day = folder / "P1" / "T1"
    rhd(day / "Data" / "S_220923_131650.rhd", emg)
    (day / "Keylogs.txt").write_text("2022-09-23 13:16:51,500 - 's'\n")
    (day / "LAG_TIMINGS.csv").write_text("Filename,Lag,Error\nS_220923_131650,-0.25,0.1\n")
    return day


def rhd(path: Path, emg: np.ndarray, rate: float = 2000.0) -> Path:
    """An Intan file of version 1.5 with amplifier channels alone."""
    channels = emg.shape[1]
    head = struct.pack("<IhhfhffffffhffI", 0xC6912702, 1, 5, rate, 1, 1, 1, 1e3, 1, 1, 1e3, 0, 1e3, 1e3, 0)[:-4]
    head += _qstring("") * 3 + struct.pack("<hh", 0, 0) + struct.pack("<h", 1)
    head += _qstring("Port A") + _qstring("A") + struct.pack("<hhh", 1, channels, channels)
    for number in range(channels):
        head += _qstring(f"A-{number:03d}") * 2 + struct.pack("<hhhhhh", number, number, 0, 1, number, 0)
        head += struct.pack("<hhhhff", 0, 0, 0, 0, 0.0, 0.0)
    counts = np.rint(emg / 0.195 + 32768).astype("<u2")
    blocks = b"".join(
        np.arange(at, at + 60, dtype="<i4").tobytes() + counts[at : at + 60].T.tobytes()
        for at in range(0, len(emg), 60)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head + blocks)
    return path


def _qstring(text: str) -> bytes:
    data = text.encode("utf-16-le")
    return struct.pack("<I", len(data)) + data


def xdf(path: Path, *streams: bytes) -> Path:
    """An XDF file of streams that `xdf_stream` made."""
    header = b"<?xml version='1.0'?><info><version>1.0</version></info>"
    path.write_bytes(b"XDF:" + _chunk(1, header) + b"".join(streams))
    return path


def xdf_stream(number: int, name: str, kind: str, samples: np.ndarray | list[str], times: np.ndarray) -> bytes:
    """A stream of EMG in mV at 200 Hz, or of markers."""
    words = isinstance(samples, list)
    channels = 1 if words else samples.shape[1]
    unit = "<channels><channel><label>e</label><unit>millivolts</unit></channel></channels>"
    about = (
        f"<?xml version='1.0'?><info><name>{name}</name><type>{kind}</type><channel_count>{channels}</channel_count>"
        f"<nominal_srate>{0 if words else 200}</nominal_srate><channel_format>{'string' if words else 'float32'}"
        f"</channel_format><source_id>{name}</source_id><desc>{unit}</desc></info>"
    )
    own = struct.pack("<I", number)
    body = own + b"\x04" + struct.pack("<I", len(times))
    for sample, time in zip(samples, times.tolist(), strict=True):
        body += b"\x08" + struct.pack("<d", time)
        if isinstance(sample, str):
            body += b"\x01" + bytes([len(sample.encode())]) + sample.encode()
        else:
            body += sample.astype("<f4").tobytes()
    clocks = b"".join(_chunk(4, own + struct.pack("<dd", at, 0.0)) for at in np.linspace(times[0], times[-1], 5))
    last = f"<?xml version='1.0'?><info><first_timestamp>{times[0]}</first_timestamp></info>"
    return _chunk(2, own + about.encode()) + _chunk(3, body) + clocks + _chunk(6, own + last.encode())


def _chunk(tag: int, content: bytes) -> bytes:
    return b"\x04" + struct.pack("<IH", len(content) + 2, tag) + content
