"""`python -m mergefront.cli` is the `mergefront` command."""

from mergefront.cli import main

main()
