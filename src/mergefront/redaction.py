"""Texts without secrets: what mergefront writes or shows goes through here.

Secrets are the password or token in an address (`https://name:password@host`, `?token=...`), and
the values of environment variables such as HF_TOKEN or MLFLOW_TRACKING_PASSWORD. A run's files hold
`***` in their place, so its clients need the secret from the environment once more.

Reading order: `without_secrets`, `without_redacted_part`, `RedactingFormatter`.
"""

from __future__ import annotations

import logging
import os
import re
from typing import Final

REDACTED: Final = "***"
_SHORTEST_SECRET: Final = 8
"""Shorter values of variables, such as `false`, would be replaced in the middle of words."""

_SECRET_VARIABLE: Final = re.compile(
    r"(TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_KEY|SECRET_KEY|PRIVATE_KEY)$", re.IGNORECASE
)
# Of a web address, the name may be the token, and an @ may stand in the path.
_WEB_USER: Final = re.compile(r"(\bhttps?://)[^\s/?#'\"]*@", re.IGNORECASE)
# Of a database's, the name stays, and SQLAlchemy takes an @ or a / in a password.
_DATABASE_PASSWORD: Final = re.compile(
    r"(\b(?!https?:|sqlite|file:)[a-z][a-z0-9+.-]*://[^\s:/@'\"]*):[^\s'\"]*@", re.IGNORECASE
)
_QUERY_SECRET: Final = re.compile(
    r"([?&;][^\s=&;#'\"]*(?:token|pass|pwd|secret|key|sig|auth|credential)[^\s=&;#'\"]*=)"
    r"[^\s&;#'\"]*",
    re.IGNORECASE,
)


def without_secrets(text: str) -> str:
    """Return a text with `***` in place of secrets in addresses and of secret variables' values."""
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST_SECRET and value in text and _SECRET_VARIABLE.search(name):
            text = text.replace(value, REDACTED)
    if "://" not in text:
        return text
    text = _WEB_USER.sub(rf"\1{REDACTED}@", text)
    text = _DATABASE_PASSWORD.sub(rf"\1:{REDACTED}@", text)
    return _QUERY_SECRET.sub(rf"\1{REDACTED}", text)


def without_redacted_part(address: str) -> str:
    """Return an address that was read back from a run without its `***`.

    Its client then takes name and password from where it looks by itself: MLFLOW_TRACKING_USERNAME,
    _PASSWORD and _TOKEN, or a database's own variables and files.
    """
    return address.replace(f"//{REDACTED}@", "//").replace(f":{REDACTED}@", "@")


class RedactingFormatter(logging.Formatter):
    """Formats what is logged, tracebacks included, without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        return without_secrets(super().format(record))
