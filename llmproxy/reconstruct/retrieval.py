"""A response that is asked for later: OpenAI answers a request in the `background` at once, with nothing, and the
client comes back for the answer (https://platform.openai.com/docs/guides/background)."""

import dataclasses
import re

from llmproxy.reconstruct.responses_request import read_request
from llmproxy.reconstruct.turn import Turn

_PATH = re.compile(r"/responses/[\w-]+$")
# Of a response, what it repeats of its request and what is not inherited from the turn that it answers.
_OF_THE_REQUEST = ("model", "instructions", "tools", "text")


def is_retrieval(method: str, path: str) -> bool:
    """Whether a request asks for a response by its id (a query is ignored)."""
    return method.upper() == "GET" and _PATH.search(path.partition("?")[0].rstrip("/")) is not None


def retrieved(turn: Turn) -> Turn | None:
    """The turn that went on with its own beginning: it points at the response that it is.

    `turn` is what the retrieved body was read as, by itself. None where it was not made in the background, has not
    ended yet, or says nothing.
    """
    response = turn.response_json
    if not isinstance(response, dict) or not response.get("background") or turn.response_id is None:
        return None
    if response.get("status") in ("queued", "in_progress") or not any(output.messages for output in turn.outputs):
        return None
    asked = read_request({field: response[field] for field in _OF_THE_REQUEST if field in response})
    return dataclasses.replace(
        turn,
        model=asked.model,
        input=asked.input,
        tools=asked.tools,
        schema=asked.schema,
        instructions=asked.instructions,
        previous_response_id=turn.response_id,
    )
