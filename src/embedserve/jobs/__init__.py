"""Batch work: files in, files out, on one durable store behind both dialects (docs/batch.md)."""
