"""Reads what releases left behind - journal, requests, routes, audit trail, Airflow's tables - for people.

Everything here only reads, and reads a file again only when it changed: a page of 300 models and 10,000
releases is a few hundred looks at folders' time stamps. `airflow_runs` alone needs Airflow's database.
"""
