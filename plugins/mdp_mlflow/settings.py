"""Settings of the MLflow observer."""

from pydantic import Field, field_validator

from mdp_core.api import StageConfig
from mdp_mlflow.names import redact


class MlflowConfig(StageConfig):
    """Where and how runs are tracked. None of it changes a result."""

    tracking_uri: str | None = None
    """MLflow tracking store, without a password; default: ``$MLFLOW_TRACKING_URI``, else a SQLite file in MDP_HOME."""
    experiment: str = Field("mdp", min_length=1)
    """Name of the MLflow experiment."""
    log_model: bool = True
    """Store the final segmenter as a pyfunc model, once for each training that the experiment does not have yet."""
    wait: float = Field(10.0, ge=0)
    """Seconds that a finished run waits at most until all of it is sent; what is not goes on in the background."""

    @field_validator("tracking_uri")
    @classmethod
    def _no_secrets(cls, value: str | None) -> str | None:
        if value is not None and redact(value) != value:
            raise ValueError(
                "user names and passwords do not belong into a recipe, which every run keeps: set MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD, or give the whole address as MLFLOW_TRACKING_URI"
            )
        return value
