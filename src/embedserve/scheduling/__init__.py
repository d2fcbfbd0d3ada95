"""Many small requests become full chunks of work, and no single query waits for a long one."""
