"""Generative adversarial networks: losses, networks and the model that trains both players."""
