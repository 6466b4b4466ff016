"""How the fuzzed tests run: a few examples, always the same; with MLBOOK_FUZZ=2000 so many, other ones each time."""

import os
import tempfile

import hypothesis
from hypothesis import HealthCheck, settings

KEPT = tempfile.TemporaryDirectory(prefix="hypothesis-")
hypothesis.configuration.set_hypothesis_home_dir(
    KEPT.name
)  # what Hypothesis writes goes there, and then away

EXAMPLES = os.environ.get("MLBOOK_FUZZ")
fuzzed = settings(
    max_examples=int(EXAMPLES or 40),
    derandomize=EXAMPLES is None,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
