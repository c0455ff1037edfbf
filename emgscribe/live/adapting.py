"""Fine-tunes a model in a process of its own, so that reading continues."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

_LOW = getattr(psutil, "BELOW_NORMAL_PRIORITY_CLASS", 10)  # on Windows, and elsewhere


class Adapting:
    """Runs `emgscribe adapt` with one thread and low priority.

    `on_line` is called with each line that it prints, `on_end` with the folder of the new model, or None and the last
    lines where it failed; a thread calls both. After `stop`, it calls neither.
    """

    def __init__(
        self, model: Path, sessions: Sequence[Path], out: Path,
        *, on_line: Callable[[str], None], on_end: Callable[[Path | None, str], None],
    ) -> None:  # fmt: skip
        command = [sys.executable, "-m", "emgscribe", "adapt", str(model), *map(str, sessions), "--out", str(out)]
        one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        self._out, self._on_line, self._on_end, self._stopped = out, on_line, on_end, False
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
            env=os.environ | one_thread, text=True, encoding="utf-8", errors="replace",
        )  # fmt: skip
        with suppress(psutil.Error, ValueError, OSError):
            psutil.Process(self._process.pid).nice(_LOW)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        lines: list[str] = []
        with self._process as process:
            for line in process.stderr or ():
                lines = [*lines[-2:], line.strip()]
                if not self._stopped:
                    self._on_line(line.strip())
        status = self._process.returncode
        if not self._stopped:
            self._on_end(self._out / "best" if status == 0 else None, " ".join(lines))

    @property
    def runs(self) -> bool:
        """Whether it is running."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """End it; what it has done is kept, and the same call would resume."""
        self._stopped = True
        self._process.terminate()
        self._process.wait()
