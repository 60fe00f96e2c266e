"""Configuration: the schema of a run, and the one place that assembles it."""
