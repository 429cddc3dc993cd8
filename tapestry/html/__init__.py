"""Static pages without scripts or outside assets."""
