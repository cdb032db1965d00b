"""Settings of the MLflow observer."""

from mdp_core.api import StageConfig


class MlflowConfig(StageConfig):
    """Where runs are tracked. None of it changes a result."""

    tracking_uri: str | None = None
    """MLflow tracking store; default: ``$MLFLOW_TRACKING_URI``, else a SQLite file in MDP_HOME."""
    experiment: str = "mdp"
    """Name of the MLflow experiment."""
