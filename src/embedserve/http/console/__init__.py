"""The web console: static files, and nothing that a caller could not do through the public API."""
