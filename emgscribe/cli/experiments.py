"""Verbs about experiments: run one, run those behind a table, search settings, report."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, UseAppendAction, arg

from emgscribe.cli.models import decoder_names
from emgscribe.cli.sessions import make_sessions
from emgscribe.cli.terminal import known, log, screen

if TYPE_CHECKING:
    from emgscribe.experiments.launch import Workers
    from emgscribe.experiments.recipes import Experiment
else:
    Experiment = Workers = Any  # their real types are loaded when the verb is used

Budget = Literal["full", "medium", "small"]


@dataclass(frozen=True)
class Folders:
    """Where runs leave what they make."""

    runs: Path = Path("runs")  # folder for models, checkpoints, curves, logs and simulated sessions
    results: Path = Path("results")  # folder for result files


def _experiment() -> type:
    from emgscribe.experiments.recipes import Experiment

    return Experiment


def _workers() -> type:
    from emgscribe.experiments.launch import Workers

    return Workers


def named(name: str) -> "Experiment":
    """The experiment of a name; an unknown one is an error with the nearest and the names of its group."""
    from emgscribe.experiments.recipes import EXPERIMENTS

    return EXPERIMENTS[known(name, EXPERIMENTS, "experiment")]


def list_experiments(verb: str, *, status: int) -> int:
    """Print every experiment with a line each, in groups."""
    from emgscribe.experiments.recipes import GROUPS

    screen.print(f"usage: emgscribe {verb} EXPERIMENT --data DIR [OPTIONS]\n")
    screen.print(f"emgscribe {verb} EXPERIMENT --help lists all settings. The experiments:")
    for group, members in GROUPS.items():
        screen.print(f"\n{group}")
        width = max(map(len, members))
        for name, experiment in members.items():
            screen.print(f"  {name:<{width}}  {_about(experiment)}")
    return status


def _about(experiment: "Experiment") -> str:
    layers, encoder = [], experiment.model.encoder
    while encoder is not None:
        layers.append(encoder.kind())
        encoder = getattr(encoder, "base", None)
    return f"{' on '.join([*layers, experiment.model.features.kind()])}, {experiment.train.epochs} epochs"


def list_suites() -> int:
    """Print every suite with a line each."""
    from emgscribe.experiments.recipes import SUITES

    screen.print("usage: emgscribe reproduce SUITE --data DIR [OPTIONS]\n")
    width = max(map(len, SUITES))
    for name, suite in SUITES.items():
        screen.print(f"  {name:<{width}}  {len(suite.experiments)} runs. {suite.about}")
    return 2


def train(
    name: Positional[Annotated[str, arg(metavar="EXPERIMENT")]],
    /,
    *,
    data: Path,
    folders: Annotated[Folders, arg(name="")] = Folders(),  # noqa: B008 (frozen)
    decoder: str = "greedy",
    lm: Path | None = None,
    experiment: Annotated[Experiment, arg(name="", constructor_factory=_experiment)],
) -> int:
    """Train a named experiment on a folder of sessions, test it and write its result.

    A run that was interrupted goes on where it stopped when the same command is given again. With other settings than
    the named ones, --name gives the run and its result a name of their own.

    Examples:
      emgscribe train demo --data data
      emgscribe train baseline --data emg2qwerty --data.protocol user0
      emgscribe train demo --data data --train.lr 3e-3 --name demo-fast

    Args:
        name: Name of the experiment whose settings are the defaults; without one, all are listed.
        data: Folder of session files.
        folders: Where the run leaves what it makes.
        decoder: greedy, or greedy,beam: the beam search is tuned on the validation sessions.
        lm: ARPA file for the beam search instead of the built-in language model.
        experiment: The settings.
    """
    from emgscribe.experiments.report import print_result
    from emgscribe.experiments.run import run_experiment

    done = run_experiment(
        experiment, data, runs=runs, results=results, decoders=decoder_names(decoder), lm=lm, console=log
    )
    for reader, result in done.scores.items():
        print_result(result, screen, reader)
    screen.print(f"model: {done.model}")
    return 0


def reproduce(
    suite: Positional[str],
    /,
    *,
    data: Path,
    budget: Budget = "full",
    folders: Annotated[Folders, arg(name="")] = Folders(),  # noqa: B008 (frozen)
    workers: Annotated[Workers, arg(name="", constructor_factory=_workers)],
    decoder: str = "greedy",
    lm: Path | None = None,
    dry_run: bool = False,
) -> int:
    """Run every experiment of a suite that has no result yet, and print the suite's table.

    Interrupted, it goes on where it stopped when the same command is given again. A run that fails does not stop the
    others. Without a suite, all suites are listed.

    Examples:
      emgscribe reproduce table2 --data emg2qwerty
      emgscribe reproduce table2 --data simulated --budget small --dry-run
      emgscribe reproduce benchmark --data emg2qwerty --on slurm --jobs 8 --gpus 1

    Args:
        suite: Name of the suite.
        data: Folder of session files, or the word simulated: then sessions are simulated first.
        budget: full: as published; medium and small: small networks, on many or on few simulated sessions.
        folders: Where the runs leave what they make.
        workers: Where the runs are executed.
        decoder: greedy, or greedy,beam: results get the score of the beam search too.
        lm: ARPA file for the beam search instead of the built-in language model.
        dry_run: Only list which runs are done, interrupted or missing, and about how long they take here.
    """
    raise NotImplementedError


def tune(
    name: Positional[Annotated[str, arg(metavar="EXPERIMENT")]],
    /,
    *,
    data: Path,
    search: UseAppendAction[tuple[str, ...]],
    trials: int = 20,
    runs: Path = Path("runs"),
    workers: Annotated[Workers, arg(name="", constructor_factory=_workers)],
    experiment: Annotated[Experiment, arg(name="", constructor_factory=_experiment)],
) -> int:
    """Search settings of an experiment for the lowest validation CER. The test sessions are not scored.

    Interrupted, it goes on where it stopped when the same command is given again; more trials are added to those done.

    Examples:
      emgscribe tune demo --data data --search train.lr=1e-4..1e-2:log --trials 10
      emgscribe tune demo --data data --search model.encoder.dropout=0..0.5 --search train.optimizer=adam,adamw

    Args:
        name: Name of the experiment whose settings are the defaults; without one, all are listed.
        data: Folder of session files.
        search: A setting to search, with its range or its values; may be given several times.
        trials: Total number of trials.
        runs: Folder for the study, and for the models and checkpoints of its trials.
        workers: Where the trials are executed.
        experiment: The settings that are not searched.
    """
    raise NotImplementedError


def report(
    *,
    results: Path = Path("results"),
    out: Path = Path("report"),
    compare: tuple[str, str] | None = None,
    decoder: str = "",
) -> int:
    """Make a report of result files: tables beside published numbers, a CSV for each kind of data, figures.

    Results on simulated sessions have tables of their own, without published numbers.

    Examples:
      emgscribe report
      emgscribe report --compare demo:greedy demo:beam

    Args:
        results: Folder of result files.
        out: Folder to write the report to.
        compare: Two experiments to compare on the sessions that both were tested on, with an interval; a decoder may
            follow after a colon, as in demo:greedy demo:beam.
        decoder: Only rows of these decoders, such as greedy or greedy,beam; by default all.
    """
    from emgscribe.experiments.report import make_report

    wanted = [name.strip() for name in decoder.split(",")] if decoder else None
    page, *others = make_report(results, out, compare, wanted)
    screen.print(f"report: {page} and {len(others)} files beside it")
    return 0


def demo(*, out: Path = Path("demo"), seed: int = 0) -> int:
    """Simulate a typist, train on most of the sessions and read one that was held out: minutes on two cores.

    Examples:
      emgscribe demo
      emgscribe demo --seed 1 --out demo

    Args:
        out: Folder for the sessions, the model and the result.
        seed: Random seed: another seed is another typist and another training run.
    """
    from emgscribe.experiments.recipes import DEMO
    from emgscribe.experiments.report import print_comparison, print_result
    from emgscribe.experiments.run import run_experiment

    data = out / f"sessions-{seed}"
    if not (data / "metadata.csv").exists():  # written last, so its presence says that the sessions are complete
        make_sessions(data, users=1, sessions=10, minutes=4.0, seed=seed)
    experiment = replace(DEMO, train=replace(DEMO.train, seed=seed))
    done = run_experiment(experiment, data, runs=out / "runs", results=out / "results", console=log)
    result = done.scores["greedy"]
    print_comparison(result, screen)
    print_result(result, screen)
    screen.print(f"model: {done.model}")
    return 0
