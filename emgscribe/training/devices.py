"""One run on several devices: a process for each, which has a part of every batch and the mean of all gradients."""

import multiprocessing
import os
import socket
from collections.abc import Callable
from threading import Thread
from typing import Any

import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy
from rich.console import Console
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, start_processes

from emgscribe.errors import EmgscribeError

Work = Callable[[torch.device, Console], None]


def together(devices: int) -> dict[str, Any]:
    """Settings of a Lightning trainer that is one of the processes `spread` starts."""
    gpu = torch.cuda.is_available()
    return {
        "strategy": DDPStrategy(process_group_backend="nccl" if gpu else "gloo"),
        "plugins": [LightningEnvironment()],
        "use_distributed_sampler": False,
        "sync_batchnorm": gpu,  # torch has none for a CPU: there each process normalises by its own part
    }


def spread(work: Work, device: torch.device, devices: int, console: Console | None) -> None:
    """Do `work` in one process for each of so many devices of a kind, and wait for all; the first one shows progress.

    Raises what a process raised as `EmgscribeError`, and one where there are not so many GPUs or a process was killed.
    """
    if device.type == "cuda" and torch.cuda.device_count() < devices:
        found = torch.cuda.device_count()
        raise EmgscribeError(
            f"train.devices is {devices}, and there are {found} GPUs", hint="set --train.devices lower"
        )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    environment |= {"NODE_RANK": "0", "WORLD_SIZE": str(devices)}
    errors = multiprocessing.get_context("spawn").SimpleQueue()
    quiet = console is not None and console.quiet
    context = start_processes(  # type: ignore[no-untyped-call]  # torch's has no types
        _part, (work, device.type, environment, errors, quiet), devices, join=False, start_method="spawn"
    )
    try:
        while not context.join():
            pass
    except ProcessRaisedException:
        if errors.empty():
            raise
        raise errors.get() from None
    except ProcessExitedException as error:
        hint = "give the same command again: it goes on from the last whole epoch"
        raise EmgscribeError(f"one of the run's processes has gone ({error})", hint=hint) from error
    finally:
        for process in context.processes:
            process.kill()


def _part(rank: int, work: Work, kind: str, environment: dict[str, str], errors: Any, quiet: bool) -> None:
    Thread(target=_leave_with_parent, daemon=True).start()
    os.environ |= environment | {"LOCAL_RANK": str(rank)}
    device = torch.device(kind, rank) if kind == "cuda" else torch.device(kind)
    try:
        work(device, Console(stderr=True, quiet=quiet or rank > 0))
    except EmgscribeError as error:
        errors.put(error)
        raise


def _leave_with_parent() -> None:
    """A process that waits for the others in a collective would wait long for one that has gone."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
