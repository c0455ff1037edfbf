"""Every encoder beside a plain textbook version of the same network: part of `make bench`.

For each: parameters, a training step from EMG to updated weights, one pass over a minute, and the peak memory of a
process that reads a session of 20 minutes as `evaluate` does. Ours and the textbook's compute the same function of the
same weights, and take turns. Our step is timed twice in a turn; the difference between the two is noise. EMG is random.
"""

import argparse
import multiprocessing
import tempfile
import time
from dataclasses import fields
from pathlib import Path

import torch
from bench import KEYS_PER_SECOND, in_turns, peak_memory, stepper, write_random_session
from textbook import BANDS, CHANNELS, SAMPLE_RATE
from textbook_networks import network_like
from torch import Tensor
from torch.nn import functional as F

from emgscribe.data.charset import BLANK, NUM_CLASSES
from emgscribe.data.session import open_sessions
from emgscribe.data.windows import Batch
from emgscribe.experiments.recipes import EXPERIMENTS
from emgscribe.models.encoders import EncoderConfig
from emgscribe.models.model import Model, ModelConfig
from emgscribe.training.losses import ctc_loss
from emgscribe.transcription import emission_blocks, inference_plan

CHOSEN = (
    *(f"table2/{row}" for row in ("baseline", "bilstm", "excitation", "cnn-gru", "transformer", "cnn-transformer-1")),
    *(f"records/{name}" for name in ("residual-cnn", "bigru-48", "raw-bigru", "mingru-48", "conformer", "hybrid")),
    *(f"records/{name}" for name in ("split-share", "causal-cnn-gru-96", "causal-cnn-transformer-96")),
)  # every kind of encoder and of features, and anything else that ours computes differently from a textbook


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("experiments", nargs="*", default=CHOSEN, help="experiments whose networks are measured")
    parser.add_argument("--quick", action="store_true", help="tiny sizes; the figures mean nothing")
    given = parser.parse_args()
    batch, window, long, session, turns = (2, 0.5, 0.5, 10, 1) if given.quick else (8, 4, 60, 1200, 2)
    with tempfile.TemporaryDirectory() as folder:
        path = write_random_session(Path(folder) / "random.hdf5", session)
        open_sessions([path], path.parent / "cache")
        for name in given.experiments:
            torch.manual_seed(0)
            model = Model(EXPERIMENTS[name].model)
            print(f"\n{name}: {sum(parameter.numel() for parameter in model.parameters()):,} parameters")
            step(model, batch, window, turns)
            forward(model.eval(), long, turns)
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                print(pool.apply(read_once, (path, model.config)))


def random_batch(model: Model, items: int, seconds: float) -> Batch:
    """Windows of noise with exactly the context that `model` needs, labels as dense as real ones."""
    generator, hop = torch.Generator().manual_seed(0), model.samples_per_frame
    (left, right), samples = model.context, round(seconds * SAMPLE_RATE / hop) * hop
    count = max(1, round(seconds * KEYS_PER_SECOND))
    return Batch(
        emg=torch.randn(items, left + samples + right, BANDS, CHANNELS, generator=generator),
        left=left,
        right=right,
        lengths=torch.full((items,), samples),
        labels=torch.randint(NUM_CLASSES - 1, (items, count), generator=generator),
        label_lengths=torch.full((items,), count),
        onsets=torch.zeros(items, count, dtype=torch.int64),
    )


def step(model: Model, items: int, seconds: float, turns: int) -> None:
    """A training step: features, forward, CTC, backward, Adam."""
    network, batch = network_like(model), random_batch(model, items, seconds)
    frames = model.frames(batch.lengths)

    def ours() -> Tensor:
        return ctc_loss(*model(batch), batch)

    def theirs() -> Tensor:
        emissions = network(batch.emg).transpose(0, 1)
        return F.ctc_loss(emissions, batch.labels, frames, batch.label_lengths, blank=BLANK, zero_infinity=True)

    own = stepper(ours, model, "fp32")
    in_turns("training step", {"ours": own, "textbook": stepper(theirs, network, "fp32"), "ours again": own}, turns)


def forward(model: Model, seconds: float, turns: int) -> None:
    """One pass in evaluation mode, EMG to emissions."""
    network, batch = network_like(model), random_batch(model, 1, seconds)
    with torch.inference_mode():
        versions = {"ours": lambda: model(batch), "textbook": lambda: network(batch.emg)}
        (ours, _) = in_turns("forward", versions, turns)
    print(f"real-time factor {ours.median / seconds:.4f}")


def read_once(path: Path, config: ModelConfig) -> str:
    """Read the session at `path` in this process; returns what that took."""
    torch.set_num_threads(1)
    (session,) = open_sessions([path], path.parent / "cache")
    model, begun = Model(config).eval(), time.perf_counter()
    frames = sum(len(emissions) for emissions in emission_blocks(model, session))
    assert frames == model.frames(len(session))
    plan = inference_plan(model, len(session)).name
    return f"{session.minutes:.3g} min read: {peak_memory():.2f} GB, {time.perf_counter() - begun:.3g} s ({plan})"


def kinds(encoder: EncoderConfig) -> set[type[EncoderConfig]]:
    """The kinds of an encoder and of its base encoders."""
    parts = [getattr(encoder, field.name) for field in fields(encoder)]
    return {type(encoder)}.union(*(kinds(part) for part in parts if isinstance(part, EncoderConfig)))


if __name__ == "__main__":
    main()
