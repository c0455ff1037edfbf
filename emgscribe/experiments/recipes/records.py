"""The best public recipes for one user, what Borthakur et al. name as future work, and causal encoders."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from emgscribe.experiments.recipes.baseline import BASELINE
from emgscribe.experiments.recipes.experiment import Experiment, Suite, by_name, variant
from emgscribe.models import encoders
from emgscribe.models.attention import AttentionConfig
from emgscribe.models.augment import Augmentation, SpecAugment
from emgscribe.models.features import SpectrogramConfig, StridedConvConfig

_record = partial(variant, BASELINE, "records")


def _records() -> Iterator[Experiment]:
    """Where a recipe starts from raw EMG or does not give a size, ours is the nearest on our features.

    Repositories are emg2qwerty course projects and report the recipe's CER; none of their code is used.
    """
    slow = replace(BASELINE.model, features=SpectrogramConfig(hop=48))
    half = replace(BASELINE.model, features=SpectrogramConfig(decimation=2))
    unmasked, longer = Augmentation(spec=SpecAugment(0, 0, 0, 0)), replace(BASELINE.windows, length=16000, stride=16000)
    wide = encoders.RecurrentConfig(base=encoders.MlpConfig(), hidden=384, dropout=0.5, output=768)
    # mingwen1022/emg2qwerty_247a: hop 48, dropout in place of SpecAugment; the output layer follows from its 6.4 M.
    yield _record("bigru-48", wide, model=slow, augment=unmasked, windows=longer, clip_norm=1.0)
    # The same project's front end on the raw EMG, with strides 3, 4 and 4.
    raw = replace(BASELINE.model, features=StridedConvConfig())
    bare = replace(wide, output=0)
    yield _record("raw-bigru", bare, model=raw, augment=unmasked, epochs=120, clip_norm=1.0)
    # psingams/emg2qwerty_Final_Project: two convolutions, hop 48, light SpecAugment.
    cnn = encoders.ResidualCnnConfig(widths=(256, 256), kernel=5, lookahead=2, dropout=0.2)
    bilstm = encoders.RecurrentConfig(base=cnn, cell="lstm", hidden=320, dropout=0.2, left=32, right=0)
    light = Augmentation(spec=SpecAugment(1, 15, 2, 2))
    yield _record("cnn-bilstm-48", bilstm, model=slow, augment=light)
    # cweihan01/emg2qwerty: every second sample (ours filters first), spectra twice as long.
    cnn = encoders.ResidualCnnConfig(widths=(512, 256, 256), dropout=0.1)
    bigru = encoders.RecurrentConfig(base=cnn, dropout=0.1, left=44, right=0)
    yield _record("cnn-bigru-1khz", bigru, model=half)
    # gigichen880/W26-ECE147-emg2qwerty: three strides of 2, so 64 ms per frame; the kernel is not given.
    widths, strides = (512, 1024, 1024), (2, 2, 2)
    cnn = encoders.ResidualCnnConfig(projection=512, widths=widths, kernel=5, strides=strides, lookahead=1, dropout=0.2)
    strided = encoders.RecurrentConfig(base=cnn, cell="lstm", dropout=0.2, left=12, right=1)
    yield _record("strided-cnn-bilstm", strided)
    # DysonLewis/ECE_C147A_Final: long kernels.
    cnn = encoders.ResidualCnnConfig(widths=(96,) * 4, kernel=31, lookahead=3, dropout=0.1)
    bilstm = encoders.RecurrentConfig(base=cnn, cell="lstm", hidden=232, dropout=0.1, left=4, right=0)
    yield _record("cnn-bilstm-31", bilstm, clip_norm=1.0)
    # Borthakur et al., section 2.2: their residual CNN without a recurrence.
    cnn = encoders.ResidualCnnConfig(widths=(256,) * 8)
    yield _record("residual-cnn", cnn)
    # Borthakur et al., future work: CNN, transformer and LSTM.
    tds = encoders.TdsConfig(dropout=0.1)
    hybrid = encoders.RecurrentConfig(
        base=encoders.TransformerConfig(base=tds, width=384, heads=4), cell="lstm", left=0, right=0
    )
    yield _record("hybrid", hybrid)
    # Borthakur et al., future work: a transformer decoder. Trained with CTC as by Kim et al. 2017 (arXiv 1609.06773).
    two_heads = replace(BASELINE.model, attention=AttentionConfig(layers=2))
    yield replace(BASELINE, name="records/attention", model=two_heads)
    # Gulati et al. 2020 (arXiv 2005.08100); 06huange's course project has the best public attention on this task.
    yield _record("conformer", encoders.ConformerConfig(), model=slow)
    # Feng et al. 2024 (arXiv 2410.01201).
    gated = encoders.LinearRecurrenceConfig(base=encoders.ResidualCnnConfig(kernel=5, lookahead=2), left=32, right=0)
    yield _record("mingru-48", gated, model=slow)
    # SplashNet, Hadidi et al. 2025 (arXiv 2506.12356): six bands, rolling norm, wide frequency masks, 16 s windows.
    six = replace(BASELINE.model, features=SpectrogramConfig(edges=(1, 2, 4, 8, 12, 22, 33)))
    hands = encoders.SplitShareConfig(base=encoders.TdsConfig(mlp_features=528, rolling=125))
    masks = Augmentation(spec=SpecAugment(0, 0, 2, 3))
    windows = replace(BASELINE.windows, length=32000, stride=32000)
    yield _record("split-share", hands, model=six, augment=masks, windows=windows)
    yield from _causal()


def _causal() -> Iterator[Experiment]:
    """Encoders for live use: no lookahead beyond the spectra's 12 ms, or 96 ms more."""
    yield _record("causal-tds", encoders.TdsConfig(lookahead=0))
    cnn = encoders.ResidualCnnConfig(mlp_features=480, projection=128)
    gru = encoders.RecurrentConfig(base=cnn, bidirectional=False, output=512, left=104, right=4)
    yield _record("causal-cnn-gru-96", gru)
    now = replace(gru, base=replace(cnn, lookahead=0), left=96, right=0)
    yield _record("causal-cnn-gru", now)
    # A band of a second in each of two layers: a finite receptive field, so a session is read in blocks.
    banded = encoders.TransformerConfig(base=encoders.TdsConfig(lookahead=0), layers=2, past=125, future=0)
    yield _record("causal-cnn-transformer", banded)
    ahead = replace(banded, base=encoders.TdsConfig(lookahead=12))
    yield _record("causal-cnn-transformer-96", ahead)


RECORDS = by_name(_records())
_ABOUT = "the best public recipes for one user, future work of Borthakur et al., and causal encoders"
RECORDS_SUITE = Suite("records", _ABOUT, tuple(RECORDS.values()), protocol="course")
