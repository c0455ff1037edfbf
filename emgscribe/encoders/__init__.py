"""The architectures: `ENCODERS` names the configuration of each; a new one is one file here and one line below."""

import dataclasses
from typing import Any

from emgscribe.config import converter, require
from emgscribe.encoders.contract import Encoder, EncoderConfig
from emgscribe.encoders.tds import TdsConfig

__all__ = ["ENCODERS", "Encoder", "EncoderConfig", "TdsConfig"]

ENCODERS: dict[str, type[EncoderConfig]] = {
    "tds": TdsConfig,
}
_KINDS = {config: kind for kind, config in ENCODERS.items()}


def _to_json(config: EncoderConfig) -> dict[str, Any]:
    return {"kind": _KINDS[type(config)], **dataclasses.asdict(config)}


def _from_json(data: dict[str, Any], _: type) -> EncoderConfig:
    kind = data.get("kind")
    require(kind in ENCODERS, "encoder.kind", kind, ", ".join(ENCODERS))
    fields = {name: value for name, value in data.items() if name != "kind"}
    return converter.structure(fields, ENCODERS[str(kind)])


converter.register_structure_hook_func(lambda kind: kind is EncoderConfig, _from_json)
converter.register_unstructure_hook_func(lambda kind: kind is EncoderConfig or kind in _KINDS, _to_json)
