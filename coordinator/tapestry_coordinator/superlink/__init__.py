"""The processes of the Flower engine, with the files and keys that they read."""
