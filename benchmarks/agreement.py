"""Do simulated sessions lead to the conclusions that recordings led to? A line a trend, and the agreement error.

    python benchmarks/agreement.py [RESULTS]

RESULTS are result files, by default those of docs/results. The exit status is 1 if the error, the mean of
|ln(simulated / published)|, is above 0.15, or a trend is off by more than a factor of 1.5.
"""

import sys
from pathlib import Path

from emgscribe.experiments.agreement import agreement, summary, trends
from emgscribe.experiments.results import SIMULATED, read_results
from emgscribe.experiments.tables import published_numbers, tables

LARGEST_ERROR, LARGEST_FACTOR = 0.15, 1.5


def main(results: str = str(Path(__file__).parents[1] / "docs" / "results")) -> int:
    rows = [row for table in tables(read_results(results)) if table.kind == SIMULATED for row in table.rows]
    found, lacking = trends(published_numbers()["trends"], rows)
    for trend in sorted(found, key=lambda trend: -abs(trend.distance)):
        print(f"{trend.distance:+.2f}  {trend.what}")
    for what in lacking:
        print(f"   no  {what}")
    if not found:
        return 1
    print(summary(found))
    error, factor, _ = agreement(found)
    return int(error > LARGEST_ERROR or factor > LARGEST_FACTOR)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
