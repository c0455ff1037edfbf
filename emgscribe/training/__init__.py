"""Training: the only stage that imports lightning.

A run lives in a folder: `best/` (the model of the lowest validation CER), `last.ckpt` (everything that a resumed run
needs), `curves.csv` (a line an epoch) and `settings.json` (so that another experiment does not continue it).
All randomness is drawn from the seed and the epoch's number, so a run that was cut off and resumed ends with the same
weights as one that was not: bit for bit on a CPU, on a GPU up to the order in which its kernels add.

`run` holds what a run is and begins one, `loop` is what Lightning runs in it, `callbacks` what happens beside.
"""

from emgscribe.training.run import Recipe, Trained, current_commit, cut, fit, resolve_precision, seconds_for

__all__ = ["Recipe", "Trained", "current_commit", "cut", "fit", "resolve_precision", "seconds_for"]
