"""The architectures: `ENCODERS` names the configuration of each; a new one is one file here and one line below.

Most of them read the frames of another encoder (their field `on`), so that a combination is a value and not a file:
`RecurrentConfig(on=TdsConfig(dropout=0.3), cell="lstm")` is the TDS network with an LSTM behind it.
"""

import dataclasses
from typing import Any

from emgscribe.config import converter, require
from emgscribe.encoders.conformer import ConformerConfig
from emgscribe.encoders.contract import Encoder, EncoderConfig
from emgscribe.encoders.linear_recurrence import LinearRecurrenceConfig
from emgscribe.encoders.mlp import MlpConfig
from emgscribe.encoders.recurrent import RecurrentConfig
from emgscribe.encoders.residual_cnn import ResidualCnnConfig
from emgscribe.encoders.split_share import SplitShareConfig
from emgscribe.encoders.tds import TdsConfig
from emgscribe.encoders.transformer import TransformerConfig

__all__ = [
    "ENCODERS",
    "ConformerConfig",
    "Encoder",
    "EncoderConfig",
    "LinearRecurrenceConfig",
    "MlpConfig",
    "RecurrentConfig",
    "ResidualCnnConfig",
    "SplitShareConfig",
    "TdsConfig",
    "TransformerConfig",
]

ENCODERS: dict[str, type[EncoderConfig]] = {
    "tds": TdsConfig,
    "mlp": MlpConfig,
    "residual-cnn": ResidualCnnConfig,
    "recurrent": RecurrentConfig,
    "linear-recurrence": LinearRecurrenceConfig,
    "transformer": TransformerConfig,
    "conformer": ConformerConfig,
    "split-share": SplitShareConfig,
}
_KINDS = {config: kind for kind, config in ENCODERS.items()}


def _to_json(config: EncoderConfig) -> dict[str, Any]:
    fields = {field.name: converter.unstructure(getattr(config, field.name)) for field in dataclasses.fields(config)}
    return {"kind": _KINDS[type(config)], **fields}


def _from_json(data: dict[str, Any], _: type) -> EncoderConfig:
    kind = data.get("kind")
    require(kind in ENCODERS, "encoder.kind", kind, ", ".join(ENCODERS))
    fields = {name: value for name, value in data.items() if name != "kind"}
    return converter.structure(fields, ENCODERS[str(kind)])


converter.register_structure_hook_func(lambda kind: kind is EncoderConfig, _from_json)
converter.register_unstructure_hook_func(lambda kind: kind is EncoderConfig or kind in _KINDS, _to_json)
