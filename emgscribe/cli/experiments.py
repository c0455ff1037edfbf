"""Verbs about experiments: run one, run those behind a table, search settings, report."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Annotated

from rich.progress import track
from tyro.conf import Positional, UseAppendAction, arg

from emgscribe.cli.models import decoder_names
from emgscribe.cli.scores import print_alignment, print_evaluation, print_tables
from emgscribe.cli.sessions import make_sessions
from emgscribe.cli.terminal import Folder, known, log, screen
from emgscribe.experiments.launch import Workers, require_package, run_suite
from emgscribe.experiments.recipes import DEMO, EXPERIMENTS, GROUPS, SUITES, Budget, Experiment
from emgscribe.experiments.report import write_report
from emgscribe.experiments.results import RunResult
from emgscribe.experiments.run import Planned, plan, result_path, run_experiment, run_name
from emgscribe.experiments.search import search as search_settings
from emgscribe.experiments.tables import tables
from emgscribe.files import exclusive

Settings = Annotated[Experiment, arg(name="")]
OnWorkers = Annotated[Workers, arg(name="")]


@dataclass(frozen=True)
class Options:
    """Options of every verb that trains and tests."""

    runs: Path = Path("runs")  # folder for models, checkpoints, curves, logs and simulated sessions
    results: Path = Path("results")  # folder for result files
    decoder: str = "greedy"  # greedy, or greedy,beam: the beam search is tuned on the validation sessions
    lm: Path | None = None  # ARPA file for the beam search; by default the built-in language model


def named(name: str) -> Experiment:
    """The experiment of that name; an unknown name is an error with the nearest name and those of its group."""
    return EXPERIMENTS[known(name, EXPERIMENTS, "experiment")]


def list_experiments(verb: str) -> None:
    """Print a line for each experiment, in groups."""
    screen.print(f"usage: emgscribe {verb} EXPERIMENT --data DIR [OPTIONS]\n")
    screen.print(f"emgscribe {verb} EXPERIMENT --help lists all settings. The experiments:")
    for group, members in GROUPS.items():
        screen.print(f"\n{group}")
        for name, experiment in members.items():
            kinds = " -> ".join([experiment.model.features.kind(), *experiment.model.encoder.chain()])
            screen.print(f"  {name:<{max(map(len, members))}}  {kinds}, {experiment.train.epochs} epochs")


def list_suites() -> None:
    """Print a line for each suite."""
    screen.print("usage: emgscribe reproduce SUITE --data DIR [OPTIONS]\n")
    for name, suite in SUITES.items():
        screen.print(f"  {name:<{max(map(len, SUITES))}}  {len(suite.experiments)} runs. {suite.about}")


def train(
    name: str,
    /,
    *,
    data: Folder,
    options: Annotated[Options, arg(name="")],
    experiment: Settings,
) -> None:
    """An interrupted run resumes when the same command is given again.

    If you change a setting, --name gives the run and its result a name of their own.

    Examples:
      emgscribe train demo --data data
      emgscribe train baseline --data emg2qwerty --data.protocol user0
      emgscribe train demo --data data --train.lr 3e-3 --name demo-fast
    """
    runs, results, names = options.runs, options.results, decoder_names(options.decoder)
    done = run_experiment(experiment, data, runs=runs, results=results, decoders=names, lm=options.lm, console=log)
    for reader, evaluation in done.test.items():
        print_evaluation(evaluation, screen, reader)
    screen.print(f"model: {runs / run_name(experiment) / 'best'}")


def reproduce(
    suite: Positional[Annotated[str, arg(metavar="SUITE", help="Name of the suite.")]],
    /,
    *,
    data: Annotated[Path, arg(help="Folder of session files, or the word simulated: then they are simulated first.")],
    budget: Annotated[Budget, arg(help="full: as published; medium, small: small networks, simulated data.")] = "full",
    options: Annotated[Options, arg(name="")],
    workers: OnWorkers,
    dry_run: Annotated[bool, arg(help="Only list which runs are done, cut off or missing, with times.")] = False,
) -> int:
    """After an interruption the same command resumes where it stopped. A run that fails does not stop the others.
    Without a suite, all suites are listed.

    Examples:
      emgscribe reproduce table2 --data emg2qwerty
      emgscribe reproduce table2 --data simulated --budget small --dry-run
      emgscribe reproduce benchmark --data emg2qwerty --on slurm --jobs 8 --gpus 1
    """
    runs, results, names = options.runs, options.results, decoder_names(options.decoder)
    chosen = SUITES[known(suite if budget == "full" else f"{budget}/{suite}", SUITES, "suite")]
    members, made = chosen.experiments, chosen.simulated
    if simulated := data == Path("simulated"):
        data = runs / made.folder
    if dry_run:
        log.print("Each recipe that is missing is timed with a few steps, which takes a while.")
        unmade = simulated and not (data / "metadata.csv").exists()
        planned = plan(members, made if unmade else data, runs=runs, results=results, decoders=names)
        return _print_plan(planned, workers.jobs)
    require_package(workers.on)  # before anything is simulated
    if simulated:
        with exclusive(data, "simulates these sessions", log.print):
            if not (data / "metadata.csv").exists():
                make_sessions(data, users=made.users, sessions=made.sessions, minutes=made.minutes)
    failed = run_suite(
        members, data, runs=runs, results=results, workers=workers, decoders=names, lm=options.lm, console=log
    )
    paths = [result_path(experiment, results) for experiment in members]
    print_tables(tables(map(RunResult.read, filter(Path.exists, paths)), chosen.name), screen)
    return 1 if failed else 0


def _duration(seconds: float) -> timedelta:
    return timedelta(seconds=round(seconds))


def _print_plan(planned: Iterable[Planned], jobs: int) -> int:
    found: list[Planned] = []
    for run in track(planned, "measuring", console=log, transient=True, disable=not log.is_terminal):
        found.append(run)
        left = "" if run.state == "done" else f"  about {_duration(run.seconds)}"
        screen.print(f"{run.state:<8}  {run.name}{left}")
    states = [run.state for run in found]
    summary = ", ".join(f"{states.count(state)} {state}" for state in ("done", "cut off", "missing"))
    whole = _duration(sum(run.seconds for run in found) / jobs)
    screen.print(f"{summary}: about {whole} of training, {jobs} at a time")
    return 0


def tune(
    name: str,
    /,
    *,
    data: Folder,
    search: Annotated[UseAppendAction[tuple[str, ...]], arg(help="A setting to search, with its range or values.")],
    trials: Annotated[int, arg(help="Total number of trials.")] = 20,
    runs: Annotated[Path, arg(help="Folder for the study, and for the models of its trials.")] = Path("runs"),
    workers: OnWorkers,
    experiment: Settings,
) -> None:
    """The test sessions are not scored. After an interruption the same command resumes where it stopped; with more
    --trials it adds to those done.

    Examples:
      emgscribe tune demo --data data --search train.lr=1e-4..1e-2:log --trials 10
      emgscribe tune demo --data data --search model.encoder.dropout=0..0.5 --search train.optimizer=adam,adamw
    """
    folder = search_settings(
        experiment, data, search, base=named(name), trials=trials, runs=runs, workers=workers, console=log
    )
    screen.print(f"study: {folder}")


def report(
    *,
    results: Annotated[Path, arg(help="Folder of result files.")] = Path("results"),
    out: Annotated[Path, arg(help="Folder to write the report to.")] = Path("report"),
    compare: Annotated[tuple[str, str] | None, arg(help="Two experiments, compared on the same sessions.")] = None,
) -> None:
    """Results on simulated sessions have tables of their own. Published numbers are in a column apart from them.

    Examples:
      emgscribe report
      emgscribe report --compare demo:greedy demo:beam
    """
    page, *others = write_report(results, out, compare, lambda line: log.print(f"Warning: {line}"))
    screen.print(f"report: {page} and {len(others)} files beside it")


def demo(
    *,
    out: Annotated[Path, arg(help="Folder for the sessions, the model and the result.")] = Path("demo"),
    seed: Annotated[int, arg(help="Another seed is another typist and another training run.")] = 0,
) -> None:
    """Everything is kept in one folder. What another seed makes is kept beside it.

    Examples:
      emgscribe demo
      emgscribe demo --seed 1 --out demo
    """
    data = out / f"sessions-{seed}"
    if not (data / "metadata.csv").exists():  # written last, so its presence says that the sessions are complete
        make_sessions(data, users=1, sessions=10, minutes=4.0, seed=seed)
    experiment = replace(DEMO, train=replace(DEMO.train, seed=seed))
    done = run_experiment(experiment, data, runs=out / "runs", results=out / "results", console=log)
    print_alignment(done.test["greedy"], screen)
    print_evaluation(done.test["greedy"], screen)
    screen.print(f"model: {out / 'runs' / run_name(experiment) / 'best'}")
