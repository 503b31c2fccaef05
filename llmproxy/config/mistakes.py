"""What pydantic found wrong, in lines for the user."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from llmproxy.config.errors import no_such
from llmproxy.config.settings import AskConfig, CaptureConfig, Config, PriceConfig, SecurityConfig, UpstreamConfig


def explain(error: ValidationError, places: Sequence[tuple[str, Mapping[str, Any]]], file: str) -> str:
    """The first mistakes, one line each: place, key, what is wrong, the mend. No value is shown: it may be a key.

    `places`: what wins over the file, the first most, with its settings.
    """
    lines = []
    for mistake in error.errors()[:3]:
        key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in mistake["loc"]).lstrip(".")
        if mistake["type"] == "extra_forbidden":
            text = no_such(str(mistake["loc"][-1]), _fields_at(mistake["loc"][:-1]))
        else:
            text = mistake["msg"].removeprefix("Value error, ")
        place = next((name for name, settings in places if _holds(settings, mistake["loc"])), file)
        lines.append(f"{place}: {key}: {text}" if key else f"{place}: {text}")
    return "\n".join(lines)


def _holds(settings: Any, location: tuple[int | str, ...]) -> bool:
    for part in location:
        if not isinstance(settings, Mapping):
            break  # a list or a plain value is given whole
        if part not in settings:
            return False
        settings = settings[part]
    return bool(location)


def _fields_at(location: tuple[int | str, ...]) -> list[str]:
    models: dict[str, type[BaseModel]] = {
        "upstreams": UpstreamConfig,
        "capture": CaptureConfig,
        "security": SecurityConfig,
        "prices": PriceConfig,
        "ask": AskConfig,
    }
    model = models[str(location[0])] if location else Config
    return list(model.model_fields)
