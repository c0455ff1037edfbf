"""A streaming model as an ONNX file: samples of a chunk and states in, emissions and states out.

Features are inside. States begin as zeros; then silence is fed, which fills them, and the first emissions are dropped.
Needs the extra `export`.
"""

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy, deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from emgscribe.config import from_json, require, to_json
from emgscribe.data.charset import SYMBOLS
from emgscribe.data.hdf5 import Emg
from emgscribe.data.shape import Shape
from emgscribe.errors import EmgscribeError, optional
from emgscribe.files import damage_reported, open_file, replacing
from emgscribe.models.model import Model
from emgscribe.models.steps import State, Step

_TOLERANCE = 1e-4  # by which emissions may differ from PyTorch's
_UNROLLED = 32  # frames of a step, up to which an int8 GRU is unrolled: each takes seconds to export


def export_onnx(model: Model, path: Path | str, *, frames: int = 1, int8: bool = False) -> None:
    """Write the model's step over `frames` frames of emissions; with `int8` its weights are quantised to 8 bits.

    Inputs are `emg` (1, frames * samples_per_frame, B, C) in µV and the states, outputs `emissions` (1, frames, 99) and
    the states for the next call. GRUs are quantised in steps of up to 32 frames. The file's metadata say how to begin
    (`OnnxModel` does it). Raises `EmgscribeError` where onnxruntime's results differ from PyTorch's by more than 1e-4,
    before they are quantised, and where the model cannot be streamed. Needs the extra `export`.
    """
    require(1 <= frames <= 1000, "frames", frames, "1 to 1000")
    optional("onnxscript", "export")
    onnx, runtime = optional("onnx", "export"), optional("onnxruntime", "export")
    step, random = _Step(deepcopy(model).cpu().eval(), frames), torch.Generator().manual_seed(0)
    exported = _Step(_unrolled(step.model), frames) if int8 and frames <= _UNROLLED else step
    example = torch.randn(1, frames * model.samples_per_frame, *model.shape.sample, generator=random)
    with replacing(Path(path)) as temporary, TemporaryDirectory() as folder, torch.no_grad():
        raw = Path(folder, "raw.onnx")
        with _quiet():
            made = torch.onnx.export(
                exported,
                (example, step.states),
                dynamo=True,
                verbose=False,
                input_names=["emg", *step.names("")],
                output_names=["emissions", *step.names("next_")],
            )
            made.save(raw)  # type: ignore[union-attr]  # it is None only without dynamo
        _check(step, example, random, runtime.InferenceSession(raw))
        if int8:
            quantization = optional("onnxruntime.quantization", "export")
            with _quiet():
                quantization.quantize_dynamic(raw, raw.with_name("int8.onnx"), weight_type=quantization.QuantType.QInt8)
            raw = raw.with_name("int8.onnx")
        written = onnx.load(raw)
        for name, value in metadata(model, frames).items():
            written.metadata_props.add(key=name, value=value)
        temporary.write_bytes(written.SerializeToString())


def _unrolled(model: Model) -> Model:
    """A copy with `_Cells` in place of each GRU."""
    model = deepcopy(model)
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.GRU):
                setattr(parent, name, _Cells(child))
    return model


class _Cells(nn.Module):
    """A causal `nn.GRU`, batch first, frame by frame as matrix products: onnxruntime does not quantise the operator."""

    def __init__(self, gru: nn.GRU) -> None:
        super().__init__()
        layers = [[part.detach() for part in layer] for layer in gru.all_weights]
        self.layers = [(outer.T.contiguous(), kernel.T.contiguous(), *biases) for outer, kernel, *biases in layers]

    def forward(self, seen: Tensor, hx: Tensor | None) -> tuple[Tensor, Tensor]:
        last = list[Tensor]()
        for number, (outer, kernel, bias, inner) in enumerate(self.layers):
            hidden = seen.new_zeros(len(seen), 1, len(kernel)) if hx is None else hx[number, :, None]
            made = list[Tensor]()
            for gates in torch.split(seen @ outer + bias, 1, dim=1):  # (N, 1, 3 * H), as is what they are added to
                reset, update, new = gates.chunk(3, dim=2)
                reset_by, update_by, new_by = (hidden @ kernel + inner).chunk(3, dim=2)
                found = torch.tanh(new + torch.sigmoid(reset + reset_by) * new_by)
                hidden = found + torch.sigmoid(update + update_by) * (hidden - found)
                made.append(hidden)
            seen = torch.cat(made, dim=1)
            last.append(hidden[:, 0])
        return seen, torch.stack(last)


