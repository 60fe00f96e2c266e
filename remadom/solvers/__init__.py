"""Solvers: maths on tensors, without modules, configuration or files."""
