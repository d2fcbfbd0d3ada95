"""Users' files: rows read from any of them, vectors written to any of them, and runs that can be resumed."""
