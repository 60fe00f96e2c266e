"""What is made of a trained run: embeddings, measures, figures, the report."""
