"""The audit: a bundle of plain files, checked from files alone."""
