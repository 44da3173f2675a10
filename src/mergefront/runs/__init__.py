"""One run on disk, read back: what it holds, what it found, how it is shown.

Reading order: `directory` (the files), `study` (Optuna's journal), `history` (what is recorded of
candidates), `units` (paired items), `belief` (the model of all candidates), `members` (members
and picks), `gains` (over the receiver), `front` (what front.json says) and `summary` (how it is
computed). Then `reference` (RUN:PICK), `reopen` (a run's space, models and candidates), `earlier`
(another run's front as warm starts), `status` and `compare`. `plots/`, `report/` and `tracking/`
show a run. Nothing here needs an engine.
"""
