"""What is told on standard error."""

import logging

from llmproxy.errors import ResponseCut


class _NotACut(logging.Filter):
    """Leaves out uvicorn's traceback for a response that we broke off on purpose: it has been told in one line."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], ResponseCut))


def set_up_logging(level: int = logging.INFO) -> None:
    """Log to standard error, one line a message. Libraries speak of trouble only: some log URLs with keys."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True)
    logging.getLogger("llmproxy").setLevel(level)
    logging.getLogger("uvicorn.error").addFilter(_NotACut())
