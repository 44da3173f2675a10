"""The search: propose, build, ask, mark, race, record; then validate and pick.

Reading order: `setup` (everything that can be wrong is found before an engine starts), `loop` (the
main loop), `race` (which candidates leave early), `sampler`, `warm_starts`, `stopping`, `finish`
(validation, test, the reported front).
"""
