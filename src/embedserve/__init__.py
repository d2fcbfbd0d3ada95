"""embedserve: text-embedding-v4 on your own machine."""

__version__ = "0.1.0"
