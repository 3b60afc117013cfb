"""The REST front: bytes on a connection to exchanges, exchanges to routes."""
