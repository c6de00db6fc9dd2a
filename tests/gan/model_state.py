"""All state of a model on every replica of this process, by its names in checkpoints."""

import numpy as np


def values(model):
    """Returns {name: one array per replica}; see `shared` for those that are to be equal."""
    variables = {name: variable.value.values for name, variable in model._shared_variables().items()}
    variables |= {name: average.variables for name, average in model._averaged.state().items()}
    replicas = [model.replica_values(replica) for replica in range(len(model.channel.calls.variables))]
    variables |= {name: [of_replica[name] for of_replica in replicas] for name in replicas[0]}
    return {name: [np.asarray(value) for value in row] for name, row in variables.items()}


def bits(model):
    """As `values`, in bytes."""
    return {name: [value.tobytes() for value in row] for name, row in values(model).items()}


def shared(model):
    """Returns the names of what is saved once for all replicas."""
    return set(model.shared_values())
