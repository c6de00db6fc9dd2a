"""Compressed collectives inside tf.distribute."""
