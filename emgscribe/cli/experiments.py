"""Verbs about experiments: run one, run those behind a table, report."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.progress import track
from tyro.conf import UseAppendAction, arg

from emgscribe.cli.models import decoder_names
from emgscribe.cli.sessions import DEFAULT_SIMULATION, make_sessions
from emgscribe.cli.terminal import known, log, parsed, screen

if TYPE_CHECKING:
    from emgscribe.evaluation import Evaluation
    from emgscribe.experiments.recipes import Experiment
    from emgscribe.experiments.plan import Planned
    from emgscribe.experiments.recipes import Simulated


def train(arguments: list[str]) -> int:
    """Train a named experiment on a folder of sessions, and test it."""
    from emgscribe.experiments.recipes import Experiment
    from emgscribe.experiments.recipes import EXPERIMENTS

    if not arguments or arguments[0].startswith("-"):
        screen.print(
            "usage: emgscribe train EXPERIMENT --data DIR [OPTIONS]   (EXPERIMENT --help lists all settings)\n"
        )
        screen.print("experiments: " + ", ".join(EXPERIMENTS))
        return 0 if arguments[:1] in (["-h"], ["--help"]) else 2
    chosen = EXPERIMENTS[known(arguments[0], EXPERIMENTS, "experiment")]

    def train(
        data: Path,
        runs: Path = Path("runs"),
        results: Path = Path("results"),
        decoder: str = "greedy",
        lm: Path | None = None,
        experiment: Annotated[Experiment, arg(name="")] = chosen,
    ) -> int:
        """Train an experiment, evaluate it on the test sessions and write its result.

        The protocol of the experiment's data says which sessions train, validate and test; simulated ones are split by
        date. A run that was cut off goes on where it stopped.

        Args:
            data: A folder of session files.
            runs: Where the model, the checkpoint and the curves go.
            results: Where the result file goes.
            decoder: greedy, or greedy,beam: the beam is tuned on the sessions that validate, and scored too.
            lm: An ARPA file for the beam instead of the default language model.
            experiment: The settings, each of which can be overridden.
        """
        from emgscribe.experiments.report import print_evaluation
        from emgscribe.experiments.rescore import add_scores

        names = decoder_names(decoder)
        result, model = _run(experiment, data, runs, results)
        print_evaluation(result, screen)
        added = add_scores(experiment, names, data, runs=runs, results=results, language_model=lm, console=log)
        for name, score in added.items():
            print_evaluation(score, screen, name)
        screen.print(f"model: {model}")
        return 0

    return parsed(train, arguments[1:], f"train {arguments[0]}")


def _run(experiment: "Experiment", data: Path, runs: Path, results: Path) -> tuple["Evaluation", Path]:
    from emgscribe.experiments.run import run_experiment

    model, result = run_experiment(experiment, data, runs=runs, results=results, console=log)
    return result, model


def reproduce(arguments: list[str]) -> int:
    """Run every experiment behind a table that has no result yet, and print the table."""
    from emgscribe.experiments.launch import Workers, run_suite
    from emgscribe.experiments.plan import plan
    from emgscribe.experiments.report import print_tables, tables
    from emgscribe.experiments.rescore import add_suite_scores
    from emgscribe.experiments.results import read_result
    from emgscribe.experiments.run import result_path
    from emgscribe.experiments.recipes import SUITES, Budget, simulated_for

    if not arguments or arguments[0].startswith("-"):
        screen.print("usage: emgscribe reproduce SUITE --data DIR [OPTIONS]\n")
        listed = ", ".join(f"{name} ({len(suite)} runs)" for name, suite in SUITES.items())
        screen.print(f"suites: {listed}", soft_wrap=True)
        return 0 if arguments[:1] in (["-h"], ["--help"]) else 2
    named = known(arguments[0], SUITES, "suite")

    def reproduce(
        *,
        data: Path,
        budget: Budget = "full",
        runs: Path = Path("runs"),
        results: Path = Path("results"),
        workers: Annotated[Workers, arg(name="")] = Workers(),  # noqa: B008 (frozen)
        decoder: str = "greedy",
        lm: Path | None = None,
        dry_run: bool = False,
    ) -> int:
        """Run every experiment of a suite that has no result yet, and print the suite's table.

        Interrupted, it goes on where it stopped when asked again; a run that fails does not stop the others.

        Args:
            data: A folder of session files, or the word simulated: then a typist is simulated first.
            budget: Medium and small run a table's rows as small networks, on many or on few simulated sessions.
            runs: Where models, checkpoints, logs and simulated sessions go.
            results: Where the result files go.
            workers: Who runs.
            decoder: greedy, or greedy,beam: results get the beam's score too, from the models that were kept.
            lm: An ARPA file for the beam instead of the default language model.
            dry_run: Only list what is done, cut off or missing, and about how long that takes here; nothing is kept.
        """
        names = decoder_names(decoder)
        name = named if budget == "full" else known(f"{budget}/{named}", SUITES, "suite")
        suite, made = SUITES[name], simulated_for(name)
        if simulated := data == Path("simulated"):
            data = runs / made.folder
        unmade = simulated and not (data / "metadata.csv").exists()
        if dry_run:
            return _print_plan(plan(suite, made if unmade else data, runs=runs, results=results), workers.jobs)
        if unmade:
            _simulate(made, data)
        failed = run_suite(suite, data, runs=runs, results=results, workers=workers, console=log)
        failed += add_suite_scores(suite, names, data, runs=runs, results=results, language_model=lm, console=log)
        paths = [result_path(experiment, results) for experiment in suite]
        found = (run for path in paths if path.exists() for run in read_result(path))
        print_tables(tables(found, name), screen)
        return 1 if failed else 0

    return parsed(reproduce, arguments[1:], f"reproduce {arguments[0]}")


def _simulate(made: "Simulated", data: Path) -> None:
    make_sessions(
        data,
        users=made.users,
        sessions=made.sessions,
        minutes=made.minutes,
        seed=0,
        simulation=replace(DEFAULT_SIMULATION, difficulty=made.difficulty),
    )


def tune(arguments: list[str]) -> int:
    """Search an experiment's settings for the lowest validation CER."""
    from emgscribe.experiments.launch import Workers
    from emgscribe.experiments.recipes import Experiment
    from emgscribe.experiments.search import search as search_settings
    from emgscribe.experiments.recipes import EXPERIMENTS

    if not arguments or arguments[0].startswith("-"):
        screen.print("usage: emgscribe tune EXPERIMENT --data DIR --search PATH=LOW..HIGH [OPTIONS]")
        return 0 if arguments[:1] in (["-h"], ["--help"]) else 2
    chosen = EXPERIMENTS[known(arguments[0], EXPERIMENTS, "experiment")]

    def tune(
        data: Path,
        search: UseAppendAction[tuple[str, ...]],
        trials: int = 20,
        runs: Path = Path("runs"),
        workers: Annotated[Workers, arg(name="")] = Workers(),  # noqa: B008 (frozen)
        experiment: Annotated[Experiment, arg(name="")] = chosen,
    ) -> int:
        """Search settings of an experiment for the lowest validation CER; the sessions that test are not scored.

        Interrupted, it goes on where it stopped when asked again, and asked for more trials it adds them.

        Args:
            data: A folder of session files.
            search: What is searched, once for each setting: train.lr=1e-4..3e-3:log, model.encoder.dropout=0..0.5 or
                train.optimizer=adam,adamw.
            trials: How many trials the study is to have.
            runs: Where the study goes, and the trials' models and checkpoints.
            workers: Who runs.
            experiment: The settings that are not searched, each of which can be overridden.
        """
        page = search_settings(
            experiment, data, search, base=chosen, trials=trials, runs=runs, workers=workers, console=log
        )
        screen.print(f"report: {page}", soft_wrap=True)
        return 0

    return parsed(tune, arguments[1:], f"tune {arguments[0]}")


