"""What an experiment and a suite are. An experiment is a value; a variant is `replace(base, ...)`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from emgscribe.config import Range, require
from emgscribe.data.splits import DataConfig, Protocol
from emgscribe.models.encoders import EncoderConfig
from emgscribe.training.config import Recipe

Experiments = dict[str, "Experiment"]
Members = Annotated[int, Range(0, 100)]


@dataclass(frozen=True)
class Experiment(Recipe):
    """A recipe with a name and its part of the data; the result goes to `results/<name>-<seed>.json`."""

    name: str = "baseline"  # name of the run's folder and of its result; a variant needs another name
    data: DataConfig = field(default_factory=DataConfig)
    start: str = ""  # fine-tune the model of this experiment with the same seed; empty: random weights
    teacher: str = ""  # also learn the emissions of this experiment's model with the same seed; empty: no teacher
    ensemble: Members = 0  # average this many seeds of the teacher, or of start instead of training; 0: one seed

    def __post_init__(self) -> None:
        super().__post_init__()
        wanted, possible = "2 to 100 with a start or a teacher, or 0", self.ensemble > 1 and self.depends
        require(self.ensemble == 0 or possible, "ensemble", self.ensemble, wanted)
        # The name is a path in the folders of runs and of results, which it must not leave or hide in.
        fits = self.name.isprintable() and len(self.name.encode()) <= 200
        allowed = "words of letters, digits and the like, with / between them; no leading dot; at most 200 bytes"
        require(fits and all(part[:1] not in ("", ".") for part in self.name.split("/")), "name", self.name, allowed)

    @property
    def depends(self) -> bool:
        """Whether models of other experiments must exist first."""
        return bool(self.start or self.teacher)

    @property
    def teachers(self) -> int:
        """How many models teach this one."""
        return max(1, self.ensemble) if self.teacher else 0

    @property
    def trains(self) -> bool:
        """Whether there is anything to train: an ensemble is the average of models that exist."""
        return not self.ensemble or bool(self.teacher)


@dataclass(frozen=True)
class Simulated:
    """The sessions that `--data simulated` makes, and the folder for them among the runs."""

    folder: str
    users: int
    sessions: int
    minutes: float


FIVE_PEOPLE = Simulated("simulated-sessions", users=5, sessions=24, minutes=4.0)


@dataclass(frozen=True)
class Curve:
    """CER against an amount: the suite's experiments that differ in it, by the amount."""

    amount: str
    experiments: Mapping[int, str]


@dataclass(frozen=True)
class Suite:
    """The runs behind one table or figure, in order, seeds included. Some runs belong to several suites.

    Experiments of another protocol appear in the suite's table only with the sessions that `protocol` tests. With
    `over_users` the table has the mean and standard deviation over the users, each of which has experiments of its
    own: `benchmark/user0/finetuned` to `benchmark/user7/finetuned` are one row.
    """

    name: str
    about: str
    experiments: tuple[Experiment, ...]
    protocol: Protocol = "latest"
    simulated: Simulated = FIVE_PEOPLE
    over_users: bool = False
    curves: tuple[Curve, ...] = ()


def by_name(experiments: Iterable[Experiment]) -> Experiments:
    """Experiments by their names."""
    return {experiment.name: experiment for experiment in experiments}


def variant(base: Experiment, group: str, name: str, encoder: EncoderConfig, **settings: Any) -> Experiment:
    """`base` as `group/name` with another encoder; `settings` are of the experiment, or of its training."""
    train = {key: settings.pop(key) for key in list(settings) if hasattr(base.train, key)}
    model = replace(settings.pop("model", base.model), encoder=encoder)
    return replace(base, name=f"{group}/{name}", model=model, train=replace(base.train, **train), **settings)


def seeded(experiments: Experiments, *three_seeds: str) -> tuple[Experiment, ...]:
    """The experiments in order, those named in `three_seeds` with three seeds."""
    seeds = dict.fromkeys(three_seeds, (1501, 1502, 1503))
    return tuple(
        replace(experiment, train=replace(experiment.train, seed=seed))
        for name, experiment in experiments.items()
        for seed in seeds.get(name, (experiment.train.seed,))
    )
