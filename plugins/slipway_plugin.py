"""Where Airflow looks for plugins in a clone. An installed Slipway has an entry point instead."""

from slipway_airflow.plugin import SlipwayPlugin

__all__ = ["SlipwayPlugin"]
