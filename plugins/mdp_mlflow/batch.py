"""Metrics, parameters and tags that wait to be sent, in as few requests as MLflow's limits allow."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_MOST_PARAMS = _MOST_TAGS = 100
_MOST = 1000


@dataclass
class Batch:
    """What is to be sent to one run.

    Attributes:
        metrics: (name, value, milliseconds since 1970, step).
        params, tags: Name → value.
    """

    metrics: list[tuple[str, float, int, int]] = field(default_factory=list)
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def send(self, client: MlflowClient, run: str) -> int:
        """Sends all of it; returns the number of metrics.

        Raises:
            MlflowException: The store does not take it.
        """
        from mlflow.entities import Metric, Param, RunTag

        metrics = [Metric(*values) for values in self.metrics]
        params, tags = [Param(*item) for item in self.params.items()], [RunTag(*item) for item in self.tags.items()]
        while metrics or params or tags:
            now_params, params = params[:_MOST_PARAMS], params[_MOST_PARAMS:]
            now_tags, tags = tags[:_MOST_TAGS], tags[_MOST_TAGS:]
            room = _MOST - len(now_params) - len(now_tags)
            now_metrics, metrics = metrics[:room], metrics[room:]
            client.log_batch(run, now_metrics, now_params, now_tags)
        return len(self.metrics)
