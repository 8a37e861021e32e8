"""Matrix products in bf16 where the processor does them many times faster."""

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path

import torch

QUICK = ("amx_bf16", "avx512_bf16")
"""What a processor that multiplies bf16 natively calls it: Intel's tiles, and vectors (AMD from Zen 4 on, Intel)."""


@cache
def has_quick_bf16() -> bool:
    """Whether the processor multiplies bf16 several times faster than fp32; known on Linux only."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return any(name in flags for name in QUICK)


def quick_products() -> AbstractContextManager[object]:
    """Autocast to bf16 on such a CPU, nothing elsewhere. Results differ by bf16's rounding, about 0.4 %."""
    return torch.autocast("cpu", torch.bfloat16) if has_quick_bf16() else nullcontext()
