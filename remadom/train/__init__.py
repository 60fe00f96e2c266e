"""Training: the objective, the loop, what is logged."""
