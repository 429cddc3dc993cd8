"""The shared model as numbers: its updates, its outer step, its replica."""
