"""What is done once, each by a verb of the command line; the loop of a search is in `search`.

Reading order: `starter` (init, schema), `plan`, `inspect`, `export` and `verify` (merge, export),
`card` (the model card of an export), `artifacts` (what a finished search leaves; rebuild), `score`,
`power` and `check_task` (tasks power, tasks check), `doctor`, `zoo`.
"""
