"""Metrics of the steps. Each replica sums them; `drain` averages them over replicas once per log line."""

import math
from collections.abc import Sequence

import tensorflow as tf

from dqgan_tf.distribute.channel import ENERGIES, Channel
from dqgan_tf.distribute.pipeline import TIMES
from dqgan_tf.distribute.replica_local import ReplicaLocal
from dqgan_tf.gan.player import PLAYERS

_SCALARS = ("generator_loss", "discriminator_loss", "penalty", "real_logit", "fake_logit")


class StepMetrics:
    """Sums of metrics over accepted steps, on every replica, because a collective per step would cost milliseconds.

    Args:
      devices: the local replicas' devices.
      vectors: names of the channel's vectors, each beginning with its player's name.
    """

    def __init__(self, devices: Sequence[str], vectors: Sequence[str]):
        self._names = (
            *("accepted", *_SCALARS),
            *(f"moves/{player}" for player in PLAYERS),
            *(f"gradient_energy/{player}" for player in PLAYERS),
            *(f"{energy}/{vector}" for vector in vectors for energy in ENERGIES),
            *(f"seconds/{phase}" for phase in ("compute", *TIMES)),
        )
        self._vectors = tuple(vectors)
        self._sums = ReplicaLocal(devices, [len(self._names)], "step_metrics")

    def add(self, evaluation, proposals, channels: Sequence[Channel], compute_seconds: tf.Tensor) -> None:
        """Adds one accepted step. Replica context.

        Args:
          evaluation: `gradients.Evaluation` with losses and logits.
          proposals: one per player that moved: the last of `PLAYERS`, or all.
          channels: the channels that reduced their updates, in the order of their vectors.
          compute_seconds: time from the batch to the last update, float64 scalar.
        """
        resting = [0.0] * (len(PLAYERS) - len(proposals))
        scalars = [1.0, *(getattr(evaluation, name) for name in _SCALARS)]
        scalars += [*resting, *(1.0 for _ in proposals), *resting]
        scalars += [proposal.gradient_energy for proposal in proposals]
        energies = tf.concat([tf.reshape(channel.energies.local().read_value(), [-1]) for channel in channels], 0)
        energies = tf.pad(energies, [[len(self._vectors) * len(ENERGIES) - energies.shape[0], 0]])
        seconds = tf.add_n([channel.seconds.local().read_value() for channel in channels])
        seconds = tf.concat([[compute_seconds], seconds], 0)
        self._sums.local().assign_add(tf.concat([tf.stack(scalars), energies, tf.cast(seconds, tf.float32)], 0))

    def drain(self) -> tf.Tensor:
        """Returns the sums, float32 [k], and resets them. Replica context."""
        sums = self._sums.local()
        value = sums.read_value()
        sums.assign(tf.zeros_like(value))
        return value

    def figures(self, sums, wire_bytes: float, dense_bytes: float) -> dict[str, float]:
        """Returns the metrics per accepted step by name; docs/operations.md defines them.

        |g|, |p|, |e|/|p|, |s|/|p| and the measured 1 - delta = |p - decode(encode(p))|^2 / |p|^2 are per player: the
        squared norms of its vectors are summed, then the ratio is taken.

        Those of a player are means over the steps at which it moved. Without such a step they are NaN. Sizes never are.

        Args:
          sums: mean over replicas of `drain()`, array [k]; sums of several are figures of all their steps.
          wire_bytes, dense_bytes: payload of one replica in a step, compressed and in float32.
        """
        total = dict(zip(self._names, (float(value) for value in sums), strict=True))
        accepted = total["accepted"] or math.nan  # no accepted step has no figures
        figures = {name: total[name] / accepted for name in _SCALARS}
        for phase in ("compute", *TIMES):
            figures[f"milliseconds/{phase}"] = 1e3 * total[f"seconds/{phase}"] / accepted
        for player in PLAYERS:
            moves = total[f"moves/{player}"] or math.nan
            vectors = [vector for vector in self._vectors if vector.split(".")[0] == player]
            update, residual, error, shift = (
                sum(total[f"{energy}/{vector}"] for vector in vectors) / moves for energy in ENERGIES
            )
            figures[f"gradient_norm/{player}"] = math.sqrt(total[f"gradient_energy/{player}"] / moves)
            figures[f"update_norm/{player}"] = math.sqrt(update)
            figures[f"residual_ratio/{player}"] = math.sqrt(residual / max(update, 1e-38))
            figures[f"shift_ratio/{player}"] = math.sqrt(shift / max(update, 1e-38))
            figures[f"compression_error/{player}"] = error / max(update, 1e-38)
        figures["wire_bytes"] = float(wire_bytes)
        figures["compression_ratio"] = dense_bytes / wire_bytes
        return figures
