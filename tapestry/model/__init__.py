"""The shared model as arrays: updates, outer optimizer, replica."""
