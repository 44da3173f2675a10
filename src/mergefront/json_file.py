"""JSON that others wrote: read within limits, so that no file can hang or kill a process.

Python's own reader takes any size, objects that name a key twice, and numbers of 4,300 digits; it
answers deep nesting by RecursionError, and other readers (pyarrow's) by a crash. Not here: what a
file means. Callers name the file in their own errors.

Reading order: `parse_json`, `nesting`.
"""

from __future__ import annotations

import json
from itertools import accumulate
from typing import Any, Final

DEEPEST: Final = 200
"""Objects and lists inside each other."""
LARGEST_DOCUMENT: Final = 1 << 24
"""Bytes of a recipe or a model's configuration."""
LARGEST_INDEX: Final = 1 << 28
"""Bytes of a file with an entry for each tensor or token."""


def parse_json(
    data: bytes | str, most_bytes: int = LARGEST_DOCUMENT, *, strict: bool = True
) -> Any:
    """Read JSON.

    Args:
        data: the document, as text or in UTF-8.
        most_bytes: its largest size.
        strict: refuse an object that names a key twice, and half a surrogate pair, which no file
            can hold in UTF-8.

    Raises:
        ValueError: in one sentence, what was found and what is expected.
    """
    text = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    if len(text) > most_bytes:
        raise ValueError(f"it has {len(text):,} bytes, expected at most {most_bytes:,}")
    if (depth := nesting(text)) > DEEPEST:
        raise ValueError(f"it is nested {depth:,} deep, expected at most {DEEPEST}")
    try:
        content = json.loads(text, object_pairs_hook=_unique if strict else None)
    except RecursionError:
        raise ValueError(f"it is nested too deeply, expected at most {DEEPEST}") from None
    if strict and b"\\ud" in text.lower():
        try:
            json.dumps(content, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("a text holds half a surrogate pair, expected characters") from None
    return content


def nesting(data: bytes) -> int:
    """Return how deeply JSON is nested, exact up to its first error; 0 if it surely is not deep."""
    if data.count(b"[") + data.count(b"{") <= DEEPEST:
        return 0
    without_escapes = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    outside_texts = b"".join(without_escapes.split(b'"')[::2])
    steps = (1 if byte in b"[{" else -1 for byte in outside_texts if byte in b"[]{}")
    return max(accumulate(steps), default=0)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a key that is given twice, of which Python would keep the last."""
    document = dict(pairs)
    if len(document) < len(pairs):
        keys: set[str] = set()
        for key, _ in pairs:
            if key in keys:
                raise ValueError(f"key {key[:100]!r} is given twice, expected once")
            keys.add(key)
    return document
