"""A Lightning data module: sessions -> the windows of each epoch, drawn from the seed and the epoch's number."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import lightning
import torch

from emgscribe.data.session import Session
from emgscribe.data.windows import Batch, Store, WindowConfig, Windows
from emgscribe.training.config import TrainConfig
from emgscribe.training.losses import long_epochs


def epoch_generator(seed: int, epoch: int, stream: int, rank: int = 0) -> torch.Generator:
    """A generator for one epoch; streams keep the draws of windows (0), augmentation (1) and dropout (2) apart."""
    return torch.Generator().manual_seed((seed * 100_003 + epoch) * 4 + stream + (rank << 48))


def cut(
    sessions: Sequence[Session], config: WindowConfig, context: tuple[int, int], device: torch.device | str = "cpu"
) -> Windows:
    """The windows of `sessions` with at least `context` samples (left, right), gathered on `device`."""
    left, right = max(config.left, context[0]), max(config.right, context[1])
    return Windows(Store(sessions, device), config.length, config.stride, left, right)


class SessionsDataModule(lightning.LightningDataModule):
    """Windows of training and validation sessions, for any Lightning Trainer.

    `context` is that of the model (`model.context`). Training windows are drawn again for each epoch, so that no sample
    is favoured. With `config.long_windows` those of the last epochs are longer, and a step still sees as much signal.
    Several devices each get a part of every batch.
    """

    def __init__(
        self, train: Sequence[Session], val: Sequence[Session], windows: WindowConfig, config: TrainConfig,
        *, context: tuple[int, int] = (0, 0),
    ) -> None:  # fmt: skip
        super().__init__()
        self.sessions, self.windows, self.config, self.context = (train, val), windows, config, context
        self.long_from = config.epochs - long_epochs(config)  # the first epoch with long windows

    def setup(self, stage: str = "fit") -> None:
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        self._train, self._val = (cut(part, self.windows, self.context, device) for part in self.sessions)

    def _phase(self, windows: Windows, epoch: int) -> tuple[Windows, int]:
        """Windows and batch size of an epoch."""
        factor = self.config.long_factor if epoch >= self.long_from else 1
        longer = replace(windows, length=factor * windows.length, stride=factor * windows.stride)
        return longer, max(1, self.config.batch_size // factor)

    def steps(self, epoch: int) -> int:
        """Steps of one epoch."""
        windows, batch_size = self._phase(cut(self.sessions[0], self.windows, self.context), epoch)
        return math.ceil(len(windows.shuffled(torch.Generator())) / batch_size)

    @property
    def total_steps(self) -> int:
        """Steps of all epochs."""
        return self.long_from * self.steps(0) + (self.config.epochs - self.long_from) * self.steps(self.long_from)

    def train_dataloader(self) -> "_Loader":
        return _Loader(self._epoch, None if 0 < self.long_from < self.config.epochs else self.steps(0))

    def val_dataloader(self) -> "_Loader":
        tiled, size = replace(self._val, stride=self._val.length), self.config.batch_size
        places = tiled.tiling()
        return _Loader(lambda: tiled.batches(places, size, **self._part()), math.ceil(len(places) / size))

    def _epoch(self) -> Iterator[Batch]:
        # `current_epoch` is one behind when a resumed run asks for its first batches; this is right.
        progress: Any = self.trainer.fit_loop.epoch_progress.current if self.trainer else None
        epoch = progress.processed if progress else 0
        windows, size = self._phase(self._train, epoch)
        return windows.batches(windows.shuffled(epoch_generator(self.config.seed, epoch, 0)), size, **self._part())

    def _part(self) -> dict[str, int]:
        return {"part": self.trainer.global_rank, "parts": self.trainer.world_size} if self.trainer else {}


class _Loader:
    """What a Trainer iterates once an epoch. It has no length where epochs differ in theirs."""

    def __init__(self, begin: Callable[[], Iterator[Batch]], steps: int | None) -> None:
        self.begin, self.steps = begin, steps

    def __iter__(self) -> Iterator[Batch]:
        return self.begin()

    def __len__(self) -> int:
        if self.steps is None:
            raise TypeError("epochs differ in length")
        return self.steps
