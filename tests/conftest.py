"""Session-wide settings of the tests."""

from __future__ import annotations

import os

# Before torch is imported anywhere: the machine may be shared, and one thread repeats itself.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
