"""How much is tried: in CI always the same, by hand as much as there is time for.

``HYPOTHESIS_PROFILE=long python -m pytest tests/engine/fuzz`` tries other examples each
time, 3000 of each kind (``FUZZ_EXAMPLES`` of them, if that is set).
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# The files of an example may take longer than Hypothesis thinks right.
SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
settings.register_profile(
    "ci",
    derandomize=True,
    deadline=None,
    max_examples=60,
    database=None,
    suppress_health_check=SLOW,
)
settings.register_profile(
    "long",
    deadline=None,
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "3000")),
    print_blob=True,
    suppress_health_check=SLOW,
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
