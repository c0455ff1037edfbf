"""Published emg2qwerty checkpoints -> our models, and back.

A Lightning checkpoint of that project (Sivakumar et al. 2024) is a pickle that holds settings as omegaconf objects, so
PyTorch's own safe loading refuses it. The reader here knows tensors and takes them out. Whatever else a checkpoint
refers to is neither imported nor called: an empty object stands for it.

The published network splits a width of channels x columns with the channels outermost, ours with the columns.
"""

import math
import pickle
import re
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch
from torch import Tensor

from emgscribe.data.shape import Shape
from emgscribe.data.splits import LATEST, Protocol, published_names
from emgscribe.errors import EmgscribeError
from emgscribe.files import damage_reported, open_file, replacing
from emgscribe.models.ancestry import Ancestry, Seen
from emgscribe.models.encoders import TdsConfig
from emgscribe.models.features import SpectrogramConfig
from emgscribe.models.model import Model, ModelConfig

_MAX_PICKLE = 64 << 20  # bytes of a checkpoint that are not weights
_AHEAD = 12  # published frames of context after a window, of those that the convolutions consume
_POINTER = b"version https://git-lfs"
_KINDS = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}  # fmt: skip
_INERT = re.compile(r"(omegaconf|typing|collections|pathlib|torch|lightning|pytorch_lightning|emg2qwerty)(\..*)?")
_PLAIN = {"dict", "list", "set", "frozenset", "tuple", "int", "float", "str", "bool", "complex", "bytearray"}
_HINT = "name a checkpoint (.ckpt) that the emg2qwerty project's training wrote"


def import_checkpoint(path: Path | str, *, trained_on: Protocol | None = None, hop: int = 16) -> Model:
    """The model in a published checkpoint, of the baseline's kind: spectrogram, rotation-invariant MLPs, TDS blocks.

    `trained_on` names the published split whose sessions trained and validated it; without it they are unknown, and
    scores say so. `hop` is that of its features, which a checkpoint does not hold. No code in the file is executed.
    Raises `EmgscribeError` where the file is not such a checkpoint, is damaged, or refers to what no checkpoint needs.
    """
    path = Path(path)
    if trained_on == LATEST:
        hint = "name a published one, such as generic, or leave it out where it is unknown"
        raise EmgscribeError("latest is not a published split", where="--trained-on", hint=hint)
    tensors = _state(path)
    try:
        model = _model(tensors, hop)
    except EmgscribeError as error:
        raise EmgscribeError(error.what, where=str(path), hint=error.hint or _HINT) from error
    if trained_on is None:
        model.ancestry = Ancestry(complete=False)
    else:
        seen = [[Seen("", name, user) for name, user in published_names(trained_on, part)] for part in ("train", "val")]
        model.ancestry = Ancestry(tuple(seen[0]), tuple(seen[1]))
    return model.eval()


def export_checkpoint(model: Model, path: Path | str) -> None:
    """Write a model as a checkpoint that the published code loads. Raises `EmgscribeError` for a network it lacks."""
    theirs = {name: value.detach().cpu().contiguous() for name, value in _published(model).items()}
    encoder = model.config.encoder
    assert isinstance(encoder, TdsConfig)
    content = {
        "epoch": 0,
        "global_step": 0,
        "pytorch-lightning_version": version("lightning"),
        "state_dict": theirs,
        "hyper_parameters": {
            "in_features": model.shape.electrodes * model.features.bins,
            "mlp_features": [encoder.mlp_features],
            "block_channels": [encoder.channels] * encoder.blocks,
            "kernel_width": encoder.kernel,
        },
    }
    torch.save(content, whole := BytesIO())
    with replacing(Path(path)) as temporary:
        temporary.write_bytes(whole.getbuffer())


def _published(model: Model) -> dict[str, Tensor]:
    """The weights by their published names."""
    encoder, features, plain = model.config.encoder, model.config.features, TdsConfig()
    sizes = {"mlp_features", "blocks", "channels", "kernel", "lookahead"}
    other = {name for name in vars(plain) if getattr(encoder, name, None) != getattr(plain, name)} - sizes
    if not isinstance(encoder, TdsConfig) or other or model.attention or model.shape != Shape():
        what = "the published code has no such network: its own has TDS blocks after MLPs, on both bands"
        raise EmgscribeError(what, hint="export a model of the baseline's kind")
    if not isinstance(features, SpectrogramConfig) or features.seen(model.shape) != (2, 16) or features.edges:
        raise EmgscribeError("the published network reads spectrograms of all electrodes", hint="export such a model")
    weights = model.state_dict()
    return {theirs: _moved(weights[ours], encoder, there, back=True) for ours, theirs, there in _places(encoder)}


