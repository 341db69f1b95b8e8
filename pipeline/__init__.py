"""Compare what can replace the Dense layers after a fully convolutional network."""
