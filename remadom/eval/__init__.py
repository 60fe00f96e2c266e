"""Evaluation: metrics, figures, the report."""
