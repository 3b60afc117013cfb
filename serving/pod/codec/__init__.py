"""Tensors to and from the wire: JSON, the binary tensor extension, gRPC."""
