"""What gradient descent fits: one estimator per published method, one training loop."""
