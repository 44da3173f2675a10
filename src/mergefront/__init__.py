"""mergefront: an evolutionary merge-search optimizer for vision-language models.

Reading order: `records`, `config` (what a run is), `anatomy` and `merging` (where a coefficient
becomes a weight), `space` and `recipe` (where a point becomes coefficients), `engine` (where a
recipe becomes answers), `search` (the main loop), `select` (where a score becomes a front).
"""

from __future__ import annotations

__version__ = "0.3.0"
