"""The exceptions that mergefront raises on purpose, and the exit code of each.

    MergefrontError            never raised itself
    |-- UserError              exit 2: something the user can mend
    |   |-- ConfigError        a YAML or JSON file: names the file and every faulty field
    |   |-- CheckpointError    a model folder: missing shard, truncated file, pickle, NaN
    |   |-- PairingError       a tensor that could not be classified or paired
    |   |-- SpaceError         a search space that does not fit the models
    |   |-- RunError           a run directory that cannot be used for this
    |   `-- CandidateError     a candidate that no engine can build or ask
    `-- EngineError            exit 3: the inference engine failed

Any other exception is a bug of ours and exits with 1.
"""

from __future__ import annotations


class MergefrontError(Exception):
    """Base of all errors raised on purpose; `hint` says what to do about it."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message


class UserError(MergefrontError):
    """Something the user gave cannot be used: the message names it, the hint mends it."""

    exit_code = 2


class ConfigError(UserError):
    """A configuration, space, task or recipe file is invalid; lists every problem at once."""


class CheckpointError(UserError):
    """A model folder is incomplete, damaged, or in a format that is not read."""


class PairingError(UserError):
    """A tensor of the receiver or a donor is unaccounted for, or shapes do not fit."""


class SpaceError(UserError):
    """A search space claims a tensor twice or not at all, or does not fit the models."""


class RunError(UserError):
    """A run directory cannot be used for what is asked of it."""


class CandidateError(UserError):
    """A candidate cannot be scored, and that is its own fault: the search goes on without it.

    Its weights overflow, or two engines failed on it and a third one answered for the receiver.
    """


class EngineError(MergefrontError):
    """The inference engine failed to start, to load weights, or to answer."""

    exit_code = 3
