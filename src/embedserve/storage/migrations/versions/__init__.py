"""Revisions are numbered: 0001, 0002, …; the newest is ``embedserve.storage.migrate.SCHEMA``."""
