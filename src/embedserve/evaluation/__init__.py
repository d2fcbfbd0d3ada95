"""Measuring vectors: suites of tasks, models behind any door, scores, reports."""
