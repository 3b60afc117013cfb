"""The request log: a sample of what was asked and answered, as Parquet, for warmup and shadow comparison."""
