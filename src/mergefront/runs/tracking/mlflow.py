"""One run as MLflow shows it: what is written, call by call, and what is added at the end.

Functions raise whatever MLflow raises. Not here: threads, and what to do when a call fails
(`Tracker`, `rebuild`).

Reading order: `MlflowCard`, `Ending`, `ending_of`, `Projection`.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergefront.config import TokenCost
from mergefront.records import Evaluation
from mergefront.redaction import without_secrets
from mergefront.runs.front import Front
from mergefront.runs.tracking.database import prepare_database
from mergefront.stats.pareto import collapsed, hypervolume, non_dominated

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run


RUN_TAG = "mergefront.run_id"
CANDIDATE_TAG = "mergefront.candidate"
_PARENT_TAG = "mlflow.parentRunId"
_LONGEST_PARAM = 6000  # MLflow's limits: characters of a parameter,
_LARGEST_BATCH = 90  # parameters and tags of a batch (100)
_LONGEST_FOLDER = 60  # characters, of up to 4 bytes: a folder's name has at most 255 bytes
_SQLITE = "sqlite:///"


@dataclass(frozen=True)
class MlflowCard:
    """What MLflow shows of a run as a whole.

    `run_id` finds the run again; it never changes. `params` may nest and is flattened with dots.
    `reference` is the hypervolume's, in the objectives' order. `knobs` returns a candidate's knob
    values by name. The objectives in `costs` are logged in tokens too.
    """

    run_id: str
    name: str
    objectives: Sequence[str]
    reference: Sequence[float]
    knobs: Callable[[Evaluation], Mapping[str, float | str]]
    params: Mapping[str, Any] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    costs: Mapping[str, TokenCost] = field(default_factory=dict)


@dataclass(frozen=True)
class Ending:
    """What is added at the end: numbers, files and folders to the parent run; to candidates, by
    number, what is known of them only then."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    artifacts: Sequence[Path] = ()
    candidates: Mapping[int, Mapping[str, float]] = field(default_factory=dict)


