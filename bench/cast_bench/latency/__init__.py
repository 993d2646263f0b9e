"""`cast-bench latency`: decode strategies against each other, batch by batch, in one engine."""