def _print_plan(planned: Iterable["Planned"], jobs: int) -> int:
    found: list[Planned] = []
    for run in track(planned, "measuring", console=log, transient=True):
        found.append(run)
        left = "" if run.state == "done" else f"  about {_duration(run.seconds)}"
        screen.print(f"{run.state:<8}  {run.name}{left}", soft_wrap=True)
    counted = Counter(run.state for run in found)
    told = ", ".join(f"{counted[state]} {state}" for state in ("done", "cut off", "missing"))
    total = _duration(sum(run.seconds for run in found) / jobs)
    screen.print(f"{told}: about {total} of training, {jobs} at a time", soft_wrap=True)
    return 0


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes else f"{seconds:.0f} s"


def report(arguments: list[str]) -> int:
    """Render result files to tables beside published numbers and to figures."""

    def report(
        *,
        results: Path = Path("results"),
        out: Path = Path("report"),
        compare: tuple[str, str] | None = None,
        decoder: str = "",
    ) -> int:
        """Render result files: report.md, a CSV for each kind of data, figures of losses and of errors.

        Results on simulated sessions have tables of their own, without published numbers.

        Args:
            results: A folder of result files.
            out: Where the report goes.
            compare: Two experiments to compare on the stretches that both were tested on, with an interval; a decoder
                may be named after a colon, as in demo:greedy demo:beam.
            decoder: Only rows of these decoders, such as greedy or greedy,beam; without it all.
        """
        from emgscribe.experiments.report import write_report

        wanted = [name.strip() for name in decoder.split(",")] if decoder else None
        page, *others = write_report(results, out, compare, wanted)
        screen.print(f"report: {page} and {len(others)} files beside it", soft_wrap=True)
        return 0

    return parsed(report, arguments, "report")


def demo(arguments: list[str]) -> int:
    """Simulate a typist, train on most of it and read an unseen session: a few minutes on two cores."""

    def demo(out: Path = Path("demo"), seed: int = 0) -> int:
        """Simulate a typist, train on most sessions and read one that was held back.

        Args:
            out: Where sessions, model and result go.
            seed: Another seed is another typist and another training run.
        """
        from emgscribe.experiments.recipes import DEMO
        from emgscribe.experiments.report import print_alignment, print_evaluation

        data = out / f"sessions-{seed}"
        if not (data / "metadata.csv").exists():  # written last, so its presence says that the sessions are whole
            make_sessions(data, users=1, sessions=10, minutes=4.0, seed=seed, simulation=DEFAULT_SIMULATION)
        experiment = replace(DEMO, train=replace(DEMO.train, seed=seed))
        result, model = _run(experiment, data, out / "runs", out / "results")
        print_alignment(result, screen)
        print_evaluation(result, screen)
        screen.print(f"model: {model}")
        return 0

    return parsed(demo, arguments, "demo")
