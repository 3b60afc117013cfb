"""What others tell us over HTTP, checked without Airflow: signatures, secrets, repeats, pace."""
