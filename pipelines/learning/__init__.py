"""How a model learns: losses (pure), packed batches, schedules, the DeepSpeed engine and the loop around it. No Ray."""

from __future__ import annotations

import logging

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # on a CPU it tells every process what it lacks
