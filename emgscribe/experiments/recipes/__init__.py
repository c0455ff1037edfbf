"""The named experiments, one file per source, and the suites of them behind each table or figure."""

from emgscribe.experiments.recipes.ablation import ABLATION_SUITE, ABLATIONS, SMALL
from emgscribe.experiments.recipes.baseline import BASELINE, BASELINE_KEYPRESS, BENCHMARK, BENCHMARK_SUITES, GENERIC
from emgscribe.experiments.recipes.best import BEST, BEST_STEPS, BEST_SUITES
from emgscribe.experiments.recipes.budgets import BUDGET_SUITES, BUDGETS, SMALL_ATTENTION, Budget
from emgscribe.experiments.recipes.course import TABLE1, TABLE2, course_suites
from emgscribe.experiments.recipes.demo import DEMO
from emgscribe.experiments.recipes.experiment import Experiment, Experiments, Simulated, Suite, by_name
from emgscribe.experiments.recipes.live import LIVE, LIVE_SUITE
from emgscribe.experiments.recipes.records import RECORDS, RECORDS_SUITE

__all__ = ["ABLATIONS", "BASELINE", "BASELINE_KEYPRESS", "BENCHMARK", "DEMO", "EXPERIMENTS", "GENERIC", "GROUPS"]
__all__ += ["LIVE", "RECORDS", "SMALL", "SUITES", "TABLE1", "TABLE2", "Budget", "Experiment", "Simulated", "Suite"]

_SUITES = (
    *course_suites(TABLE1, TABLE2),
    *BUDGET_SUITES,
    RECORDS_SUITE,
    *BEST_SUITES,
    *BENCHMARK_SUITES,
    ABLATION_SUITE,
    LIVE_SUITE,
)
SUITES: dict[str, Suite] = {suite.name: suite for suite in _SUITES}
"""Every suite, in the order of the report."""

GROUPS: dict[str, Experiments] = {
    "demo: simulated typing on two cores, a few minutes": by_name((DEMO,)),
    "baseline: Sivakumar et al. 2024, and the same with the key-press loss": by_name((BASELINE, BASELINE_KEYPRESS)),
    "table1: Borthakur et al., augmentation and reduction before the encoder": TABLE1,
    "table2: Borthakur et al., encoders": TABLE2,
    "records: the best public recipes, future work of Borthakur et al., causal encoders": RECORDS,
    "best: our recipe for one user, an average of five, and a causal version": BEST,
    "benchmark: Sivakumar et al. 2024, one model of many people, then eight new users": BENCHMARK,
    "small: the tables at a size for two cores": by_name((SMALL_ATTENTION,)) | BUDGETS["small"] | BEST_STEPS["small"],
    "medium: the same networks, and as many minutes as a published user has": BUDGETS["medium"] | BEST_STEPS["medium"],
    "live: small and causal, for many simulated people, with four lookaheads": by_name((LIVE,)),
    "ablation: a small network with less of everything": ABLATIONS,
}
"""Every named experiment, in groups for listings: a group's name and description, then its experiments."""

EXPERIMENTS: Experiments = {name: one for group in GROUPS.values() for name, one in group.items()}
"""Every named experiment."""
