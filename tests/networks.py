"""Small networks of every architecture and variant, and what to feed them; several tests share these."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from emgscribe.data.windows import Batch
from emgscribe.models.attention import AttentionConfig
from emgscribe.models.encoders import (
    ConformerConfig,
    Encoder,
    EncoderConfig,
    EnsembleConfig,
    LinearRecurrenceConfig,
    LookaheadsConfig,
    MlpConfig,
    RecurrentConfig,
    ResidualCnnConfig,
    SplitShareConfig,
    TdsConfig,
    TransformerConfig,
)
from emgscribe.models.features import SpectrogramConfig
from emgscribe.models.model import Model
from emgscribe.training.losses import attention_loss, ctc_loss, keypress_loss

BANDS, CHANNELS, BINS = 2, 16, 9
FEATURES = SpectrogramConfig(n_fft=16, hop=16)  # 9 bins
HEAD = AttentionConfig(1, 16, 2, 16)
TDS = TdsConfig(mlp_features=24, blocks=2, channels=4, kernel=4, lookahead=2)
SQUEEZE = replace(TDS, channels=24, squeeze=5)
MLP = MlpConfig(mlp_features=12)
CNN = ResidualCnnConfig(mlp_features=12, projection=16, widths=(16, 12), kernel=5, lookahead=2, dropout=0.1)
GRU = RecurrentConfig(base=MLP, hidden=12, dropout=0.1, left=3, right=2)
LOOKAHEADS = LookaheadsConfig(base=CNN, output=12, known=(0, 1, 3), lookahead=3)
LINEAR = LinearRecurrenceConfig(base=CNN, width=16, hidden=12, layers=2, left=3, right=2)
TRANSFORMER = TransformerConfig(base=TDS, heads=2, feed_forward=32, left=3, right=2)
CONFORMER = ConformerConfig(base=MLP, width=16, layers=2, heads=2, feed_forward=32, kernel=5, left=3, right=2)
SMALL: dict[str, EncoderConfig] = {
    **{kind: config() for kind, config in EncoderConfig.kinds.items()},  # a newly registered one has its defaults
    "tds": TDS,
    "tds, causal": replace(TDS, lookahead=0),
    "tds, dropout": replace(TDS, dropout=0.3),
    "tds, reduced": replace(TDS, reduction=36, reduction_kernel=3),
    "tds, reduced and back": replace(TDS, reduction=30, reduction_kernel=3, reduction_back=True),
    "tds, rolling norm": replace(TDS, rolling=9),
    "tds, sliding squeeze": replace(SQUEEZE, excitation="sliding"),
    "tds, sliding squeeze, causal": replace(SQUEEZE, excitation="sliding", lookahead=0),
    "tds, finite squeeze": replace(SQUEEZE, excitation="finite", squeeze=6),
    "tds, finite squeeze, causal": replace(SQUEEZE, excitation="finite", lookahead=0),
    "tds, global squeeze": replace(SQUEEZE, excitation="global"),
    "mlp": MLP,
    "mlp, rolling norm": replace(MLP, rolling=9),
    "residual-cnn": CNN,
    "residual-cnn, causal": replace(CNN, projection=0, lookahead=0),
    "residual-cnn, strided": replace(CNN, strides=(2, 3)),
    "recurrent": GRU,
    "recurrent, lstm on tds": replace(GRU, base=TDS, cell="lstm", left=0, right=0),
    "recurrent, on a strided cnn": replace(GRU, base=replace(CNN, strides=(2, 3)), output=10),
    "recurrent, causal": replace(GRU, base=replace(CNN, lookahead=0), bidirectional=False, right=0),
    "recurrent, with lookahead": replace(GRU, base=CNN, bidirectional=False, right=3),
    "recurrent, causal lstm": replace(
        GRU, base=replace(CNN, lookahead=0), cell="lstm", bidirectional=False, output=10, right=0
    ),
    "lookaheads": LOOKAHEADS,
    "lookaheads, causal": replace(LOOKAHEADS, base=replace(GRU, bidirectional=False, right=0), known=(0,), lookahead=0),
    "lookaheads, on a strided cnn and a gru": replace(
        LOOKAHEADS, base=replace(GRU, base=replace(CNN, strides=(2, 3)), bidirectional=False, right=0)
    ),
    "ensemble": EnsembleConfig((TDS, replace(TDS, lookahead=0))),
    "ensemble, of a gru and a cnn": EnsembleConfig((GRU, CNN)),
    "ensemble, each with features of its own": EnsembleConfig((MLP, MLP, CNN), shared=False),
    "linear-recurrence": LINEAR,
    "linear-recurrence, with lookahead": replace(LINEAR, bidirectional=False),
    "transformer": TRANSFORMER,
    "transformer, alone": replace(TRANSFORMER, base=MLP, layers=2),
    "transformer, causal": replace(TRANSFORMER, base=replace(TDS, lookahead=0), layers=2, future=0),
    "transformer, with lookahead": replace(TRANSFORMER, layers=2, future=1),
    "transformer, banded": replace(TRANSFORMER, width=12, layers=2, heads=3, past=4, future=1),
    "conformer": CONFORMER,
    "conformer, causal": replace(CONFORMER, future=0),
    "conformer, banded": replace(CONFORMER, past=3, future=2),
    "split-share": SplitShareConfig(base=TDS),
    "split-share, recurrent": SplitShareConfig(base=GRU),
    "hybrid of cnn, transformer and lstm": RecurrentConfig(base=TRANSFORMER, cell="lstm", hidden=8, left=1, right=1),
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed))


def build(config: EncoderConfig) -> Encoder:
    return config.build(BANDS, CHANNELS, BINS)


def scrambled(module: nn.Module) -> nn.Module:
    """`module` in evaluation mode with random weights everywhere, in norms and running statistics too."""
    generator = seeded(7)
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape, generator=generator) + (0.1 if "running_var" in name else -0.5))
    return module.eval()


def batch_for(model: Model, frames: list[int], texts: list[list[int]] | None = None) -> Batch:
    """Windows of noise that last `frames` frames each, with a key-down of a text in the middle of every fourth frame.

    Without `texts`, random keys fill the windows.
    """
    (left, right), hop, generator = model.context, model.samples_per_frame, seeded()
    emg = torch.randn(len(frames), left + max(frames) * hop + right, 2, 16, generator=generator)
    if texts is None:
        drawn = torch.randint(0, 98, (len(frames), max(frames) // 4), generator=generator).tolist()
        texts = [text[: count // 4] for text, count in zip(drawn, frames, strict=True)]
    longest = max(map(len, texts))
    labels = torch.tensor([text + [98] * (longest - len(text)) for text in texts], dtype=torch.int64)
    onsets = ((torch.arange(longest) * 4 + 2) * hop + hop // 2).where(labels != 98, -1)
    lengths, counts = torch.tensor(frames) * hop, torch.tensor([len(text) for text in texts])
    return Batch(emg, left, right, lengths, labels, counts, onsets)


def memorize(model: Model, batch: Batch, read: Callable[[Tensor, Tensor], list[list[int]]]) -> None:
    """Train all heads on one batch until `read`, given the encoder's frames and their counts, returns its texts."""
    features, counts = model.featurize(batch), model.frames(batch.lengths)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(200):
        frames = model.train().encode(features, batch.lengths)
        emissions = model.classify(frames)
        loss = ctc_loss(emissions, counts, batch) + keypress_loss(emissions, counts, batch, model.samples_per_frame)
        if model.attention is not None:
            loss = loss + attention_loss(model.attention(frames, counts, batch.labels), batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 10 == 9:
            with torch.inference_mode():
                if read(model.eval().encode(features, batch.lengths), counts) == batch.references():
                    return
    pytest.fail(f"not memorized in 200 steps, the loss is {loss.item():.3f}")
