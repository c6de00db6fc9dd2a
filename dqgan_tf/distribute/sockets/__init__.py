"""Packets between workers over TCP connections of our own, beside TensorFlow's gRPC."""
