"""The named experiments at their own size. An experiment is a value; a variant is `replace(base, ...)`."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, get_args

from emgscribe.data.splits import DataConfig, Protocol
from emgscribe.data.windows import WindowConfig
from emgscribe.models.attention import AttentionConfig
from emgscribe.models.augment import AlignmentJitter, Augmentation, BandRotation, MagnitudeWarp, SpecAugment
from emgscribe.models.encoders import (
    ConformerConfig,
    EncoderConfig,
    LinearRecurrenceConfig,
    MlpConfig,
    RecurrentConfig,
    ResidualCnnConfig,
    SplitShareConfig,
    TdsConfig,
    TransformerConfig,
)
from emgscribe.models.features import SpectrogramConfig, StridedConvConfig
from emgscribe.models.model import ModelConfig
from emgscribe.training import Recipe
from emgscribe.training.config import TrainConfig


@dataclass(frozen=True)
class Experiment(Recipe):
    """A recipe with a name and its part of the data; the result goes to `results/<name>-<seed>.json`.

    `start` names the experiment whose model of the same seed training begins with (none: random weights).
    """

    name: str = "baseline"
    data: DataConfig = field(default_factory=DataConfig)
    start: str = ""


BASELINE = Experiment(data=DataConfig(protocol="course"))
"""The published baseline: Sivakumar et al. 2024 (arXiv 2410.20081), on the seed paper's user."""

BASELINE_KEYPRESS = replace(
    BASELINE, name="baseline-keypress", train=replace(BASELINE.train, keypress_weight=1.0, keypress_fraction=0.3)
)
"""The baseline with the key-press loss, which carries it past CTC's all-blank plateau."""

DEMO = Experiment(
    name="demo",
    model=ModelConfig(
        features=SpectrogramConfig(n_fft=64, hop=32),
        encoder=TdsConfig(mlp_features=96, blocks=3, channels=24, kernel=16, lookahead=6),
    ),
    windows=WindowConfig(length=8000, stride=8000, left=0, right=0),
    augment=Augmentation(jitter=AlignmentJitter(40), spec=SpecAugment(2, 8, 1, 4)),
    train=TrainConfig(
        epochs=20, batch_size=8, lr=2e-3, lr_start=1e-5, lr_end=1e-5, warmup_epochs=1, clip_norm=1.0,
        keypress_weight=1.0, keypress_fraction=0.5, seed=0,
    ),
)  # fmt: skip
"""The baseline's pipeline at a size that two cores train in a few minutes on half an hour of simulated typing."""


SMALL = Experiment(
    name="ablation/full",
    model=ModelConfig(
        features=SpectrogramConfig(n_fft=64, hop=48),
        encoder=TdsConfig(mlp_features=96, blocks=3, channels=24, kernel=11, lookahead=4),
    ),
    windows=DEMO.windows,
    augment=Augmentation(spec=SpecAugment(2, 6, 1, 4)),
    train=replace(DEMO.train, epochs=15),
    data=DataConfig(train_users=(0,), test_users=(0,)),
)
"""What the ablations are measured with: the demo's kind of network at 42 frames/s, on the first user of the data."""


