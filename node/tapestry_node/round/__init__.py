"""One round on one node, from the offer to the result."""
