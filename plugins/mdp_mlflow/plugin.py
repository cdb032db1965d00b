"""Registers the MLflow observer, and answers ``mdp track``."""

from pathlib import Path

from mdp_core.api import Registry, Tracking, hookimpl


@hookimpl
def mdp_register(registry: Registry) -> None:
    """Registers ``observer:mlflow``."""
    registry.add(
        "observer",
        "mlflow",
        factory="mdp_mlflow.observer:MlflowObserver",
        config="mdp_mlflow.settings:MlflowConfig",
        summary="Tracks runs with MLflow: a run a recipe, a nested run a step; parameters, metrics, tables, pictures, the model.",
    )


@hookimpl
def mdp_run_tracking(folder: Path) -> Tracking:
    """Says what MLflow has of a run."""
    from mdp_mlflow.sync import run_tracking

    return run_tracking(folder)


@hookimpl
def mdp_sync_run(folder: Path, force: bool) -> Tracking:
    """Sends what MLflow does not have of a run."""
    from mdp_mlflow.sync import sync_run

    return sync_run(folder, force=force)
