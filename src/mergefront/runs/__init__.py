"""One run on disk, read back: what it holds, what it found, how it is shown.

Reading order: `directory` (the files), `study` (Optuna's journal), `history` (candidates and their
estimates), `units` (paired items), `belief` (the model of all candidates), `members`, `front`,
`reopen` (the space and the models of a run), `earlier` (another run's front as warm starts),
`status`, `compare`; `plots/`, `report/` and `tracking/` show it. Nothing here needs an engine.
"""
