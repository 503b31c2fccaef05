"""`options` of a foreign stream."""

from typing import Annotated
from urllib.parse import parse_qsl, urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator


def _service_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ValueError(f"{url!r} is no URL") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("give a URL such as http://127.0.0.1:8000/stream?topNDocuments=3")
    if parts.fragment or not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("a URL has no spaces, no letters beyond ASCII (write them as %XX), and here no #fragment")
    return url


class Options(BaseModel):
    """What the adapter is told.

    - `url`: the service's, with a query of its own if it wants one; `query_parameter` is added to it.
    - `model`: the name under which the service is offered.
    - `timeout`: seconds that the service may be silent, before its answer and in it.
    - `citations_heading`: stands above the bullets; "" for none.
    - `separator`: is put between words, for a service that sends them without their spaces.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    url: Annotated[str, AfterValidator(_service_url)]
    model: str = Field(default="search", min_length=1)
    query_parameter: str = Field(default="search_query", min_length=1)
    timeout: float = Field(default=60, gt=0, le=3600, allow_inf_nan=False)
    citations_heading: str = "Citations:"
    separator: str = ""

    @model_validator(mode="after")
    def _one_query(self) -> "Options":
        if any(name == self.query_parameter for name, _ in parse_qsl(urlsplit(self.url).query, keep_blank_values=True)):
            raise ValueError(f"url has a {self.query_parameter} already; leave it out, the question is put there")
        return self
