"""What every layer may use: checkpoints, seeds, files written whole."""