class Projection:
    """One run in MLflow; to be used by one thread. Adds nothing twice."""

    def __init__(self, uri: str, experiment: str, card: MlflowCard) -> None:
        self.uri = uri
        self.broken = False
        self.parent = ""
        self._experiment_name = experiment
        self._card = card
        self._values: list[list[float]] = []
        self._client: MlflowClient | None = None
        self._experiment = ""

    def reconnect(self) -> None:
        """Forget the connection and its failure."""
        self._client, self.broken, self._values = None, False, []

    def add_missing(self, evaluations: Sequence[Evaluation]) -> None:
        """Connect, then add those candidates that MLflow has not got whole."""
        client = self._connect()
        whole = set()
        for run in self._children(client):
            if run.info.status in ("FINISHED", "FAILED"):
                whole.add(int(run.data.tags[CANDIDATE_TAG]))
            else:
                client.delete_run(run.info.run_id)  # cut off in the middle
        steps = {m.step for m in client.get_metric_history(self.parent, "seconds.total")}
        self._values = []
        for evaluation in sorted(evaluations, key=lambda e: e.number):
            if evaluation.number not in steps:
                self._add_step(client, evaluation)
            elif not evaluation.failure:
                self._values.append(self._means(evaluation))
            if evaluation.number not in whole:
                self._add_child(client, evaluation)

    def add(self, evaluation: Evaluation) -> None:
        """Add one candidate that has just finished."""
        if self.broken:
            return
        client = self._connect()
        self._add_step(client, evaluation)
        self._add_child(client, evaluation)

    def conclude(self, ending: Ending) -> None:
        """Add final numbers and files and mark the run finished."""
        client = self._connect()
        timestamp = _milliseconds()
        client.log_batch(self.parent, [_metric(k, v, timestamp) for k, v in ending.metrics.items()])
        children = self._children(client) if ending.candidates else []
        for run in children:
            logged = run.data.metrics
            values = ending.candidates.get(int(run.data.tags[CANDIDATE_TAG]), {})
            new = [_metric(k, v, timestamp) for k, v in values.items() if logged.get(_key(k)) != v]
            if new:
                client.log_batch(run.info.run_id, new)
        for path in ending.artifacts:
            if path.is_dir():
                client.log_artifacts(self.parent, str(path), path.name)
            elif path.is_file():
                client.log_artifact(self.parent, str(path))
        self.end("FINISHED")

    def end(self, status: str) -> None:
        """Set the parent run's status."""
        self._connect().set_terminated(self.parent, status)

    def _connect(self) -> MlflowClient:
        if self._client is None:
            client = _client(self.uri)
            self._experiment = _experiment(client, self.uri, self._experiment_name)
            self.parent = self._open_parent(client)
            self._client = client
        return self._client

    def _open_parent(self, client: MlflowClient) -> str:
        card = self._card
        condition = f"tags.`{RUN_TAG}` = '{card.run_id}'"
        parents = [r for r in self._find(client, condition) if _PARENT_TAG not in r.data.tags]
        if parents:
            run = min(parents, key=lambda r: r.info.start_time)
            client.update_run(run.info.run_id, status="RUNNING")
        else:
            run = client.create_run(
                self._experiment, run_name=card.name, tags={**card.tags, RUN_TAG: card.run_id}
            )
        params = {
            _key(k): without_secrets(str(v))[:_LONGEST_PARAM]
            for k, v in _flatten(card.params).items()
        }
        new = {k: v for k, v in params.items() if k not in run.data.params}
        _log_params(client, run.info.run_id, new)
        for key, value in params.items():  # parameters cannot change: a resume's budget is a tag
            if run.data.params.get(key, value) != value:
                client.set_tag(run.info.run_id, f"resumed.{key}", value)
        return str(run.info.run_id)

    def _children(self, client: MlflowClient) -> list[Run]:
        return self._find(client, f"tags.`{_PARENT_TAG}` = '{self.parent}'")

    def _find(self, client: MlflowClient, condition: str) -> list[Run]:
        runs: list[Run] = []
        token = None
        while True:  # a page holds 1,000 runs
            page = client.search_runs([self._experiment], condition, page_token=token)
            runs.extend(page)
            token = page.token
            if not token:
                return runs

    def _add_step(self, client: MlflowClient, evaluation: Evaluation) -> None:
        """Add a candidate to the parent's series: what the search has found by now."""
        timestamp, step = _milliseconds(), evaluation.number
        metrics = [_metric(k, v, timestamp, step) for k, v in _seconds(evaluation).items()]
        if not evaluation.failure:
            self._values.append(self._means(evaluation))
            values = dict(zip(self._card.objectives, self._values[-1], strict=True))
            values["hypervolume"] = hypervolume(self._values, self._card.reference)
            values["front_size"] = len(non_dominated(self._standing()))
            metrics += [_metric(k, v, timestamp, step) for k, v in values.items()]
        client.log_batch(self.parent, metrics)

    def _standing(self) -> Sequence[Sequence[float]]:
        """The means so far of candidates that have not collapsed; of all, if all have."""
        fell = collapsed(self._values, self._card.reference)
        return [one for one, broken in zip(self._values, fell, strict=True) if not broken] or (
            self._values
        )

    def _add_child(self, client: MlflowClient, evaluation: Evaluation) -> None:
        """Three calls a candidate: about 20 ms on SQLite, a third of MLflow's fluent interface."""
        tags = {
            RUN_TAG: self._card.run_id,
            CANDIDATE_TAG: str(evaluation.number),
            _PARENT_TAG: self.parent,
            "origin": evaluation.origin,
        }
        if evaluation.failure:
            tags["failure"] = without_secrets(evaluation.failure)[:_LONGEST_PARAM]
        raced = evaluation.raced
        tags |= {k: v for k, v in (("left", raced.left), ("spared", raced.spared)) if v}
        run_name = f"{self._card.name} {evaluation.number:04d}"
        run = client.create_run(self._experiment, run_name=run_name, tags=tags)
        numbers = {**_seconds(evaluation), "rungs": raced.rungs}
        for name, estimate in evaluation.objectives.items():
            numbers |= {name: estimate.mean, f"{name}.se": estimate.se, f"{name}.items": estimate.n}
            numbers[f"{name}.partial"] = estimate.partial
            if name in self._card.costs:
                numbers[f"{name}.tokens"] = self._card.costs[name].tokens(estimate.mean)
        timestamp = _milliseconds()
        metrics = [_metric(k, v, timestamp) for k, v in numbers.items()]
        values = self._card.knobs(evaluation)
        knobs = {k: v if isinstance(v, str) else f"{v:.6g}" for k, v in values.items()}
        _log_params(client, run.info.run_id, knobs, metrics)
        client.set_terminated(run.info.run_id, "FAILED" if evaluation.failure else "FINISHED")

    def _means(self, evaluation: Evaluation) -> list[float]:
        return [evaluation.objectives[name].mean for name in self._card.objectives]


