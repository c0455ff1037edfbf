"""The published baseline and benchmark: Sivakumar et al. 2024 (arXiv 2410.20081)."""

from collections.abc import Iterator
from dataclasses import replace
from typing import get_args

from emgscribe.data.splits import DataConfig, Protocol
from emgscribe.experiments.recipes.experiment import Experiment, Suite, by_name

BASELINE = Experiment(data=DataConfig(protocol="course"))
"""The published baseline, on the user of Borthakur et al."""

BASELINE_KEYPRESS = replace(
    BASELINE, name="baseline-keypress", train=replace(BASELINE.train, keypress_weight=1.0, keypress_fraction=0.3)
)
"""The baseline with the key-press loss, which carries it past CTC's all-blank plateau."""

USERS: tuple[Protocol, ...] = tuple(name for name in get_args(Protocol) if name.startswith("user"))
GENERIC = replace(BASELINE, name="benchmark/generic", data=DataConfig(protocol="generic"))
"""The benchmark's model of many people, tested on eight others."""


def _personalized() -> Iterator[Experiment]:
    """For each of the eight users that `GENERIC` has not seen: a model from scratch, and `GENERIC` fine-tuned."""
    for user in USERS:
        alone = replace(BASELINE, name=f"benchmark/{user}/random-init", data=DataConfig(protocol=user))
        yield alone
        yield replace(alone, name=f"benchmark/{user}/finetuned", start=GENERIC.name)


BENCHMARK = by_name((GENERIC, *_personalized()))
_ABOUT = "the published benchmark: generic, from scratch and fine-tuned, mean over its eight users"
BENCHMARK_SUITES = [Suite("benchmark", _ABOUT, tuple(BENCHMARK.values()), "generic", over_users=True)]
for _user in USERS:
    _own = tuple(one for one in BENCHMARK.values() if one.data.protocol in ("generic", _user))
    BENCHMARK_SUITES.append(Suite(f"benchmark/{_user}", f"the benchmark's {_user} alone", _own, _user))
