"""The architectures: `ENCODERS` names the configuration of each; a new one is one file here and one line below."""

from emgscribe.config import register_kinds
from emgscribe.encoders.contract import Encoder, EncoderConfig
from emgscribe.encoders.tds import TdsConfig

__all__ = ["ENCODERS", "Encoder", "EncoderConfig", "TdsConfig"]

ENCODERS: dict[str, type[EncoderConfig]] = {
    "tds": TdsConfig,
}
register_kinds(EncoderConfig, ENCODERS, "encoder")