def _client(uri: str) -> MlflowClient:
    """Connect; MLflow stays quiet, sends no telemetry, and gives up on a dead server in seconds."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
    for name in ("alembic", "mlflow", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.ERROR)
    from mlflow import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.ERROR)  # importing it sets its level
    if uri.startswith(_SQLITE):  # MLflow would try for 100 s to open what cannot be opened
        prepare_database(_database(uri), _make_tables)
    return MlflowClient(tracking_uri=uri)


def _make_tables(path: Path) -> None:
    """Let MLflow make its tables in a new file."""
    from mlflow import MlflowClient

    MlflowClient(tracking_uri=f"{_SQLITE}{path}").search_experiments(max_results=1)


def _database(uri: str) -> Path:
    return Path(uri.removeprefix(_SQLITE).partition("?")[0]).absolute()


def _experiment(client: MlflowClient, uri: str, name: str) -> str:
    """Find or create the experiment; files of a local store lie beside its database."""
    experiment = client.get_experiment_by_name(name)
    if experiment is not None:
        if experiment.lifecycle_stage == "deleted":
            client.restore_experiment(experiment.experiment_id)
        return str(experiment.experiment_id)
    location = None
    if uri.startswith(_SQLITE):
        database = _database(uri)
        # The name may be any text, ../../x too: the folder is always one, beside the database.
        folder = re.sub(r"[^\w.-]", "-", name).strip(".")[:_LONGEST_FOLDER] or "experiment"
        location = (database.parent / "mlartifacts" / folder).as_uri()
    return str(client.create_experiment(name, artifact_location=location))


def _log_params(
    client: MlflowClient, run_id: str, params: Mapping[str, str], metrics: Sequence[Metric] = ()
) -> None:
    from mlflow.entities import Param

    rows = [Param(_key(key), value) for key, value in params.items()]
    for start in range(0, max(len(rows), 1), _LARGEST_BATCH):
        first = list(metrics) if start == 0 else []
        client.log_batch(run_id, first, rows[start : start + _LARGEST_BATCH])


def _key(name: str) -> str:
    """A name as MLflow takes it, which refuses the + of a knob of several parts."""
    return re.sub(r"[^\w\-./: ]", "-", name)


def _metric(key: str, value: float, timestamp: int, step: int = 0) -> Metric:
    from mlflow.entities import Metric

    return Metric(_key(key), float(value), timestamp, step)


def _seconds(evaluation: Evaluation) -> dict[str, float]:
    parts = {f"seconds.{key}": value for key, value in vars(evaluation.seconds).items()}
    return {**parts, "seconds.total": evaluation.seconds.total}


def _flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, entry in value.items():
        if isinstance(entry, Mapping) and entry:
            flat |= _flatten(entry, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = entry
    return flat


def _milliseconds() -> int:
    return int(time.time() * 1000)


def ending_of(front: Front, artifacts: Sequence[Path] = ()) -> Ending:
    """Return the numbers that end a run, and what is believed of its members.

    They are the validated hypervolume, the picks' test scores, the shares of items and seconds that
    the race used, how many left it, and how well the model foretells (`records.Calibration`).
    """
    believed = {
        member.number: {
            f"{name}.believed{suffix}": value
            for name, estimate in member.believed.items()
            for suffix, value in (("", estimate.mean), (".sd", estimate.se))
        }
        for member in front.members
    }
    metrics = dict([*_scores(front), *_race(front), *_calibration(front)])
    return Ending(metrics, artifacts, believed)


def _scores(front: Front) -> Iterator[tuple[str, float]]:
    volume = front.hypervolume.validation
    yield "validation.hypervolume.value", volume.value
    yield "validation.hypervolume.low", volume.low
    yield "validation.hypervolume.high", volume.high
    for member in front.members:
        for pick in member.picks:
            for objective, estimate in (member.test or {}).items():
                key = f"test.{pick.replace(':', '.')}.{objective}"
                yield key, estimate.mean
                if estimate.tokens is not None:
                    yield f"{key}.tokens", estimate.tokens


def _race(front: Front) -> Iterator[tuple[str, float]]:
    if front.race is None:
        return
    yield "race.items", front.race.items
    yield "race.seconds", front.race.seconds
    for reason, number in front.race.left.items():
        yield f"race.left.{reason}", number


def _calibration(front: Front) -> Iterator[tuple[str, float]]:
    yield "belief.by_model", float(front.belief.by_model)
    for name, calibration in front.belief.calibration.items():
        yield f"calibration.{name}.n", calibration.n
        yield f"calibration.{name}.mean_square", calibration.mean_square
        yield f"calibration.{name}.within_95", calibration.within_95
        yield f"calibration.{name}.excess", calibration.excess
