"""Paths of the providers' APIs that hold no conversation: there is nothing to learn from their bodies."""

import re

# https://platform.openai.com/docs/api-reference, https://docs.anthropic.com/en/api; a part before it is needed, since
# an upstream may have such a name.
_NO_CONVERSATION = re.compile(
    r"./(files|uploads|audio|images|videos|moderations|batches|fine_tuning|vector_stores|organizations?|oauth2?)(/|$)"
    r"|/(count_tokens|input_tokens)$|/realtime/(client_secrets|sessions|transcription_sessions)$|^/oauth2?/"
)


def holds_no_conversation(path: str) -> bool:
    """Whether a request to this path (a query is ignored) is known to be no model's conversation: counted tokens,
    files, audio, images, batches, keys and the like."""
    return _NO_CONVERSATION.search(path.partition("?")[0].rstrip("/")) is not None
