"""The audit of a bundle of plain files, from the files alone."""
