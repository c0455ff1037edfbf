"""The page as a folder for any web server: a session that is read in the browser alone, by ONNX Runtime Web."""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from emgscribe.data.charset import SYMBOLS
from emgscribe.data.session import Session, open_session
from emgscribe.files import replacing, write_json
from emgscribe.live.show import COLUMN_SECONDS
from emgscribe.models.model import Model
from emgscribe.models.onnx import OnnxModel, export_onnx, metadata
from emgscribe.simulation.config import like
from emgscribe.simulation.sessions import simulate_session

_FRAMES = 2  # of a step: fewer calls cost less, and text comes a frame later
_SECONDS = 90  # of the session: 11 MB
_PERSON = 20_261_129
_HERE = Path(__file__).parent
_PAGE = ("index.html", "app.js", "style.css")
_OWN = ("source.js", "LICENSE", "ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")


def write_site(model: Model, out: Path | str, session: Session | None = None) -> None:
    """Write the folder `out`, in which `model` reads `session`, by default a simulated one; it needs no server program.

    A model that cannot be streamed, and a folder that holds other files, raise `EmgscribeError`. Needs the extra
    `export`.
    """
    with (
        replacing(Path(out), (*_PAGE, *_OWN, "model.onnx*", "emg.bin", "about.json")) as site,
        TemporaryDirectory() as folder,
    ):
        site.mkdir()
        if session is None:
            path, config = Path(folder, "simulated.hdf5"), like(model.shape)
            simulate_session(path, user=_PERSON, session=0, minutes=_SECONDS / 60, seed=0, config=config)
            session = open_session(path, cache=Path(folder))
        model.require_shape(session)
        export_onnx(model, site / "model.onnx", frames=_FRAMES)
        _write_session(site, model, session.first(model.shape.samples(_SECONDS)))
        for name in _PAGE:
            shutil.copyfile(_HERE.parent / "page" / name, site / name)
        for name in _OWN:
            shutil.copyfile(_HERE / name, site / name)


def _write_session(site: Path, model: Model, session: Session) -> None:
    """Write the samples as int16, and in `about.json` all else that the page must know."""
    unit = float(np.abs(session.emg).max()) / 32767 or 1.0
    (site / "emg.bin").write_bytes(np.rint(session.emg / unit).astype("<i2").tobytes())
    known, shape = metadata(model, _FRAMES), model.shape
    numbers = {name: int(known[name]) for name in ("silence", "drop", "frames", "samples_per_frame")}
    simulated = "a simulated session" if session.simulated else session.name
    about = {
        "source": f"{simulated}, read in this browser alone",
        "simulated": session.simulated,
        "model": repr(model),
        "delay": (model.context[1] + (_FRAMES - 1) * model.samples_per_frame) / shape.rate,
        "bands": shape.bands,
        "electrodes": shape.electrodes,
        "rate": shape.rate,
        "column": max(1, shape.samples(COLUMN_SECONDS)) / shape.rate,
        "unit": unit,
        "symbols": [*SYMBOLS, ""],
        "states": OnnxModel(site / "model.onnx").states,
        "keys": [
            [SYMBOLS[label], at / shape.rate]
            for label, at in zip(session.labels.tolist(), session.onsets.tolist(), strict=True)
        ],
        **numbers,
    }
    write_json(site / "about.json", about)
