"""The models that can be chosen while the program runs."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from emgscribe.models.model import Model, best_device, load_model
from emgscribe.models.onnx import OnnxModel


def adapted_name(folder: Path) -> str:
    """How clients see an adapted model, which is the folder `best` of a run."""
    return f"adapted {folder.parent.name}"


class Models:
    """Folders and .onnx files, by the names that clients see. The model that was loaded last stays in memory."""

    def __init__(self, paths: Mapping[str, Path]) -> None:
        self._paths, self._origins = dict(paths), dict[str, Path]()
        self._loaded: dict[str, Model | OnnxModel] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)

    def load(self, name: str, lookahead: float) -> Model | OnnxModel:
        """A model, with this lookahead (s) if it has several."""
        if name not in self._loaded:
            folder = self.folder(name)
            self._loaded = {name: load_model(folder, best_device()) if folder else OnnxModel(self._paths[name])}
        model = self._loaded[name]
        return model.with_lookahead(lookahead) if isinstance(model, Model) and model.lookaheads else model

    def folder(self, name: str) -> Path | None:
        """The folder of a model; an exported one has none, nor what is kept there."""
        path = self._paths.get(name)
        return path if path and path.suffix != ".onnx" else None

    def add(self, folder: Path, origin: Path) -> str:
        """Offer a model that was adapted from the one in `origin`; returns its name."""
        name = adapted_name(folder)
        self._paths[name], self._origins[name] = folder, origin
        return name

    def origin(self, name: str) -> Path | None:
        """The folder to adapt from: of an adapted model that which it was made from, which has not seen the person."""
        return self._origins.get(name, self.folder(name))
