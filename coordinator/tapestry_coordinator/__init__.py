"""The coordinator: trusted with availability, and with nothing else."""
