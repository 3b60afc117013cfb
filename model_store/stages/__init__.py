"""One module per stage of `model_store.build`, so that each Airflow task imports only its own libraries."""
