"""Static readers of model folders and weights, without a machine-learning stack.

No code of a folder is run. What these modules accept has one reading, whichever program
loads it later.
"""
