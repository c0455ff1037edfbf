"""The best public recipes for one user, what Borthakur et al. name as future work, and causal encoders."""

from collections.abc import Iterator
from dataclasses import replace

from emgscribe.experiments.recipes.baseline import BASELINE
from emgscribe.experiments.recipes.experiment import Experiment, Suite, by_name, variant
from emgscribe.models.attention import AttentionConfig
from emgscribe.models.augment import Augmentation, SpecAugment
from emgscribe.models.encoders import (
    ConformerConfig,
    LinearRecurrenceConfig,
    MlpConfig,
    RecurrentConfig,
    ResidualCnnConfig,
    SplitShareConfig,
    TdsConfig,
    TransformerConfig,
)
from emgscribe.models.features import SpectrogramConfig, StridedConvConfig


def _records() -> Iterator[Experiment]:
    """The best public recipes for one user, the future work of Borthakur et al., and causal encoders.

    Where a recipe starts from raw EMG or does not give a size, ours is the nearest on our features. Repositories are
    emg2qwerty course projects and report the recipe's CER; none of their code is used.
    """
    slow = replace(BASELINE.model, features=SpectrogramConfig(hop=48))
    half = replace(BASELINE.model, features=SpectrogramConfig(decimation=2))
    unmasked, longer = Augmentation(spec=SpecAugment(0, 0, 0, 0)), replace(BASELINE.windows, length=16000, stride=16000)
    wide = RecurrentConfig(base=MlpConfig(), hidden=384, dropout=0.5, output=768)
    # mingwen1022/emg2qwerty_247a: hop 48, dropout in place of SpecAugment; the output layer follows from its 6.4 M.
    yield variant(BASELINE, "records/bigru-48", wide, model=slow, augment=unmasked, windows=longer, clip_norm=1.0)
    # The same project's front end on the raw EMG, with strides 3, 4 and 4.
    raw = replace(BASELINE.model, features=StridedConvConfig())
    yield variant(
        BASELINE, "records/raw-bigru", replace(wide, output=0), model=raw, augment=unmasked, epochs=120, clip_norm=1.0
    )
    # psingams/emg2qwerty_Final_Project: two convolutions, hop 48, light SpecAugment.
    cnn = ResidualCnnConfig(widths=(256, 256), kernel=5, lookahead=2, dropout=0.2)
    bilstm = RecurrentConfig(base=cnn, cell="lstm", hidden=320, dropout=0.2, left=32, right=0)
    light = Augmentation(spec=SpecAugment(1, 15, 2, 2))
    yield variant(BASELINE, "records/cnn-bilstm-48", bilstm, model=slow, augment=light)
    # cweihan01/emg2qwerty: every second sample (ours filters first), spectra twice as long.
    cnn = ResidualCnnConfig(widths=(512, 256, 256), dropout=0.1)
    yield variant(
        BASELINE, "records/cnn-bigru-1khz", RecurrentConfig(base=cnn, dropout=0.1, left=44, right=0), model=half
    )
    # gigichen880/W26-ECE147-emg2qwerty: three strides of 2, so 64 ms per frame; the kernel is not given.
    cnn = ResidualCnnConfig(
        projection=512, widths=(512, 1024, 1024), kernel=5, strides=(2, 2, 2), lookahead=1, dropout=0.2
    )
    strided = RecurrentConfig(base=cnn, cell="lstm", dropout=0.2, left=12, right=1)
    yield variant(BASELINE, "records/strided-cnn-bilstm", strided)
    # DysonLewis/ECE_C147A_Final: long kernels.
    cnn = ResidualCnnConfig(widths=(96,) * 4, kernel=31, lookahead=3, dropout=0.1)
    bilstm = RecurrentConfig(base=cnn, cell="lstm", hidden=232, dropout=0.1, left=4, right=0)
    yield variant(BASELINE, "records/cnn-bilstm-31", bilstm, clip_norm=1.0)
    # Borthakur et al., section 2.2: their residual CNN without a recurrence.
    cnn = ResidualCnnConfig(widths=(256,) * 8)
    yield variant(BASELINE, "records/residual-cnn", cnn)
    # Borthakur et al., future work: CNN, transformer and LSTM.
    tds = TdsConfig(dropout=0.1)
    hybrid = RecurrentConfig(base=TransformerConfig(base=tds, width=384, heads=4), cell="lstm", left=0, right=0)
    yield variant(BASELINE, "records/hybrid", hybrid)
    # Borthakur et al., future work: a transformer decoder. Trained with CTC as by Kim et al. 2017 (arXiv 1609.06773).
    two_heads = replace(BASELINE.model, attention=AttentionConfig(layers=2))
    yield replace(BASELINE, name="records/attention", model=two_heads)
    # Gulati et al. 2020 (arXiv 2005.08100); 06huange's course project has the best public attention on this task.
    yield variant(BASELINE, "records/conformer", ConformerConfig(), model=slow)
    # Feng et al. 2024 (arXiv 2410.01201).
    gated = LinearRecurrenceConfig(base=ResidualCnnConfig(kernel=5, lookahead=2), left=32, right=0)
    yield variant(BASELINE, "records/mingru-48", gated, model=slow)
    # SplashNet, Hadidi et al. 2025 (arXiv 2506.12356): six bands, rolling norm, wide frequency masks, 16 s windows.
    six = replace(BASELINE.model, features=SpectrogramConfig(edges=(1, 2, 4, 8, 12, 22, 33)))
    hands = SplitShareConfig(base=TdsConfig(mlp_features=528, rolling=125))
    masks = Augmentation(spec=SpecAugment(0, 0, 2, 3))
    windows = replace(BASELINE.windows, length=32000, stride=32000)
    yield variant(BASELINE, "records/split-share", hands, model=six, augment=masks, windows=windows)
    yield from _causal()


def _causal() -> Iterator[Experiment]:
    """Encoders for live use: no lookahead beyond the spectra's 12 ms, or 96 ms more."""
    yield variant(BASELINE, "records/causal-tds", TdsConfig(lookahead=0))
    cnn = ResidualCnnConfig(mlp_features=480, projection=128)
    gru = RecurrentConfig(base=cnn, bidirectional=False, output=512, left=104, right=4)
    yield variant(BASELINE, "records/causal-cnn-gru-96", gru)
    now = replace(gru, base=replace(cnn, lookahead=0), left=96, right=0)
    yield variant(BASELINE, "records/causal-cnn-gru", now)
    # A band of a second in each of two layers: a finite receptive field, so a session is read in blocks.
    banded = TransformerConfig(base=TdsConfig(lookahead=0), layers=2, past=125, future=0)
    yield variant(BASELINE, "records/causal-cnn-transformer", banded)
    ahead = replace(banded, base=TdsConfig(lookahead=12))
    yield variant(BASELINE, "records/causal-cnn-transformer-96", ahead)


RECORDS = by_name(_records())
RECORDS_SUITE = Suite(
    name="records",
    about="the best public recipes for one user, future work of Borthakur et al., and causal encoders",
    experiments=tuple(RECORDS.values()),
    protocol="course",
)
