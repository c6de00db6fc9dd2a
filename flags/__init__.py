"""absl flags of a training run, made from the settings of `dqgan_tf.config`. `experiments/` holds flagfiles."""
