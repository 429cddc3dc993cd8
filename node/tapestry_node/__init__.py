"""An institution's node: the only place where private records are read."""
