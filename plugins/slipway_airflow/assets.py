"""What Airflow's assets are here: what the registry says of a model, and which version serves.

An event of `registry_asset` starts the model's release DAG; `serving_asset` is what a promotion or a rollback
changes, so that DAGs of others (a report, a retraining) can be scheduled on it.
"""

from __future__ import annotations

from airflow.sdk import Asset, AssetAlias

GROUP = "slipway"
# A rollback knows its model only when it runs.
ROLLED_BACK = AssetAlias("slipway_rolled_back", group=GROUP)


class ModelAsset(Asset):
    """Airflow hashes a DAG's schedule for every edge between two tasks, and an asset by way of JSON."""

    def __hash__(self) -> int:
        return hash(self.uri)


def registry_asset(model: str, alias: str) -> Asset:
    """What MLflow's registry says of the model. `alias` names the version that is to be released."""
    return ModelAsset(
        registry_name(model),
        uri=f"slipway://registry/{model}",
        group=GROUP,
        extra={"model": model, "alias": alias},
    )


def serving_asset(model: str) -> Asset:
    """The version of the model that users are answered by."""
    return Asset(f"serving_{model}", uri=f"slipway://serving/{model}", group=GROUP, extra={"model": model})


def registry_name(model: str) -> str:
    """The name under which Airflow knows `registry_asset`."""
    return f"registry_{model}"
