"""The verb that looks ahead: plan."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mergefront.cli.terminal import Json, emit_json, err, out, table

if TYPE_CHECKING:
    from mergefront.jobs.plan import Plan, Remark


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel="Search")(plan)


def plan(
    config: Annotated[str, typer.Argument(help="A YAML file, or the name of a shipped one.")],
    offline: Annotated[
        bool, typer.Option("--offline", help="Ask the hub nothing: only what is here is read.")
    ] = False,
    gpu_gb: Annotated[
        float | None,
        typer.Option(min=0.1, help="Memory of one GPU in GiB; default: of this machine's."),
    ] = None,
    seconds_per_1000_items: Annotated[
        float | None,
        typer.Option(min=0.0, help="Time of 1,000 questions; default: as earlier runs measured."),
    ] = None,
    runs: Annotated[Path, typer.Option("--runs", help="Directory that holds the runs.")] = Path(
        "runs"
    ),
    as_json: Json = False,
) -> None:
    """Say what a search would do, download, need and take, without loading any weights.

    Checks the configuration, its space and tasks, whether the donors fit the receiver, memory and
    time. Of models that are not here, config.json and tensor headers are asked of the hub.
    Exits with 2 if something cannot work.

    mergefront plan qwen2.5-vl-r1 --gpu-gb 80 --seconds-per-1000-items 60
    """
    from mergefront.jobs.plan import Hub, make_plan

    with err.status("reading configuration and models"):
        found = make_plan(
            config,
            hub=None if offline else Hub(),
            gpu_gib=_gpu_gib() if gpu_gb is None else gpu_gb,
            seconds_per_1000=seconds_per_1000_items,
            runs=runs,
        )
    if as_json:
        emit_json(found.to_dict())
    else:
        _show(found)
    if not found.works:
        raise typer.Exit(2)


def _show(found: Plan) -> None:
    from mergefront.jobs.plan.tables import tables

    for title, columns, rows in tables(found):
        out.print(title, style="bold", markup=False, soft_wrap=True)
        shown = table("", columns, rows)
        for column in shown.columns:
            column.justify = "left"
        out.print(shown)
        out.print()
    for remark in found.remarks:
        _print(remark)
    out.print(_last_line(found.works))


def _print(remark: Remark) -> None:
    style = {"error": "red", "warning": "yellow", "note": "cyan"}[remark.level]
    out.print(f"[{style}]{remark.level}[/{style}] ", end="")
    line = f"{remark.subject}: {remark.message}"
    out.print(f"{line}; {remark.mend}" if remark.mend else line, markup=False, soft_wrap=True)


def _last_line(works: bool) -> str:
    if works:
        return "nothing found that stands against this search; what is not known is marked with ?"
    return "this search cannot work as it is"


def _gpu_gib() -> float | None:
    """Memory of this machine's first GPU; None without one."""
    import torch

    if not torch.cuda.is_available():
        return None
    return float(torch.cuda.get_device_properties(0).total_memory) / (1 << 30)
