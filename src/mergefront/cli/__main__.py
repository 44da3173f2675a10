"""`python -m mergefront.cli` is the `mergefront` command."""

from __future__ import annotations

from mergefront.cli import main

main()
