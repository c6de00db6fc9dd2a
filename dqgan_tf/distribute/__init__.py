"""Compressed collectives inside tf.distribute: the only folder that imports private TensorFlow names (read at
2.21.0)."""
