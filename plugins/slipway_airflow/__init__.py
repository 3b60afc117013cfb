"""Translates between Airflow and Slipway: operators, triggers, links, failures, wiring.

Airflow finds this package because it puts the plugins folder on the path; `.airflowignore` keeps it from
executing each module here a second time as a plugin of its own.
"""
