"""How Envoys come to know what the routes say: by files that one watches, or by xDS over gRPC."""
