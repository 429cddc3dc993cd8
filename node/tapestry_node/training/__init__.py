"""Training on private records: DP-SGD and the trainer that holds them."""