class _Step(nn.Module):
    """The steps of a stream with their states flat, as inputs and outputs."""

    def __init__(self, model: Model, frames: int) -> None:
        super().__init__()
        self.model, self._steps = model, model.streamed()
        size, (before, after) = frames * model.samples_per_frame, model.context
        self._form: State = None
        count = 0
        with torch.inference_mode():  # until every state has its final size
            first = (before + after) % size
            _, self._form = self._steps(torch.zeros(1, first, *model.shape.sample), None) if first else (None, None)
            while count < 2 + (before + after) // size:
                made, self._form = self._steps(torch.zeros(1, size, *model.shape.sample), self._form)
                count += made is not None and made.shape[1] == frames
        self.states = [torch.zeros_like(state) for state in _flat(self._form)]

    def names(self, before: str) -> list[str]:
        return [f"{before}state_{number}" for number in range(len(self.states))]

    def forward(self, emg: Tensor, states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        made, after = self._steps(emg, _shaped(self._form, iter(states)))
        assert made is not None
        return made, _flat(after)


def _flat(state: State) -> list[Tensor]:
    """The tensors in nested states, without empty ones."""
    if isinstance(state, Tensor):
        return [state] if state.numel() else []
    return [tensor for part in state for tensor in _flat(part)] if isinstance(state, list | tuple) else []


def _shaped(form: State, tensors: Iterator[Tensor]) -> State:
    """The tensors, nested like `form`."""
    if isinstance(form, Tensor):
        return next(tensors) if form.numel() else form.clone()
    return type(form)(_shaped(part, tensors) for part in form) if isinstance(form, list | tuple) else form


def _check(step: _Step, example: Tensor, random: torch.Generator, session: Any) -> None:
    states = [
        torch.randn(state.shape, generator=random) if state.dtype == torch.float32 else state for state in step.states
    ]
    expected, after = step(example, states)
    given = zip(session.get_inputs(), [example, *states], strict=True)
    found = session.run(None, {one.name: value.numpy() for one, value in given})
    worst = max(float(np.abs(a - b.numpy()).max()) for a, b in zip(found, [expected, *after], strict=True))
    if not worst <= _TOLERANCE:
        what = f"onnxruntime's results for this network differ from PyTorch's by {worst:.2g}"
        raise EmgscribeError(what, hint="report it, with the model's config.json")


def metadata(model: Model, frames: int) -> dict[str, str]:
    """The file's metadata: what it is, how much silence comes first, and how many frames are then dropped."""
    before, after = model.context
    size = model.samples_per_frame
    silence = before + after + -(before + 2 * after) % size  # so that frames begin with the first sample
    return {
        "producer": "emgscribe",
        "shape": json.dumps(to_json(model.shape)),
        "symbols": json.dumps([*SYMBOLS, ""], ensure_ascii=False),
        "samples_per_frame": str(size),
        "frames": str(frames),
        "silence": str(silence),
        "drop": str((silence + after) // size),
        "lookahead": str(after),
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the exporter's warnings about what it lacks."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


class OnnxModel:
    """A step that `export_onnx` wrote, run by onnxruntime chunk by chunk. `Stream` takes it in place of a model.

    `shape` is that of its recordings, `context` the samples (0, right) that emissions wait for. Needs the extra
    `export`.
    """

    device = torch.device("cpu")

    def __init__(self, path: Path | str, *, threads: int = 1) -> None:
        runtime = optional("onnxruntime", "export")
        open_file(Path(path)).close()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = threads
        with damage_reported(Path(path), "is damaged, or not an ONNX file"):
            self._session = runtime.InferenceSession(path, options)
            about = self._session.get_modelmeta().custom_metadata_map
            names = ("silence", "drop", "frames", "samples_per_frame", "lookahead")
            self.silence, self._drop, self.chunk, self.samples_per_frame, after = (int(about[name]) for name in names)
            self.shape: Shape = from_json(Shape, json.loads(about["shape"]), where=str(path))
            self._inputs = self._session.get_inputs()
            if self._inputs[0].shape != [1, self.chunk * self.samples_per_frame, *self.shape.sample]:
                raise ValueError("its metadata and its inputs differ")
        self.context = (0, after + (self.chunk - 1) * self.samples_per_frame)
        self._about = f"<OnnxModel {Path(path).name}, {self.shape.rate / self.samples_per_frame:.4g} frames/s>"
        self.reset()

    def __repr__(self) -> str:
        return self._about

    def frames(self, samples: int) -> int:
        """Frames that cover `samples` samples."""
        return -(-samples // self.samples_per_frame)

    def streamed(self) -> Step:
        """The step of a stream: EMG (1, n, B, C) -> emissions. Its state is a copy of this model."""

        def feed(emg: Tensor, state: "OnnxModel | None") -> tuple[Tensor | None, "OnnxModel"]:
            if state is None:
                state = copy(self)
                state.reset()
            made = torch.from_numpy(state.feed(emg[0].numpy()))
            return (made[None] if len(made) else None), state

        return feed

    @property
    def states(self) -> dict[str, dict[str, Any]]:
        """The type and the shape of each state, by its name; what comes out has `next_` before the name."""
        kinds = {"tensor(float)": "float32", "tensor(double)": "float64"}
        return {one.name: {"type": kinds[one.type], "shape": one.shape} for one in self._inputs[1:]}

    def reset(self) -> None:
        """Begin another recording."""
        self._states = [np.zeros(one["shape"], one["type"]) for one in self.states.values()]
        self._dropped = 0
        self._rest: Emg = np.zeros((self.silence, *self._inputs[0].shape[2:]), np.float32)

    def log_probs(self, emg: Emg) -> npt.NDArray[np.float32]:
        """Emissions (F, 99) of a whole recording (T, B, C) in µV, as if silence followed."""
        self.reset()
        found = np.concatenate([self.feed(emg), self.feed(np.zeros((self.silence, *emg.shape[1:]), np.float32))])
        return found[: self.frames(len(emg))]

    def feed(self, samples: Emg) -> npt.NDArray[np.float32]:
        """Emissions (F, 99) of the chunks that are completed by samples (T, B, C) in µV."""
        self._rest = np.concatenate([self._rest, self.shape.checked(samples)])
        size, made = self.chunk * self.samples_per_frame, [np.empty((0, len(SYMBOLS) + 1), np.float32)]
        for at in range(0, len(self._rest) - size + 1, size):
            inputs = [self._rest[None, at : at + size], *self._states]
            named = {one.name: value for one, value in zip(self._inputs, inputs, strict=True)}
            emissions, *self._states = self._session.run(None, named)
            left = min(self.chunk, self._drop - self._dropped)
            self._dropped += left
            made.append(emissions[0, left:])
        self._rest = self._rest[len(self._rest) // size * size :]
        return np.concatenate(made)
