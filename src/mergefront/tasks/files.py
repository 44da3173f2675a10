"""Files that are read without `datasets`: CSV tables, and zip files of images."""

from __future__ import annotations

import csv
import zipfile
from pathlib import Path

from mergefront.errors import UserError
from mergefront.tasks.cells import Row
from mergefront.tasks.spec import Task


def zip_of(task: Task, path: Path | None) -> zipfile.ZipFile | None:
    """The archive of images that a task names. Raises UserError if it cannot be read."""
    if path is None:
        return None
    try:
        return zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(
            f"task {task.name}: the archive {path} cannot be read: {error}",
            hint="data.archive names a zip file",
        ) from None


def csv_rows(task: Task, file: Path) -> list[Row]:
    """Rows of a CSV file, every cell as it is written: nothing is guessed, a blank is no gap.

    Lines and last columns that are blank throughout, as spreadsheets write them, are no data, nor
    are spaces around a column's name.

    Raises:
        UserError: it cannot be read, or a line has more or fewer cells than the first.
    """
    rows: list[Row] = []
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            header = [name.strip() for name in next(reader, [])]
            while header and not header[-1]:
                header.pop()
            if len(set(header)) != len(header):
                raise csv.Error("its first line names a column twice")
            for cells in reader:
                if not any(map(str.strip, cells)):
                    continue
                while len(cells) > len(header) and not cells[-1].strip():
                    cells.pop()
                if len(cells) != len(header):
                    raise csv.Error(
                        f"line {reader.line_num} has {len(cells)} cells, the first {len(header)}"
                    )
                rows.append(dict(zip(header, cells, strict=True)))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"task {task.name}: {file} cannot be read: {error}",
            hint="save it as CSV in UTF-8: commas between cells, quotes around cells with commas",
        ) from error
    return rows
