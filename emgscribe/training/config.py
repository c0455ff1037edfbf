"""How a network is trained."""

from dataclasses import dataclass, field
from typing import Annotated, Literal, Self

from emgscribe.config import Below, Count, Range, Settings, Share, require
from emgscribe.data.shape import PUBLISHED_RATE, Shape
from emgscribe.data.windows import WindowConfig
from emgscribe.models.augment import Augmentation
from emgscribe.models.model import ModelConfig

Rate = Annotated[float, Range(0, 10, "()")]
Amount = Annotated[float, Range(0, 1e6)]
BelowOne = Annotated[float, Below(0, 1)]


@dataclass(frozen=True)
class TrainConfig(Settings):
    """How a network is trained; the defaults are the published baseline's (Sivakumar et al. 2024)."""

    section = "train"

    epochs: Count = 150  # passes over the training sessions
    batch_size: Count = 32  # windows in a step, over all devices together
    optimizer: Literal["adam", "adamw"] = "adam"  # Adam, or Adam with decoupled weight decay
    lr: Rate = 1e-3  # peak learning rate
    lr_start: Rate = 1e-8  # learning rate of the first step, from which it rises linearly
    lr_end: Rate = 1e-6  # learning rate of the last step, to which it falls along a cosine
    warmup_epochs: Amount = 10.0  # epochs over which the learning rate rises
    weight_decay: Amount = 0.0  # weight decay of the optimiser
    clip_norm: Amount = 0.0  # clip the gradient to this norm; 0: never
    keypress_weight: Amount = 0.0  # weight of the frame-wise key-press loss, which leads past CTC's all-blank plateau
    keypress_fraction: Annotated[float, Range(1e-9, 1)] = 0.5  # share of the steps over which that weight falls to 0
    attention_weight: Share = 0.3  # loss weight of an attention decoder; CTC has the rest
    teacher_weight: Share = 0.5  # loss weight of a teacher's emissions (distillation); the heads' losses have the rest
    label_smoothing: BelowOne = 0.1  # label smoothing of the attention decoder's targets
    blank_prior: BelowOne = 0.0  # probability of the blank that the head starts with; 0: unset
    ema: BelowOne = 0.0  # decay of an exponential moving average of the weights; 0: none
    dropout_ramp: Share = 0.0  # share of the steps over which every dropout rises from 0 to its setting
    long_windows: Share = 0.0  # share of the epochs, at the end, that use long windows
    long_factor: Count = 4  # how many times longer long windows are; their batches are that much smaller
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 where the hardware multiplies it faster
    validate_every: Count = 1  # epochs from one validation to the next
    devices: Count = 1  # GPUs, or processes on a CPU, that share each batch
    seed: Annotated[int, Range(0, (1 << 32) - 1)] = 1501  # seed of weights, windows, augmentation and dropout

    def __post_init__(self) -> None:
        super().__post_init__()
        every, epochs = self.validate_every, self.epochs
        allowed = f"a divisor of train.epochs = {epochs}, so that the last epoch is validated"
        require(every > epochs or epochs % every == 0, "train.validate_every", every, allowed)


@dataclass(frozen=True)
class Recipe(Settings):
    """Everything that decides how a network is built and trained, except the data."""

    model: ModelConfig = field(default_factory=ModelConfig)
    windows: WindowConfig = field(default_factory=WindowConfig)
    augment: Augmentation = field(default_factory=Augmentation)
    train: TrainConfig = field(default_factory=TrainConfig)

    def for_shape(self, shape: Shape) -> Self:
        """This recipe for recordings of `shape`: its numbers of samples are for 2 kHz, and the durations stay."""
        return self if shape.rate == PUBLISHED_RATE else self.at_rate(shape.rate / PUBLISHED_RATE)

    def __post_init__(self) -> None:
        super().__post_init__()
        length, jitter = self.windows.length, self.augment.jitter.samples
        require(jitter < length, "augment.jitter.samples", jitter, f"fewer than windows.length = {length}")
        frames, masks = length // self.model.features.samples_per_frame, self.augment.spec
        allowed = f"0 to {frames}, the frames of windows.length = {length}"
        for name in ("time_masks", "time_frames"):
            require(getattr(masks, name) <= frames, f"augment.spec.{name}", getattr(masks, name), allowed)
