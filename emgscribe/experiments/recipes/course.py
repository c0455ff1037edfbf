"""The tables of the course project of Borthakur, Iziumska, Tang and Tran (UCLA ECE C147/C247)."""

from collections.abc import Iterator
from dataclasses import replace

from emgscribe.experiments.recipes.baseline import BASELINE
from emgscribe.experiments.recipes.experiment import (
    FIVE_PEOPLE,
    Experiment,
    Experiments,
    Simulated,
    Suite,
    by_name,
    seeded,
    variant,
)
from emgscribe.models import encoders
from emgscribe.models.augment import Augmentation, MagnitudeWarp, SpecAugment


def _table1() -> Iterator[Experiment]:
    """The rows of Table 1: the baseline at 30 epochs with one change before the encoder."""
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
    kernels = {"576-kernel-32": (32, False), "576-kernel-16": (16, False), "576-768-kernel-16": (16, True)}
    for name, (kernel, back) in kernels.items():
        encoder = encoders.TdsConfig(reduction=576, reduction_kernel=kernel, reduction_back=back)
        yield replace(row, name=f"table1/reduction-{name}", model=replace(row.model, encoder=encoder))


TABLE1 = by_name(_table1())


def _table2() -> Iterator[Experiment]:
    """The rows of Table 2, with both readings where the paper's text and caption disagree.

    Rows 3 to 5 each add to the one before. Context is the published 900 and 100 ms wherever that suffices.
    """
    tds = encoders.TdsConfig(mlp_features=480)
    dropout = replace(tds, dropout=0.3)
    bilstm = encoders.RecurrentConfig(base=dropout, cell="lstm", hidden=128, left=0, right=0)
    cnn = encoders.ResidualCnnConfig(mlp_features=480, projection=128)
    # The CNN takes 8 frames on each side of the published 112 and 12.
    gru = encoders.RecurrentConfig(base=cnn, output=512, left=104, right=4)
    rows: dict[str, tuple[int, encoders.EncoderConfig]] = {
        "baseline": (400, encoders.TdsConfig()),
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
        "transformer": (50, encoders.TransformerConfig(base=encoders.MlpConfig(), left=112, right=12)),
        **{f"cnn-transformer-{layers}": (50, encoders.TransformerConfig(layers=layers)) for layers in (1, 2, 4)},
    }
    for name, (epochs, encoder) in rows.items():
        yield variant(BASELINE, "table2", name, encoder, epochs=epochs)
    yield replace(TABLE1["table1/specaugment-4-3"], name="table2/specaugment-4-3")


TABLE2 = by_name(_table2())
# Rows that only the paper's text has, or other readings of a row.
_NO_PANEL = ("excitation-global", "excitation-finite", "cnn-gru-24-filters", "cnn-transformer-2")
# The rows of Table 2 that conclusions rest on.
_THREE_SEEDS = ("baseline", "dropout", "bilstm", "excitation", "cnn-gru")
_ABOUT = {
    "table1": "Table 1 of Borthakur et al.: augmentation and reduction before the encoder",
    "table2": "Table 2 of Borthakur et al.: encoders",
    "figure1": "the twelve rows of table2 whose losses are Figure 1 of Borthakur et al., one seed each",
}


def course_suites(
    table1: Experiments, table2: Experiments, *, size: str = "", simulated: Simulated = FIVE_PEOPLE
) -> Iterator[Suite]:
    """The suites of the two tables, at full size or at a budget's (`size` "small/" or "medium/")."""
    members = {
        "table1": seeded(table1, "table1/baseline", "table1/specaugment-4-3"),
        "table2": seeded(table2, *(f"table2/{name}" for name in _THREE_SEEDS)),
        "figure1": tuple(row for row in table2.values() if row.name.rpartition("/")[2] not in _NO_PANEL),
    }
    for name, rows in members.items():
        about = _ABOUT[name] + (f", at the {size[:-1]} budget" if size else "")
        yield Suite(size + name, about, rows, "latest" if size else "course", simulated)
