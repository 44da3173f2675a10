"""Task files over rows and images of one's own."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image


def write_task(folder: Path, rows: list[dict[str, object]], **changes: object) -> Path:
    """A task over a jsonl file with one image a row."""
    for index, row in enumerate(rows):
        Image.new("RGB", (8, 8), (index % 256, index // 256, 0)).save(folder / f"{index}.png")
        row.setdefault("image", f"{index}.png")
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    fields = {"name": "mine", "data": {"path": "rows.jsonl"}, "rule": "exact", **changes}
    path = folder / "mine.yaml"
    path.write_text(json.dumps(fields))  # JSON is YAML
    return path
