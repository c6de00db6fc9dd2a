"""Writers and figures of a run: JSON lines, TensorBoard, image grids, throughput, time of a step's phases.

Import the module that is needed: `atomic`, `json_lines` and `break_even` work without TensorFlow.
"""
