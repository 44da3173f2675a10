"""Verbs about what a search found: front, export, compare, rebuild."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mergefront.cli.options import Json, RunName, Runs, WrittenDtype
from mergefront.cli.terminal import emit_json, out, say, table, tensor_bar


def front(
    run: RunName,
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """Print the validated front: scores, paired gains over the receiver with 95 % intervals.

    mergefront front digits
    """
    from mergefront.cli.display import print_front
    from mergefront.runs.front import read_front
    from mergefront.runs.reference import open_run
    from mergefront.runs.status import status_of
    from mergefront.stats.text import plural

    front = read_front(open_run(runs, run))
    if as_json:
        emit_json(front.to_dict())
        return
    print_front(front)
    later = status_of(runs, run).candidates - front.candidates
    if later:
        say(f"note: {plural(later, 'candidate')} came later; run the search to its end")


def export(
    run: RunName,
    destination: Annotated[Path, typer.Option("--out", help="Folder to make.")],
    pick: Annotated[
        str,
        typer.Option(
            help="Candidate to write: knee, guarded, best:OBJECTIVE, "
            "weighted:OBJECTIVE=2,OTHER=1, or a candidate's number."
        ),
    ] = "knee",
    runs: Runs = Path("runs"),
    dtype: WrittenDtype = "auto",
    as_json: Json = False,
) -> None:
    """Write a candidate as a complete Hugging Face checkpoint, verified against what was scored.

    mergefront export digits --pick best:reasoning --out merged

    The checkpoint must load in transformers without missing or unexpected tensors, and a fresh
    engine must have the parameter hashes that were scored; otherwise no folder appears. The scored
    questions are asked once more, and the answers that differ are counted.

    With --dtype the same merge is written in another floating type (see merge --help). Hashes are
    compared only if the search's engine computed in that type, on weights of that type or float32:
    otherwise these are not the weights that were scored.
    """
    from mergefront.jobs.artifacts import export_pick
    from mergefront.runs.reference import open_run

    directory = open_run(runs, run)
    with tensor_bar() as progress:
        verified = export_pick(
            directory, pick, destination, progress=progress, say=say, dtype=dtype
        )
    if as_json:
        emit_json({"folder": str(destination), **verified.to_dict()})
        return
    typer.echo(destination)
    for line in verified.sentences():
        say(line)


def compare(
    references: Annotated[
        list[str],
        typer.Argument(
            help="Candidates: RUN:knee, RUN:best:OBJECTIVE, RUN:17, RUN or recipe.json."
        ),
    ],
    folder: Annotated[
        Path | None, typer.Option("--out", help="Folder for profiles.png and profiles.svg.")
    ] = None,
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """Compare layer-weight profiles: a table and distances, and a figure by source and part.

    mergefront compare digits:knee digits:best:reasoning --out profiles
    """
    from mergefront.runs import plots
    from mergefront.runs.compare import compare_profiles, read_profile

    comparison = compare_profiles([read_profile(reference, runs) for reference in references])
    if folder is not None:
        figure = plots.profile_figure(comparison.labels, comparison.profiles)
        for path in plots.save(figure, folder, "profiles"):
            say(f"drew {path}")
    if as_json:
        emit_json(comparison.to_dict())
        return
    for title, columns, rows in comparison.tables():
        out.print(table(title, columns, rows))


def rebuild(
    run: RunName,
    runs: Runs = Path("runs"),
) -> None:
    """Make front.json, figures, report and the MLflow run anew from the study and item files.

    mergefront rebuild digits
    """
    from mergefront.jobs.artifacts import rebuild_artifacts
    from mergefront.runs.reference import open_run

    for line in rebuild_artifacts(open_run(runs, run), say):
        out.print(line)
