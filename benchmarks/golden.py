"""Five tiny training runs and what their models read: a refactoring must not change one bit of it.

    python benchmarks/golden.py > golden.json

Simulated sessions, fixed seeds, one thread, two epochs: TDS, CNN + GRU, TDS + transformer, a GRU on the raw EMG, TDS
with an attention decoder. For each: losses, a hash of its log-probabilities on a held-out session, and the texts read
greedily and with the beam. The same machine and the same torch give the same numbers.
"""

import hashlib
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from emgscribe.data.session import open_sessions
from emgscribe.data.windows import WindowConfig
from emgscribe.decoding.beam import BeamConfig, BeamDecoder
from emgscribe.decoding.greedy import GreedyDecoder
from emgscribe.decoding.language_model import train as train_language_model
from emgscribe.models.attention import AttentionConfig
from emgscribe.models.augment import AlignmentJitter, Augmentation, SpecAugment
from emgscribe.models.encoders import (
    EncoderConfig,
    MlpConfig,
    RecurrentConfig,
    ResidualCnnConfig,
    TdsConfig,
    TransformerConfig,
)
from emgscribe.models.features import SpectrogramConfig, StridedConvConfig
from emgscribe.models.model import ModelConfig
from emgscribe.simulation.sessions import simulate_session
from emgscribe.training.config import Recipe, TrainConfig
from emgscribe.training.run import train

TEXT = "the quick brown fox jumps over the lazy dog\n" * 20 + "a few more words of text\n"
TDS = TdsConfig(mlp_features=48, blocks=2, channels=12, kernel=8, lookahead=3, dropout=0.1)
CNN = ResidualCnnConfig(mlp_features=48, projection=32, widths=(32, 32), kernel=5, lookahead=2)
GRU = RecurrentConfig(base=MlpConfig(48), hidden=24, left=12, right=4)
BASE = Recipe(
    model=ModelConfig(SpectrogramConfig(n_fft=64, hop=48), TDS),
    windows=WindowConfig(2000, 2000, 0, 0),
    augment=Augmentation(jitter=AlignmentJitter(40), spec=SpecAugment(2, 6, 1, 4)),
    train=TrainConfig(
        epochs=2, batch_size=2, lr=5e-3, lr_start=1e-5, warmup_epochs=0.5, clip_norm=1.0, keypress_weight=1.0,
        precision="fp32", seed=7,
    ),
)  # fmt: skip


def _with(encoder: EncoderConfig, **heads: Any) -> Recipe:
    return replace(BASE, model=replace(BASE.model, encoder=encoder, **heads))


RUNS = {
    "tds": BASE,
    "cnn-gru": _with(RecurrentConfig(base=CNN, hidden=24, output=32, left=12, right=4)),
    "tds-attention": _with(TransformerConfig(base=TDS, heads=3, feed_forward=64)),
    "raw-gru": replace(BASE, model=ModelConfig(StridedConvConfig(bins=8), GRU)),
    "two-heads": _with(TDS, attention=AttentionConfig(1, 32, 4, 32)),
}


def golden(folder: Path) -> dict[str, dict[str, Any]]:
    """Train every run in `folder`; returns the losses of each run and the output of its model."""
    paths = [folder / f"{number}.hdf5" for number in range(3)]
    for number, path in enumerate(paths):
        simulate_session(path, user=3, session=number, minutes=0.5 if number else 3, seed=0)
    first, val, test = open_sessions(paths, folder / "cache")
    words = train_language_model(TEXT, order=4, across=True)
    found = {}
    for name, recipe in RUNS.items():
        run = train(recipe, [first], [val], out=folder / name, console=Console(quiet=True))
        emissions = run.model.log_probs(test)
        beam = BeamDecoder(BeamConfig(beam_size=20), words)
        without_blank = emissions.copy()
        without_blank[:, 98] -= 3
        found[name] = {
            **{loss: [epoch[loss] for epoch in run.curves] for loss in ("train_loss", "val_loss", "val_cer")},
            "greedy": run.model.transcribe(test).text,
            "beam": run.model.transcribe(test, beam).text,
            "log_probs": hashlib.sha256(np.ascontiguousarray(emissions).tobytes()).hexdigest()[:16],
            "greedy_without_blank": GreedyDecoder().decode(without_blank).text,
        }
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        print(json.dumps(golden(Path(place)), indent=1, ensure_ascii=False))
