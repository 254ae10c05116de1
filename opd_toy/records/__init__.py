"""What outlives a run: records with their provenance, and checkpoints."""
