"""TSA-1: the coordinator learns the sum and nothing else."""
