import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import torch
from sptsr.core.allocator import keep_freed_memory

print(sys.argv[1] == 'kept' and keep_freed_memory())
for _ in range(8):  # until there is a place for them
    torch.ones(1 << 25)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    torch.ones(1 << 25)  # 128 MB
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(way: str) -> tuple[str, int]:
    run = subprocess.run([sys.executable, '-c', FAULTS, way], capture_output=True, text=True, check=True)
    could, faults = run.stdout.split()
    return could, int(faults)


def test_memory_that_was_freed_is_used_again():
    could, kept = _faults('kept')
    if could == 'False':
        pytest.skip('another C library than glibc')
    _, plainly = _faults('plainly')
    assert kept < plainly / 4
