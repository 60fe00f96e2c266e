"""New cells on a trained model: reference cells, correction, adapters, labels and how well they fit."""
