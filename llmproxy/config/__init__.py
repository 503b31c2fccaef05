"""The configuration: read once from flags, environment and YAML, validated, frozen.

`load` is the door. What it returns is a value; nothing in it is looked up again while the proxy runs.
"""

from llmproxy.config.errors import ConfigError
from llmproxy.config.reading import load
from llmproxy.config.settings import (
    AskConfig,
    CaptureConfig,
    Config,
    PriceConfig,
    SecurityConfig,
    UpstreamConfig,
    llm_user_dir,
)

__all__ = [
    "AskConfig",
    "CaptureConfig",
    "Config",
    "ConfigError",
    "PriceConfig",
    "SecurityConfig",
    "UpstreamConfig",
    "llm_user_dir",
    "load",
]
