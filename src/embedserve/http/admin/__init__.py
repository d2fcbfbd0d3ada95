"""The admin API: keys and usage, for whoever holds the admin key."""
