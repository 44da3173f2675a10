"""The commented configuration that `mergefront init` writes."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mergefront.errors import UserError

_TEMPLATE = """\
# yaml-language-server: $schema=./run.schema.json
# (write that schema with: mergefront schema run > run.schema.json)
format: mergefront/run@1
name: {name}                       # the directory under runs/

receiver: {receiver}               # the VLM: a folder, a hub id, or zoo:NAME
# revision: <commit>               # pin a hub model, so that a resume finds the same weights
base: {base}                       # the common ancestor that the donors were fine-tuned from
donors:                            # alias: {{model, revision, base}}; a donor may name its own base
{donors}

# knobs_by_part suits a night; uniform (one coefficient a donor) is the baseline to beat.
# For models larger than the zoo copy the file and lower `high` to 0.3 and `start` to 0.1:
# real pairs can collapse at 0.1 to 0.2.
space: knobs_by_part

objectives:                        # the first is the one to gain, the others are to keep
  reasoning: [{reasoning}]         # task names, or paths of task files
  perception: [{perception}]
items: {{search: 400, validation: 1000, test: 2000}}  # per objective; s.e. ~ 0.5/sqrt(n)

search: {{sampler: como-cma, seed: 0, warm_start: [receiver, uniform]}}
budget: {{candidates: 200, hours: 8}}                   # hours include validation, test and export
engine: {{kind: vllm, dtype: auto}}
export: knee                       # what is written to runs/{name}/best: knee, best:reasoning, ...
"""


def starter_config(receiver: str, donors: Sequence[str], base: str | None, *, name: str) -> str:
    """YAML text for `mergefront init`.

    Raises:
        UserError: two donors come down to the same alias.
    """
    aliases: dict[str, str] = {}
    for donor in donors:
        alias = re.sub(r"\W+", "_", donor.rstrip("/").rsplit("/", 1)[-1].rsplit(":", 1)[-1])
        alias = alias.strip("_").lower()
        alias = alias if alias.isidentifier() else f"donor_{alias}"
        if alias in aliases:
            raise UserError(
                f"the donors {aliases[alias]} and {donor} have the same name {alias}",
                hint="write the configuration for one and add the other by hand",
            )
        aliases[alias] = donor
    zoo = receiver.startswith("zoo:")
    return _TEMPLATE.format(
        name=re.sub(r"[^A-Za-z0-9._-]", "-", name),
        receiver=receiver,
        base=base if base is not None else "null",
        donors="\n".join(f"  {alias}: {{model: {model}}}" for alias, model in aliases.items()),
        reasoning="digits_reasoning" if zoo else "tasks/my_reasoning.yaml",
        perception="digits_perception" if zoo else "tasks/my_perception.yaml",
    )
