"""What a step tells about itself, summed on the replica and reduced only when somebody looks."""

import math

import tensorflow as tf

from dqgan_tf.distribute.channel import STATISTICS, Channel
from dqgan_tf.distribute.pipeline import TIMES
from dqgan_tf.distribute.replica_local import ReplicaLocal

PLAYERS = ("generator", "discriminator")
_SCALARS = ("generator_loss", "discriminator_loss", "penalty", "real_logit", "fake_logit")
_NAMES = (
    ("accepted",)
    + _SCALARS
    + tuple(f"gradient_energy/{player}" for player in PLAYERS)
    + tuple(f"{statistic}/{player}" for player in PLAYERS for statistic in STATISTICS)
    + ("seconds/compute",)
    + tuple(f"seconds/{phase}" for phase in TIMES)
)


class StepMetrics:
    """Sums of per-step figures on every replica: a collective for each step's losses would cost milliseconds a step.

    Args:
      devices: the local replicas' devices.
    """

    def __init__(self, devices):
        self._sums = ReplicaLocal(devices, [len(_NAMES)], "step_metrics")

    def add(self, evaluation, proposals, channel: Channel, compute_seconds: tf.Tensor, accepted: tf.Tensor) -> None:
        """Adds one step; a skipped step adds nothing. Replica context."""
        values = [1.0] + [getattr(evaluation, name) for name in _SCALARS]
        values += [proposal.gradient_energy for proposal in proposals]
        seconds = tf.concat([[compute_seconds], channel.seconds.local().read_value()], 0)
        rows = iter(tf.unstack(channel.statistics.local().read_value()))
        statistics = tf.concat([tf.add_n([next(rows) for _ in p.updates]) for p in proposals], 0)
        vector = tf.concat([tf.stack(values), statistics, tf.cast(seconds, tf.float32)], 0)
        self._sums.local().assign_add(tf.where(accepted, vector, tf.zeros_like(vector)))

    def drain(self) -> tf.Tensor:
        """Returns the sums, float32 [k], and starts anew. Replica context."""
        sums = self._sums.local()
        value = sums.read_value()
        sums.assign(tf.zeros_like(value))
        return value

    def named(self, sums, channel: Channel) -> dict[str, float]:
        """Returns the figures per accepted step by name; see docs/operations.md for their meaning.

        Args:
          sums: mean over replicas of `drain()`, array [k].
          channel: whose bytes are reported.
        """
        total = dict(zip(_NAMES, (float(value) for value in sums), strict=True))
        accepted = max(total["accepted"], 1.0)
        figures = {name: total[name] / accepted for name in _SCALARS}
        for phase in ("compute", *TIMES):
            figures[f"milliseconds/{phase}"] = 1e3 * total[f"seconds/{phase}"] / accepted
        for player in PLAYERS:
            figures |= _health(player, {name: total[f"{name}/{player}"] / accepted for name in _ENERGIES})
        figures["wire_bytes"] = float(channel.wire_bytes)
        figures["compression_ratio"] = channel.dense_bytes / channel.wire_bytes
        return figures


_ENERGIES = ("gradient_energy", *STATISTICS)


def _health(player, energy):
    """|g|, |p|, |e|/|p| and the measured 1 - delta = |p - decode(encode(p))|^2 / |p|^2 of one player."""
    update = max(energy["update_energy"], 1e-38)
    return {
        f"gradient_norm/{player}": math.sqrt(energy["gradient_energy"]),
        f"update_norm/{player}": math.sqrt(energy["update_energy"]),
        f"residual_ratio/{player}": math.sqrt(energy["residual_energy"] / update),
        f"compression_error/{player}": energy["error_energy"] / update,
    }
