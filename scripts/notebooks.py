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
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbformat.v4 import new_output
from PIL import Image

COLOURS = 32


def smaller(picture: str) -> str:
    """A PNG in base64, with few colours."""
    image, found = Image.open(BytesIO(b64decode(picture))), BytesIO()
    image.convert("RGB").quantize(COLOURS).save(found, "PNG", optimize=True)
    return b64encode(found.getvalue()).decode()


def kept(outputs: list[Any]) -> list[Any]:
    """Outputs with smaller pictures, and printed pieces as one text, which rich shows as HTML line by line."""
    found = list[Any]()
    for output in outputs:
        data = output.get("data", {})
        if "image/png" in data:
            data["image/png"] = smaller(data["image/png"])
        if "text/html" in data:
            output = new_output("stream", name="stdout", text=data["text/plain"])
        if found and output.get("name") == found[-1].get("name") == "stdout":
            found[-1].text += output.text
        else:
            found.append(output)
    return found


def main(*paths: str) -> None:
    for path in map(Path, paths):
        notebook = nbformat.read(path, as_version=4)
        with TemporaryDirectory() as folder:
            where = {"metadata": {"path": folder}}
            NotebookClient(notebook, timeout=None, record_timing=False, resources=where).execute()
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs = kept(cell.outputs)
        nbformat.write(notebook, path)
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(*sys.argv[1:])
