"""What the operator's tools ask: health, readiness, metrics."""
