"""The search: propose, build, ask, mark, race, record; then validate and pick.

Reading order: `setup` (everything that can go wrong before an engine starts), `loop` (the main
loop), `race` (who leaves early), `sampler`, `warm_starts`, `stopping`, `finish` (validation, test,
the reported front).
"""