def _model(tensors: Mapping[str, Tensor], hop: int) -> Model:
    """The model that the published weights belong to."""

    def size(name: str, axes: int) -> tuple[int, ...]:
        found = tensors.get(name)
        if found is None or found.ndim != axes:
            there = "missing" if found is None else f"of shape {list(found.shape)}"
            raise EmgscribeError(f"is not a checkpoint of the published network: {name} is {there}")
        return tuple(found.shape)

    mlp, inputs = size("model.1.mlps.0.mlp.0.weight", 2)
    channels, _, _, kernel = size("model.3.tds_conv_blocks.0.conv2d.weight", 4)
    blocks = len([name for name in tensors if re.fullmatch(r"model\.3\.tds_conv_blocks\.\d+\.conv2d\.weight", name)])
    bins, rest = divmod(inputs, Shape().electrodes)
    if rest or bins < 2:
        raise EmgscribeError(f"has {inputs} features of a band, which {Shape().electrodes} electrodes cannot have")
    ahead = min(_AHEAD, blocks * (kernel - 1))
    encoder = TdsConfig(mlp_features=mlp, blocks=blocks, channels=channels, kernel=kernel, lookahead=ahead)
    model = Model(ModelConfig(SpectrogramConfig(n_fft=2 * (bins - 1), hop=hop), encoder))
    needed = model.state_dict()
    names = {theirs: ours for ours, theirs, _ in _places(encoder)}
    if strange := sorted(tensors.keys() ^ names.keys()):
        kind = "lacks" if strange[0] in names else "has further weights:"
        raise EmgscribeError(f"is not a checkpoint of the published network: it {kind} {strange[0]:.80}")
    ours = {}
    for name, theirs, there in _places(encoder):
        fits = tensors[theirs].numel() == needed[name].numel() and tensors[theirs].ndim == needed[name].ndim
        moved = _moved(tensors[theirs], encoder, there) if fits else tensors[theirs]
        if moved.shape != needed[name].shape or not moved.isfinite().all():
            fault = f"of shape {list(tensors[theirs].shape)}" if moved.isfinite().all() else "not finite"
            raise EmgscribeError(f"is not a checkpoint of the published network: {theirs} is {fault}")
        ours[name] = moved.to(needed[name].dtype)
    model.load_state_dict(ours)
    return model


def _places(encoder: TdsConfig) -> Iterator[tuple[str, str, str]]:
    """(our name, published name, where the width is) of each weight: rows, columns, both, band, conv, or nowhere."""
    for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        yield f"encoder.norm.norm.{name}", f"model.0.batch_norm.{name}", ""
    for name, conv, both, columns in (("weight", "conv", "both", "columns"), ("bias", "", "rows", "")):
        for band in range(2):
            yield f"encoder.mlp.layers.{band}.{name}", f"model.1.mlps.{band}.mlp.0.{name}", "band"
        for number in range(2 * encoder.blocks):
            ours, theirs = f"encoder.blocks.{number}", f"model.3.tds_conv_blocks.{number}"
            yield f"{ours}.norm.{name}", f"{theirs}.layer_norm.{name}", "rows"
            if number % 2 == 0:
                yield f"{ours}.conv.{name}", f"{theirs}.conv2d.{name}", conv
            else:
                yield f"{ours}.inner.{name}", f"{theirs}.fc_block.0.{name}", both
                yield f"{ours}.outer.{name}", f"{theirs}.fc_block.2.{name}", both
        yield f"head.{name}", f"model.4.{name}", columns