def _ablations() -> Iterator[Experiment]:
    """`SMALL` with one thing taken away; nothing else changes, and the number of training steps stays near its own."""
    model, augment, data, train = SMALL.model, SMALL.augment, SMALL.data, SMALL.train
    yield SMALL

    def changed(name: str, **fields: Any) -> Experiment:
        return replace(SMALL, name=f"ablation/{name}", **fields)

    def seen(name: str, **fields: Any) -> Experiment:
        return changed(name, model=replace(model, features=replace(model.features, **fields)))

    for step in (2, 4, 8):
        yield seen(f"electrodes-{16 // step}", electrodes=tuple(range(0, 16, step)))
    for factor in (2, 4, 8):  # the frame rate and the length of a frame in time stay as they are
        yield seen(f"rate-{2000 // factor}", decimation=factor, n_fft=64 // factor, hop=48 // factor)
    for band, hand in enumerate(("left", "right")):
        yield seen(f"{hand}-hand", bands=(band,))
    for hop, kernel, lookahead, frames in ((16, 31, 12, 18), (32, 16, 6, 9), (64, 8, 3, 5)):  # in time all the same
        finer = ModelConfig(
            SpectrogramConfig(n_fft=64, hop=hop),
            TdsConfig(mlp_features=96, blocks=3, channels=24, kernel=kernel, lookahead=lookahead),
        )
        masks = replace(augment, spec=replace(augment.spec, time_frames=frames))
        yield changed(f"hop-{hop}", model=finer, augment=masks)
    yield changed("raw-emg", model=replace(model, features=StridedConvConfig()))
    for sessions, epochs in ((6, 30), (3, 60)):
        again = replace(train, epochs=epochs, validate_every=epochs // 15)
        few = changed(f"sessions-{sessions}", data=replace(data, sessions=sessions), train=again)
        yield few
    still = replace(augment, rotation=BandRotation((0,)))
    yield replace(few, name=f"{few.name}-no-rotation", augment=still)
    without = {
        "rotation": still,
        "jitter": replace(augment, jitter=AlignmentJitter(0)),
        "specaugment": replace(augment, spec=SpecAugment(0, 0, 0, 0)),
    }
    for name, remaining in without.items():
        yield changed(f"no-{name}", augment=remaining)
    others = replace(data, train_users=(1, 2, 3, 4))
    yield changed("unseen-user", data=others, train=replace(train, epochs=8))
    for minutes, epochs, every in ((5, 60, 10), (20, 15, 5)):
        yield changed(
            f"adapted-{minutes}-minutes",
            start="ablation/unseen-user",
            data=replace(data, minutes=minutes),
            train=replace(train, epochs=epochs, validate_every=every, lr=5e-4, keypress_weight=0.0),
        )


ABLATIONS: dict[str, Experiment] = {experiment.name: experiment for experiment in _ablations()}
"""What a small network reads from less: fewer electrodes of each band, a lower sampling rate in Hz, one hand, another
frame rate, fewer training sessions, less augmentation; from a person whom it was never trained on, before and after
adapting to so many minutes of theirs. For a folder of five users with 14 sessions or more of four minutes each."""


def _table1() -> Iterator[Experiment]:
    """The rows of the seed paper's Table 1: the baseline at 30 epochs with one change before the encoder."""
    row = replace(BASELINE, name="table1/baseline", train=replace(BASELINE.train, epochs=30))
    yield row
    more, warp = SpecAugment(time_masks=4, frequency_masks=3), MagnitudeWarp(knots=4, sigma=0.2)
    changes = {
        "specaugment-4-3": Augmentation(spec=more),
        "specaugment-2-1": Augmentation(spec=SpecAugment(time_masks=2, frequency_masks=1)),
        "warp-4-0.2": Augmentation(warp=warp),
        "warp-3-0.1": Augmentation(warp=MagnitudeWarp(knots=3, sigma=0.1)),
        "specaugment-4-3-warp-4-0.2": Augmentation(spec=more, warp=warp),
    }
    for name, augment in changes.items():
        yield replace(row, name=f"table1/{name}", augment=augment)
    for name, kernel, back in (
        ("576-kernel-32", 32, False),
        ("576-kernel-16", 16, False),
        ("576-768-kernel-16", 16, True),
    ):
        encoder = TdsConfig(reduction=576, reduction_kernel=kernel, reduction_back=back)
        yield replace(row, name=f"table1/reduction-{name}", model=replace(row.model, encoder=encoder))


TABLE1: dict[str, Experiment] = {experiment.name: experiment for experiment in _table1()}


def _variant(base: Experiment, name: str, encoder: EncoderConfig, **settings: Any) -> Experiment:
    """`base` under another name, with another encoder; `settings` of the experiment, or of its training."""
    of_training = {key: settings.pop(key) for key in list(settings) if hasattr(base.train, key)}
    model = replace(settings.pop("model", base.model), encoder=encoder)
    return replace(base, name=name, model=model, train=replace(base.train, **of_training), **settings)


def _table2() -> Iterator[Experiment]:
    """The rows of the seed paper's Table 2, and its other readings where its text and its caption disagree.

    Rows 3 to 5 each add to the one before. Context is the published 900 and 100 ms wherever an encoder can do with it.
    """
    tds = TdsConfig(mlp_features=480)
    dropout = replace(tds, dropout=0.3)
    bilstm = RecurrentConfig(base=dropout, cell="lstm", hidden=128, left=0, right=0)
    cnn = ResidualCnnConfig(mlp_features=480, projection=128)
    # The CNN takes 8 frames on each side of the published 112 and 12.
    gru = RecurrentConfig(base=cnn, output=512, left=104, right=4)
    rows: dict[str, tuple[int, EncoderConfig]] = {
        "baseline": (400, TdsConfig()),
        "mlp-480": (400, tds),
        "dropout": (400, dropout),
        "bilstm": (400, bilstm),
        "excitation": (400, replace(bilstm, base=replace(dropout, excitation="sliding"))),
        "excitation-global": (400, replace(bilstm, base=replace(dropout, excitation="global"))),
        "excitation-finite": (400, replace(bilstm, base=replace(dropout, excitation="finite", squeeze=125))),
        "cnn-gru": (400, gru),
        "cnn-gru-24-filters": (400, replace(gru, base=replace(cnn, projection=0, widths=(24, 24)))),
        "cnn-gru-no-dropout": (150, replace(gru, base=replace(cnn, dropout=0.0), dropout=0.0)),
        "cnn-gru-600": (400, replace(gru, base=replace(cnn, mlp_features=600))),
        "transformer": (50, TransformerConfig(base=MlpConfig(), left=112, right=12)),
        **{f"cnn-transformer-{layers}": (50, TransformerConfig(layers=layers)) for layers in (1, 2, 4)},
    }
    for name, (epochs, encoder) in rows.items():
        yield _variant(BASELINE, f"table2/{name}", encoder, epochs=epochs)
    yield replace(TABLE1["table1/specaugment-4-3"], name="table2/specaugment-4-3")


TABLE2: dict[str, Experiment] = {experiment.name: experiment for experiment in _table2()}


def _records() -> Iterator[Experiment]:
    """The best public recipes for one user, what the seed paper's future work names, and causal encoders.

    Where a recipe begins from raw EMG or leaves a size unsaid, ours is the nearest on our features. Repositories are
    emg2qwerty course projects and hold the recipe's CER; nothing of their code is used.
    """
    slow = replace(BASELINE.model, features=SpectrogramConfig(hop=48))
    half = replace(BASELINE.model, features=SpectrogramConfig(decimation=2))
    unmasked, longer = Augmentation(spec=SpecAugment(0, 0, 0, 0)), replace(BASELINE.windows, length=16000, stride=16000)
    wide = RecurrentConfig(base=MlpConfig(), hidden=384, dropout=0.5, output=768)
    # mingwen1022/emg2qwerty_247a: hop 48, dropout in place of SpecAugment; the output layer follows from its 6.4 M.
    yield _variant(BASELINE, "records/bigru-48", wide, model=slow, augment=unmasked, windows=longer, clip_norm=1.0)
    # The same project's front end on the raw EMG, with strides 3, 4 and 4.
    raw = replace(BASELINE.model, features=StridedConvConfig())
    yield _variant(
        BASELINE, "records/raw-bigru", replace(wide, output=0), model=raw, augment=unmasked, epochs=120, clip_norm=1.0
    )
    # psingams/emg2qwerty_Final_Project: two convolutions, hop 48, light SpecAugment.
    cnn = ResidualCnnConfig(widths=(256, 256), kernel=5, lookahead=2, dropout=0.2)
    bilstm = RecurrentConfig(base=cnn, cell="lstm", hidden=320, dropout=0.2, left=32, right=0)
    light = Augmentation(spec=SpecAugment(1, 15, 2, 2))
    yield _variant(BASELINE, "records/cnn-bilstm-48", bilstm, model=slow, augment=light)
    # cweihan01/emg2qwerty: every second sample (ours filters first), spectra twice as long.
    cnn = ResidualCnnConfig(widths=(512, 256, 256), dropout=0.1)
    yield _variant(
        BASELINE, "records/cnn-bigru-1khz", RecurrentConfig(base=cnn, dropout=0.1, left=44, right=0), model=half
    )
    # gigichen880/W26-ECE147-emg2qwerty: three strides of 2, so 64 ms a frame; its kernel is unsaid.
    cnn = ResidualCnnConfig(
        projection=512, widths=(512, 1024, 1024), kernel=5, strides=(2, 2, 2), lookahead=1, dropout=0.2
    )
    strided = RecurrentConfig(base=cnn, cell="lstm", dropout=0.2, left=12, right=1)
    yield _variant(BASELINE, "records/strided-cnn-bilstm", strided)
    # DysonLewis/ECE_C147A_Final: long kernels.
    cnn = ResidualCnnConfig(widths=(96,) * 4, kernel=31, lookahead=3, dropout=0.1)
    bilstm = RecurrentConfig(base=cnn, cell="lstm", hidden=232, dropout=0.1, left=4, right=0)
    yield _variant(BASELINE, "records/cnn-bilstm-31", bilstm, clip_norm=1.0)
    # Seed paper, section 2.2: its residual CNN without a recurrence.
    cnn = ResidualCnnConfig(widths=(256,) * 8)
    yield _variant(BASELINE, "records/residual-cnn", cnn)
    # Seed paper, future work: CNN, transformer and LSTM.
    tds = TdsConfig(dropout=0.1)
    hybrid = RecurrentConfig(base=TransformerConfig(base=tds, width=384, heads=4), cell="lstm", left=0, right=0)
    yield _variant(BASELINE, "records/hybrid", hybrid)
    # Seed paper, future work: a decoder-based transformer. Trained with CTC as by Kim et al. 2017 (arXiv 1609.06773).
    two_heads = replace(BASELINE.model, attention=AttentionConfig(layers=2))
    yield replace(BASELINE, name="records/attention", model=two_heads)
    # Gulati et al. 2020 (arXiv 2005.08100); 06huange's course project has the best public attention on this task.
    yield _variant(BASELINE, "records/conformer", ConformerConfig(), model=slow)
    # Feng et al. 2024 (arXiv 2410.01201).
    gated = LinearRecurrenceConfig(base=ResidualCnnConfig(kernel=5, lookahead=2), left=32, right=0)
    yield _variant(BASELINE, "records/mingru-48", gated, model=slow)
    # SplashNet, Hadidi et al. 2025 (arXiv 2506.12356): six bands, rolling norm, wide frequency masks, 16 s windows.
    six = replace(BASELINE.model, features=SpectrogramConfig(edges=(1, 2, 4, 8, 12, 22, 33)))
    hands = SplitShareConfig(base=TdsConfig(mlp_features=528, rolling=125))
    masks = Augmentation(spec=SpecAugment(0, 0, 2, 3))
    windows = replace(BASELINE.windows, length=32000, stride=32000)
    yield _variant(BASELINE, "records/split-share", hands, model=six, augment=masks, windows=windows)
    yield from _causal()


def _causal() -> Iterator[Experiment]:
    """Encoders for live use: no lookahead beyond the spectra's 12 ms, or 96 ms more."""
    yield _variant(BASELINE, "records/causal-tds", TdsConfig(lookahead=0))
    cnn = ResidualCnnConfig(mlp_features=480, projection=128)
    gru = RecurrentConfig(base=cnn, bidirectional=False, output=512, left=104, right=4)
    yield _variant(BASELINE, "records/causal-cnn-gru-96", gru)
    now = replace(gru, base=replace(cnn, lookahead=0), left=96, right=0)
    yield _variant(BASELINE, "records/causal-cnn-gru", now)
    # A band of a second in each of two layers: a finite receptive field, so a session is read in blocks.
    banded = TransformerConfig(base=TdsConfig(lookahead=0), layers=2, past=125, future=0)
    yield _variant(BASELINE, "records/causal-cnn-transformer", banded)
    ahead = replace(banded, base=TdsConfig(lookahead=12))
    yield _variant(BASELINE, "records/causal-cnn-transformer-96", ahead)


RECORDS: dict[str, Experiment] = {experiment.name: experiment for experiment in _records()}

BENCHMARK_USERS: tuple[Protocol, ...] = tuple(name for name in get_args(Protocol) if name.startswith("user"))
GENERIC = replace(BASELINE, name="benchmark/generic", data=DataConfig(protocol="generic"))
"""The benchmark's model of many people, tested on eight others."""


def _personalized() -> Iterator[Experiment]:
    """For each of the eight users whom `GENERIC` has not seen: a model from scratch, and one that goes on from it."""
    for user in BENCHMARK_USERS:
        alone = replace(BASELINE, name=f"benchmark/{user}/random-init", data=DataConfig(protocol=user))
        yield alone
        yield replace(alone, name=f"benchmark/{user}/finetuned", start=GENERIC.name)


BENCHMARK: dict[str, Experiment] = {experiment.name: experiment for experiment in (GENERIC, *_personalized())}
