"""A run in MLflow: one MLflow run per arm, in an experiment named after the scenario."""

import importlib
import re
from pathlib import Path
from typing import Any

from testbed.core.errors import UserError
from testbed.export.content import ExportedArm, ExportedRun
from testbed.results.writing import RESOLVED

MAX_PARAMS, MAX_METRICS, MAX_TEXT = 100, 1000, 500  # limits of a request, and of a value
ARTIFACTS = ("report.html", "results.json", RESOLVED)


def export_to_mlflow(run: ExportedRun, uri: str) -> list[str]:
    """Log every arm to the MLflow server or store at ``uri``; return the ids of the MLflow runs.

    Raises
    ------
    UserError : MLflow is not installed, or rejects the address or the data.
    """
    try:
        mlflow = importlib.import_module("mlflow")
        entities = importlib.import_module("mlflow.entities")
    except ImportError:
        raise UserError("--mlflow: mlflow is not installed; pip install mlflow") from None
    try:
        client = mlflow.MlflowClient(tracking_uri=uri)
        found = client.get_experiment_by_name(run.name)
        experiment = found.experiment_id if found else client.create_experiment(run.name)
        return [_log(client, entities, experiment, run, arm) for arm in run.arms]
    except (mlflow.exceptions.MlflowException, OSError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"--mlflow {uri}: {reason}") from None


def _log(client: Any, entities: Any, experiment: str, run: ExportedRun, arm: ExportedArm) -> str:
    name = f"{run.folder.resolve().name}/{arm.name}"
    tags = {"arm": arm.name, "seed": str(run.seed), **arm.facts}
    made = client.create_run(experiment, run_name=name, tags=tags)
    identifier: str = made.info.run_id
    began = int(made.info.start_time)
    params = [entities.Param(_name(k), v[:MAX_TEXT]) for k, v in arm.options.items()]
    for start in range(0, len(params), MAX_PARAMS):
        client.log_batch(identifier, params=params[start : start + MAX_PARAMS])
    metrics = [
        entities.Metric(_name(point.name), point.value, began, point.step) for point in arm.curves
    ]
    metrics += [entities.Metric(f"result/{k}", v, began, 0) for k, v in arm.figures.items()]
    for start in range(0, len(metrics), MAX_METRICS):
        client.log_batch(identifier, metrics=metrics[start : start + MAX_METRICS])
    for file in ARTIFACTS:
        path: Path = run.folder / file
        if path.exists():
            client.log_artifact(identifier, str(path))
    client.set_terminated(identifier)
    return identifier


def _name(text: str) -> str:
    """Return a name of the characters that MLflow allows."""
    return re.sub(r"[^A-Za-z0-9_./ -]", "_", text)