def _moved(weights: Tensor, encoder: TdsConfig, there: str, *, back: bool = False) -> Tensor:
    """Published weights in our order, or with `back` ours in the published one."""
    if there == "conv":
        return weights.transpose(2, 3)

    def turned(size: int, channels: int) -> Tensor:
        shape = (-1, channels) if back else (channels, -1)
        return torch.arange(size).view(shape).T.flatten()

    if there == "band":  # each band has half of the channels
        return weights[turned(len(weights), encoder.channels // 2)]
    if there in ("rows", "both"):
        weights = weights[turned(len(weights), encoder.channels)]
    if there in ("columns", "both"):
        weights = weights[:, turned(weights.shape[1], encoder.channels)]
    return weights


def _state(path: Path) -> dict[str, Tensor]:
    """The weights in a checkpoint by name."""
    with open_file(path) as file:
        if file.read(len(_POINTER)) == _POINTER:
            hint = "fetch the file itself: git lfs pull, in its repository"
            raise EmgscribeError("is a Git LFS pointer, not the file that it points to", where=str(path), hint=hint)
    try:
        with damage_reported(path, "is damaged, or not a checkpoint"), ZipFile(path) as parts:
            content = _read(parts, path.stat().st_size)
    except EmgscribeError as error:
        raise EmgscribeError(error.what, where=str(path), hint=error.hint or _HINT) from error
    state = content.get("state_dict", content) if isinstance(content, dict) else {}
    found = dict(state.items()) if isinstance(state, dict) else {}
    if not found or not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in found.items()):
        raise EmgscribeError("holds no weights by name (state_dict)", where=str(path), hint=_HINT)
    return found


def _read(parts: ZipFile, size: int) -> Any:
    names = [name for name in parts.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(names) != 1:
        raise EmgscribeError("is not a PyTorch checkpoint: it holds no data.pkl")
    if sum(part.file_size for part in parts.infolist()) > size or parts.getinfo(names[0]).file_size > _MAX_PICKLE:
        raise EmgscribeError("is not a PyTorch checkpoint: its parts are larger than the file")
    if changed := parts.testzip():
        raise EmgscribeError(f"is damaged (the bytes of {changed} have changed)", hint="copy or download it again")
    return _Tensors(parts, names[0]).load()


class _Inert(dict[Any, Any]):
    """Stands for an object that a checkpoint refers to: accepts everything and does nothing."""

    def __new__(cls, *_: object, **__: object) -> "_Inert":
        return dict.__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        super().__init__()

    def __setstate__(self, _: object) -> None:
        pass

    def nothing(self, *_: object) -> None:
        pass

    append = extend = add = nothing


class _Names(dict[Any, Any]):
    """An ordered dictionary of weights; the attributes that PyTorch gives it are dropped."""

    def __setstate__(self, _: object) -> None:
        pass


class _Tensors(pickle.Unpickler):
    """Reads the pickle of a checkpoint. A name stands for what is listed here or for an inert object, or is refused."""

    def __init__(self, parts: ZipFile, name: str) -> None:
        super().__init__(BytesIO(parts.read(name)))
        self.parts, self.folder = parts, name.rpartition("/")[0]
        self.known: dict[str, Any] = {f"torch.{name}": kind for name, kind in _KINDS.items()}
        rebuild = {"_rebuild_tensor_v2": _tensor, "_rebuild_parameter": lambda one, *_: one}
        self.known |= {f"torch._utils.{name}": function for name, function in rebuild.items()}
        self.known["collections.OrderedDict"] = _Names

    def find_class(self, module: str, name: str) -> Any:
        place = f"{module}.{name}"
        plain = module in ("builtins", "__builtin__") and name in _PLAIN
        if place in self.known or plain or _INERT.fullmatch(module):
            return self.known.get(place, _Inert)
        what = f"refers to {place:.80}, which no checkpoint needs: it may be an attack. Nothing of it was executed"
        raise EmgscribeError(what, hint="do not open it with other programs; get the checkpoint from its authors")

    def persistent_load(self, pid: Any) -> Tensor:
        _, kind, key, _, count = pid
        data = self.parts.read(f"{self.folder}/data/{key}")
        if len(data) != count * kind.itemsize:
            raise EmgscribeError(f"is damaged (weights {key} have {len(data)} bytes)")
        return torch.frombuffer(bytearray(data), dtype=kind) if data else torch.empty(0, dtype=kind)


def _tensor(stored: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object) -> Tensor:
    """The tensor of a storage; sizes that would make more numbers than are stored are refused."""
    if math.prod(size) > len(stored):
        raise EmgscribeError(f"is damaged (weights of shape {list(size)} from {len(stored)} numbers)")
    return stored.as_strided(size, stride, offset).clone()
