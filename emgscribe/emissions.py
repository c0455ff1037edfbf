"""Emissions kept in the cache folder, so that decoders are compared and tuned without running the network again.

An entry is one file, `emissions-<hash>.npy` (F, 99), in float32: what is read from the cache is what the network said,
to the last bit. The hash is of all that the emissions depend on, so an entry is never stale. Together the entries take
at most `MOST_BYTES`: those used longest ago go first. Any of them can be deleted at any time.
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import numpy as np

from emgscribe.charset import NUM_CLASSES
from emgscribe.config import to_json
from emgscribe.decode import Emissions, check_emissions
from emgscribe.files import replacing
from emgscribe.model import Model
from emgscribe.store import default_cache

MOST_BYTES = 2 << 30


def model_hash(model: Model) -> str:
    """A hash of what a network is and of its weights, wherever it is stored."""
    digest = sha256(repr(to_json(model.config)).encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def kept_emissions(
    key: object, frames: int, computed: Iterable[Emissions], *, cache: Path | None = None, most: int = MOST_BYTES
) -> Emissions:
    """Emissions (frames, 99) as a memory map: the cache's, or those that `computed` gives block by block, now kept.

    `key` names, by its `repr`, all that they depend on. A damaged entry is computed anew. Raises `EmgscribeError` where
    the disk is full or a block is NaN or of other classes; nothing half-written is left.
    """
    name = sha256(f"{version('emgscribe')} {key!r}".encode()).hexdigest()[:24]
    path = (cache or default_cache()) / f"emissions-{name}.npy"
    with suppress(OSError, ValueError, EOFError):  # there is none, or something else damaged it
        found = _opened(path, frames)
        os.utime(path)  # used now
        return found
    with replacing(path) as temporary, temporary.open("wb") as file:
        description = np.lib.format.dtype_to_descr(np.dtype(np.float32))
        header = {"descr": description, "fortran_order": False, "shape": (frames, NUM_CLASSES)}
        np.lib.format.write_array_header_1_0(file, header)
        # Plain writes, as for sessions: on a full disk a memory map would end the process.
        for block in computed:
            check_emissions(block)  # nothing that no decoder can read is kept
            file.write(np.ascontiguousarray(block, dtype=np.float32).tobytes())
    _make_room(path, most)
    return _opened(path, frames)


def _opened(path: Path, frames: int) -> Emissions:
    # Copy-on-write: the compiled search wants writable memory, and nothing ever reaches the file.
    emissions: Emissions = np.load(path, mmap_mode="c")
    if emissions.shape != (frames, NUM_CLASSES) or emissions.dtype != np.float32:
        raise ValueError("another shape")
    return emissions


def _make_room(newest: Path, most: int) -> None:
    """Remove the entries that were used longest ago, until all take at most `most` bytes; the newest stays."""
    entries = []
    for path in newest.parent.glob("emissions-*.npy"):
        with suppress(OSError):  # another process was faster
            status = path.stat()
            entries.append((path != newest, -status.st_mtime_ns, status.st_size, path))
    taken = 0
    for _, _, size, path in sorted(entries):
        taken += size
        if taken > most and path != newest:
            path.unlink(missing_ok=True)
