"""What needs a GPU: engines (`engine`), a pod (`pod`). Run on the machine that has one; no network needed."""
