"""The processes of the Flower engine, and the files and keys they read."""
