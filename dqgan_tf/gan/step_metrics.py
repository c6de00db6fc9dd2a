"""Metrics of the steps. Each replica sums them; `drain_mean` averages them over replicas once per log line."""

import math
from collections.abc import Sequence

import tensorflow as tf

from dqgan_tf.distribute import residual_sample
from dqgan_tf.distribute.channel import ENERGIES, Channel
from dqgan_tf.distribute.pipeline import TIMES, hidden
from dqgan_tf.distribute.replica_local import ReplicaLocal
from dqgan_tf.gan.player import PLAYERS

_SCALARS = ("generator_loss", "discriminator_loss", "penalty", "real_logit", "fake_logit")
_OF_RESIDUALS = ("spread", "lag")


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
            *(f"exchanges/{player}" for player in PLAYERS),
            *(f"gradient_energy/{player}" for player in PLAYERS),
            *(f"{energy}/{vector}" for vector in vectors for energy in ENERGIES),
            *(f"seconds/{phase}" for phase in ("compute", *TIMES)),
            *(f"{name}/{player}" for name in _OF_RESIDUALS for player in PLAYERS),
        )
        self._vectors = tuple(vectors)
        self._sums = ReplicaLocal(devices, [len(self._names)], "step_metrics")
        self._round = ReplicaLocal(devices, [len(self._names)], "round_metrics")

    def add(self, at_point, proposals, channels: Sequence[Channel], compute_seconds: tf.Tensor) -> None:
        """Adds one accepted step. Replica context.

        Args:
          at_point: `PointGradients` with losses and logits.
          proposals: one per player that moved: the last of `PLAYERS`, or all.
          channels: the channels that reduced their updates, in the order of their vectors.
          compute_seconds: time from the batch to the last update, float64 scalar.
        """
        self._sums.local().assign_add(
            self._of_step(at_point, proposals, compute_seconds) + self._of_exchange(channels, len(proposals))
        )

    def begin_round(self) -> None:
        """Starts a round of local steps. Replica context."""
        self._round.local().assign(tf.zeros([len(self._names)]))

    def add_local_step(self, at_point, proposals, compute_seconds: tf.Tensor) -> None:
        """As `add`, for a step of the round, before its exchange."""
        self._round.local().assign_add(self._of_step(at_point, proposals, compute_seconds))

    def add_round(self, channels: Sequence[Channel]) -> None:
        """Adds the round, which was accepted, and its exchange. Replica context."""
        self._sums.local().assign_add(self._round.local().read_value() + self._of_exchange(channels, len(PLAYERS)))

    def _of_step(self, at_point, proposals, compute_seconds):
        values = {"accepted": 1.0, "seconds/compute": tf.cast(compute_seconds, tf.float32)}
        values |= {name: getattr(at_point, name) for name in _SCALARS}
        for player, proposal in zip(PLAYERS[-len(proposals) :], proposals, strict=True):
            values |= {f"moves/{player}": 1.0, f"gradient_energy/{player}": proposal.gradient_energy}
        return tf.stack([values.get(name, 0.0) for name in self._names])

    def _of_exchange(self, channels, players):
        """players: number of players that moved, the last of `PLAYERS`."""
        energies = tf.concat([tf.reshape(channel.energies.local().read_value(), [-1]) for channel in channels], 0)
        names = [f"{energy}/{vector}" for vector in self._vectors for energy in ENERGIES][-energies.shape[0] :]
        values = dict(zip(names, tf.unstack(energies), strict=True))
        seconds = tf.cast(tf.add_n([channel.seconds.local().read_value() for channel in channels]), tf.float32)
        values |= dict(zip([f"seconds/{phase}" for phase in TIMES], tf.unstack(seconds), strict=True))
        values |= {f"exchanges/{player}": 1.0 for player in PLAYERS[-players:]}
        return tf.stack([values.get(name, 0.0) for name in self._names])

    def drain(self) -> tf.Tensor:
        """Returns the sums, float32 [k], and resets them. Replica context."""
        sums = self._sums.local()
        value = sums.read_value()
        sums.assign(tf.zeros_like(value))
        return value

    def drain_mean(self, residuals: Sequence[Sequence[tf.Tensor | None]]) -> tf.Tensor:
        """Returns the mean of `drain()` over the replicas, with spread and lag of their residuals. One collective.

        The squared spread mean_m ||e^m - ebar||^2 and the squared lag ||ebar||^2 are estimated from a sample of
        the values of a player. They count for all accepted steps since the last call.

        Args:
          residuals: this replica's e, one list per player in the order of `PLAYERS`, one tensor or None per weight.
        """
        samples = [residual_sample.sample(of_player) for of_player in residuals]
        parts = [self.drain(), *samples, *(sample * sample for sample in samples)]
        means = tf.distribute.get_replica_context().all_reduce("mean", tf.concat(parts, 0))
        sums, *moments = tf.split(means, [part.shape[0] for part in parts])
        first, second = moments[: len(PLAYERS)], moments[len(PLAYERS) :]
        pairs = [residual_sample.energies(mean, square) for mean, square in zip(first, second, strict=True)]
        of_residuals = [*(spread for spread, _ in pairs), *(lag for _, lag in pairs)]
        accepted = sums[self._names.index("accepted")]
        return tf.concat([sums[: -len(of_residuals)], accepted * tf.stack(of_residuals)], 0)

    def figures(self, sums, wire_bytes: float, dense_bytes: float) -> dict[str, float]:
        """Returns the metrics per accepted step by name; docs/operations.md defines them.

        |g|, |p|, |e|/|p|, |s|/|p| and the measured 1 - delta = |p - decode(encode(p))|^2 / |p|^2 are per player: the
        squared norms of its vectors are summed, then the ratio is taken.

        Figures of a player are means over the steps at which it moved, NaN if it never did. Byte counts are finite.

        Args:
          sums: mean over replicas of `drain()`, array [k]; sums of several are figures of all their steps.
          wire_bytes, dense_bytes: payload of one replica in a step, compressed and in float32.
        """
        total = dict(zip(self._names, (float(value) for value in sums), strict=True))
        accepted = total["accepted"] or math.nan  # no accepted step has no figures
        figures = {name: total[name] / accepted for name in _SCALARS}
        for phase in ("compute", *TIMES):
            figures[f"milliseconds/{phase}"] = 1e3 * total[f"seconds/{phase}"] / accepted
        figures["milliseconds/hidden"] = hidden({phase: figures[f"milliseconds/{phase}"] for phase in TIMES})
        for player in PLAYERS:
            moves, exchanges = (total[f"{name}/{player}"] or math.nan for name in ("moves", "exchanges"))
            vectors = [vector for vector in self._vectors if vector.split(".")[0] == player]
            update, residual, error, shift = (
                sum(total[f"{energy}/{vector}"] for vector in vectors) / exchanges for energy in ENERGIES
            )
            figures[f"gradient_norm/{player}"] = math.sqrt(total[f"gradient_energy/{player}"] / moves)
            figures[f"update_norm/{player}"] = math.sqrt(update)
            figures[f"residual_ratio/{player}"] = math.sqrt(residual / max(update, 1e-38))
            figures[f"shift_ratio/{player}"] = math.sqrt(shift / max(update, 1e-38))
            figures[f"compression_error/{player}"] = error / max(update, 1e-38)
            for name in _OF_RESIDUALS:
                figures[f"{name}/{player}"] = math.sqrt(total[f"{name}/{player}"] / accepted)
        figures["wire_bytes"] = float(wire_bytes)
        figures["compression_ratio"] = dense_bytes / wire_bytes
        return figures
