"""What is done once, each by a verb: plan, score, inspect, export, verify, start, check, conclude.

Reading order: `start` (a first configuration), `plan` (what a run would need), `inspect` (what
would merge), `score` (any model on any task), `power` (how many items a difference needs),
`check_task` (what a task file makes of its data), `conclude` (a finished search's report, pictures
and export), `export`, `verify`, `card`, `doctor`. The loop of a search is not here (`search`).
"""
