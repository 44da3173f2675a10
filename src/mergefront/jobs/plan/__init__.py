"""`mergefront plan`: what a search would do, download, need and take, before anything is loaded.

Checked without weights: the configuration, its space and tasks; of models, config.json and tensor
headers, from disk or asked of the hub. Not here: what only tensors can tell (`inspect` and
`models.lineage`), and what is installed (`doctor`).

Reading order: `planner` (the whole plan), `facts` (what is known of a model), `backbone` (do the
models fit), `cost` and `memory` (dimensions, items, questions, time, GiB), `checks` (what to warn
of), `tables` (a plan for a person to read).
"""

from mergefront.jobs.plan.facts import Hub, Remark
from mergefront.jobs.plan.planner import RunForecast, make_plan

__all__ = ["Hub", "Remark", "RunForecast", "make_plan"]
