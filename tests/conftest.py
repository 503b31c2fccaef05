"""How the properties are tested: as long as they take, since a busy machine is no fault of theirs."""

from hypothesis import HealthCheck, settings

settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")
