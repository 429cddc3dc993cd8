"""Static readers of model folders and weights: no machine-learning stack, no code run.

What these modules accept has one reading, whichever program loads it later.
"""
