"""Registers the MLflow observer."""

from mdp_core.api import Registry, hookimpl


@hookimpl
def mdp_register(registry: Registry) -> None:
    """Registers ``observer:mlflow``."""
    registry.add(
        "observer",
        "mlflow",
        factory="mdp_mlflow.observer:MlflowObserver",
        config="mdp_mlflow.settings:MlflowConfig",
        summary="Tracks runs with MLflow: a run a recipe, a nested run a step; parameters, metrics, tables, pictures.",
    )
