"""How the properties are tested: as long as they take, since a busy machine is no fault of theirs. What many need."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest
from hypothesis import HealthCheck, settings
from sqlite_utils import Database

settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


@pytest.fixture
def closed_after() -> Iterator[Callable[[Database], Database]]:
    """Gives back the database that it is given, and closes it after the test: Python 3.13 warns where nobody does."""
    with ExitStack() as databases:
        yield lambda db: databases.enter_context(closing(db))
