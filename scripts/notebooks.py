"""Run notebooks, and keep what they print and draw in them.

    pip install nbclient ipykernel
    python scripts/notebooks.py notebooks/2-train-and-read.ipynb

Each runs in an empty folder, since it writes data beside itself. Pictures are kept in few colours, which takes a
quarter of the space.
"""

import sys
from base64 import b64decode, b64encode
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient
from PIL import Image

COLOURS = 32


def smaller(picture: str) -> str:
    """A PNG in base64, with few colours."""
    image, found = Image.open(BytesIO(b64decode(picture))), BytesIO()
    image.convert("RGB").quantize(COLOURS).save(found, "PNG", optimize=True)
    return b64encode(found.getvalue()).decode()


def main(*paths: str) -> None:
    for path in map(Path, paths):
        notebook = nbformat.read(path, as_version=4)
        with TemporaryDirectory() as folder:
            where = {"metadata": {"path": folder}}
            NotebookClient(notebook, timeout=None, record_timing=False, resources=where).execute()
        for cell in notebook.cells:
            for output in cell.get("outputs", ()):
                if "image/png" in (data := output.get("data", {})):
                    data["image/png"] = smaller(data["image/png"])
        nbformat.write(notebook, path)
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(*sys.argv[1:])
