"""Settings that are only settings, as frozen dataclasses, and how any of them is checked and stored as JSON.

A stage with parameters of its own keeps them beside its code (`augment.BandRotation`, `encoders.tds.TdsConfig`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar, get_args

import cattrs

from emgscribe.errors import EmgscribeError

T = TypeVar("T")
Protocol = Literal[
    "latest", "course", "generic", "user0", "user1", "user2", "user3", "user4", "user5", "user6", "user7"
]
LATEST: Protocol = "latest"


def require(holds: bool, field: str, value: object, allowed: str) -> None:
    """Refuse a setting where `holds` is false, naming the field, its value and what is allowed."""
    if not holds:
        raise EmgscribeError(f"{field} is {value!r}, allowed: {allowed}", mend=f"choose another value for {field}")


@dataclass(frozen=True)
class WindowConfig:
    """How sessions are cut for training and validation, in samples at 2 kHz (paper: 4 s, 900 ms and 100 ms).

    `left` and `right` are the context without labels; an encoder that needs more is given what it needs.
    """

    length: int = 8000
    stride: int = 8000
    left: int = 1800
    right: int = 200

    def __post_init__(self) -> None:
        require(self.length > 0, "windows.length", self.length, "a positive number of samples")
        require(self.stride > 0, "windows.stride", self.stride, "a positive number of samples")
        require(self.left >= 0, "windows.left", self.left, "0 or more samples")
        require(self.right >= 0, "windows.right", self.right, "0 or more samples")


@dataclass(frozen=True)
class TrainConfig:
    """How a network is trained; the defaults are the published baseline's.

    The learning rate rises linearly from `lr_start` over `warmup_epochs` and falls by a cosine to `lr_end` at the
    last step. `keypress_weight` above 0 adds a cross-entropy by frame (the key where one went down, else blank), its
    weight falling linearly to 0 over the first `keypress_fraction` of the steps: it carries the network past CTC's
    all-blank plateau. `precision` "auto" takes bf16 where the hardware multiplies it faster.

    Where the model has an attention decoder, `attention_weight` is the share of its loss, CTC having the rest, and
    `label_smoothing` the share of its targets that is spread over all symbols.

    `ema` above 0 validates and keeps a moving average of the weights, of which each step leaves so large a share.
    `devices` above 1 divides each batch among so many GPUs, or processes on a CPU.
    `dropout_ramp` is the share of the steps over which every dropout rises linearly from 0 to its setting. In the last
    `long_windows` share of the epochs, windows are `long_factor` times as long and batches as many times smaller.
    """

    epochs: int = 150
    batch_size: int = 32
    optimizer: Literal["adam", "adamw"] = "adam"
    lr: float = 1e-3
    lr_start: float = 1e-8
    lr_end: float = 1e-6
    warmup_epochs: float = 10.0
    weight_decay: float = 0.0
    clip_norm: float = 0.0  # 0: gradients are not clipped
    keypress_weight: float = 0.0
    keypress_fraction: float = 0.5
    attention_weight: float = 0.3
    label_smoothing: float = 0.1
    blank_prior: float = 0.0  # 0: the head begins as PyTorch draws it
    ema: float = 0.0  # 0: the weights themselves
    dropout_ramp: float = 0.0  # 0: dropout is what it is set to from the first step on
    long_windows: float = 0.0  # 0: windows keep their length
    long_factor: int = 4
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    validate_every: int = 1  # epochs
    devices: int = 1
    seed: int = 1501

    def __post_init__(self) -> None:
        for field in ("epochs", "batch_size", "validate_every", "long_factor", "devices"):
            require(getattr(self, field) >= 1, f"train.{field}", getattr(self, field), "1 or more")
        every = min(self.validate_every, self.epochs)
        allowed = f"a divisor of train.epochs = {self.epochs}, so that the last one is validated"
        require(self.epochs % every == 0, "train.validate_every", self.validate_every, allowed)
        for field in ("lr", "lr_start", "lr_end"):
            require(0 < getattr(self, field) < 10, f"train.{field}", getattr(self, field), "above 0, below 10")
        for field in ("warmup_epochs", "weight_decay", "clip_norm", "keypress_weight"):
            require(
                0 <= getattr(self, field) < 1e6, f"train.{field}", getattr(self, field), "0 or more, below a million"
            )
        require(0 <= self.seed < 1 << 32, "train.seed", self.seed, "0 or more, below 2 to the 32nd")
        require(0 < self.keypress_fraction <= 1, "train.keypress_fraction", self.keypress_fraction, "above 0, up to 1")
        for field in ("label_smoothing", "ema", "blank_prior"):
            require(0 <= getattr(self, field) < 1, f"train.{field}", getattr(self, field), "0 or more, below 1")
        for field in ("attention_weight", "dropout_ramp", "long_windows"):
            require(0 <= getattr(self, field) <= 1, f"train.{field}", getattr(self, field), "0 up to 1")
        require(self.optimizer in ("adam", "adamw"), "train.optimizer", self.optimizer, "adam, adamw")
        require(self.precision in ("auto", "fp32", "bf16"), "train.precision", self.precision, "auto, fp32, bf16")


@dataclass(frozen=True)
class DataConfig:
    """Which part of a folder of sessions an experiment uses; the defaults use all of it.

    `protocol` "latest" tests on each user's latest session and validates on the one before. The others are published
    lists of sessions by name: "course" (the seed paper's user), "generic" and "user0" to "user7" (the benchmark's).
    `train_users` and `test_users` are places in the sorted list of the folder's users (none: every user): those whose
    sessions train and validate, and those whose sessions test. `sessions` above 0 keeps the latest so many training
    sessions of each user, `minutes` above 0 the first so many minutes of all that train.
    """

    protocol: Protocol = LATEST
    train_users: tuple[int, ...] = ()
    test_users: tuple[int, ...] = ()
    sessions: int = 0
    minutes: float = 0.0

    def __post_init__(self) -> None:
        require(self.protocol in get_args(Protocol), "data.protocol", self.protocol, ", ".join(get_args(Protocol)))
        for field in ("train_users", "test_users"):
            chosen = getattr(self, field)
            fits = len(set(chosen)) == len(chosen) and all(user >= 0 for user in chosen)
            require(fits, f"data.{field}", chosen, "places of users from 0 on, each once")
            by_date = self.protocol == LATEST or not chosen
            require(by_date, f"data.{field}", chosen, f"none, since the protocol {self.protocol} names the users")
        require(self.sessions >= 0, "data.sessions", self.sessions, "0 or more")
        require(0 <= self.minutes < 1e6, "data.minutes", self.minutes, "0 or more, below a million")


def _whole(value: Any, kind: type[int]) -> int:
    # For Python a truth value is a whole number and 16.5 can be made one; in a file both are mistakes.
    if type(value) is not kind:
        raise ValueError(f"{value!r} is no {kind.__name__}")
    return value


def _fault(error: BaseException, kind: type | None) -> str:
    return error.what if isinstance(error, EmgscribeError) else cattrs.v.format_exception(error, kind)


converter = cattrs.Converter(forbid_extra_keys=True)
converter.register_structure_hook(int, _whole)


def register_kinds(base: type[T], kinds: Mapping[str, type[T]], name: str) -> None:
    """Store any of `kinds` where a field of type `base` is asked for, with its label as `kind`; errors say `name`."""
    names = {kind: label for label, kind in kinds.items()}

    def unstructured(value: Any) -> dict[str, Any]:
        own = {field.name: converter.unstructure(getattr(value, field.name)) for field in fields(value)}
        return {"kind": names[type(value)], **own}

    def structured(data: dict[str, Any], _: type) -> T:
        kind = data.get("kind")
        require(kind in kinds, f"{name}.kind", kind, ", ".join(kinds))
        return converter.structure({key: value for key, value in data.items() if key != "kind"}, kinds[str(kind)])

    converter.register_structure_hook_func(lambda kind: kind is base, structured)
    converter.register_unstructure_hook_func(lambda kind: kind is base or kind in names, unstructured)


def to_json(value: object) -> Any:
    """A configuration (frozen dataclass) as JSON-ready data; `from_json` inverts it."""
    return converter.unstructure(value)


def from_json(kind: type[T], data: Any, *, where: str) -> T:
    """Rebuild a configuration of type `kind`; a missing, unknown or ill-typed field is an `EmgscribeError`."""
    try:
        return converter.structure(data, kind)
    except Exception as error:
        faults = cattrs.transform_error(error, path=kind.__name__, format_exception=_fault)
        raise EmgscribeError("; ".join(faults), where=where, mend="was it written by another version?") from error


def reads_as(value: object, data: Any) -> bool:
    """Whether stored data is the configuration `value`; a setting that it does not name was at its default."""
    try:
        return bool(from_json(type(value), data, where="") == value)
    except EmgscribeError:
        return False
