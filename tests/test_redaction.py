"""No secret is written or shown: addresses, logs, a run's files, MLflow."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from fixtures_runs import simulated_run
from mergefront.cli.terminal import complain, log_handler
from mergefront.config import RunConfig
from mergefront.errors import ConfigError
from mergefront.jobs.artifacts import tracking_uri
from mergefront.redaction import without_redacted_part, without_secrets
from mergefront.runs.directory import RunDirectory
from mergefront.yaml_file import validate


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:pa55word@host:5000/x", "https://***@host:5000/x"),
        ("https://pa55word@host", "https://***@host"),
        ("https://host/a@b", "https://host/a@b"),
        ("https://me:pa55@word@host/x", "https://***@host/x"),
        ("postgresql://me:pa55word@host/db", "postgresql://me:***@host/db"),
        ("mysql+pymysql://me:pa55/w@ord@host/db", "mysql+pymysql://me:***@host/db"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        ("http://host/x?a=1&access_token=pa55word&b=2", "http://host/x?a=1&access_token=***&b=2"),
        ("no route to 'http://me:pa55word@host/', retry", "no route to 'http://***@host/', retry"),
        ("sqlite:////home/a:b@c/mlflow.db", "sqlite:////home/a:b@c/mlflow.db"),
        ("file:///runs/a:b@c", "file:///runs/a:b@c"),
    ],
)
def test_addresses_lose_their_secrets(text: str, shown: str) -> None:
    assert without_secrets(text) == shown
    assert without_secrets(shown) == shown


def test_a_redacted_address_is_one_without_a_password() -> None:
    assert without_redacted_part("https://***@host/x") == "https://host/x"
    assert without_redacted_part("postgresql://me:***@host/db") == "postgresql://me@host/db"


def test_variables_that_hold_secrets_reach_neither_log_nor_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_pa55word")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "short")  # and so it is in many words
    handler = log_handler(tmp_path / "log.txt")
    try:
        raise RuntimeError("refused: hf_pa55word")
    except RuntimeError as error:
        record = logging.LogRecord("x", logging.ERROR, "", 1, "sent %s", ("hf_pa55word",), None)
        record.exc_info = (RuntimeError, error, error.__traceback__)
        handler.emit(record)
    handler.close()
    logged = (tmp_path / "log.txt").read_text()
    assert "sent ***" in logged
    assert "refused: ***" in logged
    assert "pa55word" not in logged
    complain("login failed with hf_pa55word", "false")
    assert "login failed with ***" in capsys.readouterr().err


def test_a_runs_files_hold_no_password_and_a_resume_finds_the_same_configuration(
    tmp_path: Path,
) -> None:
    tracking = {"uri": "https://me:pa55word@host"}
    run, _ = simulated_run(tmp_path, tracking=tracking)
    assert tracking_uri(run) == "https://me:pa55word@host"
    written = (run.path / "config.yaml").read_text()
    assert "uri: https://***@host" in written
    assert "pa55word" not in str(run.config.model_dump(mode="json"))
    resumed = RunDirectory.create_or_resume(tmp_path, run.config)
    assert tracking_uri(resumed) == "https://me:pa55word@host"
    assert tracking_uri(RunDirectory.open(run.path)) == "https://host"


def test_a_faulty_field_is_shown_without_its_secret() -> None:
    with pytest.raises(ConfigError) as told:
        validate({"tracking": "https://me:pa55word@host"}, RunConfig, "x.yaml")
    assert "https://***@host" in told.value.message
    assert "pa55word" not in told.value.message
