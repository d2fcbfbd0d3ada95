"""One concern a module."""
