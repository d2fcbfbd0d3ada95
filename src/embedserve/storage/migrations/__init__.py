"""Alembic's environment: one file a schema change, run by :mod:`embedserve.storage.migrate`."""
