"""Files that a run writes about itself, and its speed. `json_lines` and `throughput` work without TensorFlow."""
