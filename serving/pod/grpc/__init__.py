"""The gRPC front: just the part of HTTP/2 and gRPC that unary and streamed inference needs, on the same port.

What speaks HTTP/2 and no gRPC is REST (`rest`).

grpc.aio spends fifteen times the CPU of the JSON front on a request; this one spends less than it
(docs/decisions/0024-grpc-on-our-own-frames.md).
"""
