"""Freed memory is kept for the next tensor, where the C library can do that."""

import subprocess
import sys

import pytest
from package_fixtures import ROOT

PROBE = """
import resource, sys, torch
from mlbook.training.memory import keep_freed_memory
if sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit("not here")
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
x = torch.ones(16 * 2**20)  # 64 MiB
for _ in range(30): y = x * 2; del y
before = faults()
for _ in range(10): y = x * 2; del y
print(faults() - before)
"""


def faults(mode):
    answer = subprocess.run(
        [sys.executable, "-c", PROBE, mode], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if "not here" in answer.stderr:
        pytest.skip("not the GNU C library")
    assert answer.returncode == 0, answer.stderr
    return int(answer.stdout)


def test_large_tensors_take_the_memory_of_the_ones_before_them():
    kept = faults("keep")
    assert kept < 40_000  # of 163,840 pages; at times a block finds a new place
    assert faults("as it comes") > 2 * kept  # without, every new tensor is paged in again
