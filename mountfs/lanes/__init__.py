"""The edge to the servers: the operation lane and the data lane."""
