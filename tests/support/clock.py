"""How long something took, as finely as any system's clock can tell."""

from __future__ import annotations

import time

# Seconds: Windows' monotonic clock goes in steps of up to 15.6 ms, and a wait may begin and end
# anywhere in a step. A difference of two readings is also rounded.
TICK = 0.016


def lasted(began: float, seconds: float) -> bool:
    """Whether `seconds` have passed since `time.monotonic()` was `began`."""
    return time.monotonic() - began >= seconds - TICK
