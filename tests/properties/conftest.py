"""Few examples, always the same, in the suite; many by `HYPOTHESIS_PROFILE=long pytest -n 0 tests/properties`."""

import os

from hypothesis import HealthCheck, settings

_SLOW = (HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much)
settings.register_profile("ci", max_examples=15, deadline=None, suppress_health_check=_SLOW, derandomize=True)
settings.register_profile("long", max_examples=1000, deadline=None, suppress_health_check=_SLOW)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
