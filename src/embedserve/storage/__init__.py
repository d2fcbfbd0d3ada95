"""One database behind accounts and jobs: SQLite by default, PostgreSQL for a fleet."""
