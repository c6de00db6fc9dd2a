"""The gradient itself as direction: with the half step, optimistic mirror descent in Euclidean geometry."""

import dataclasses

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Sgd:
    """u_t = g_t. Chen et al. 2020, arXiv 2010.13359 (DQGAN); Daskalakis et al. 2018, arXiv 1711.00141 (OMD)."""

    slots: tuple[str, ...] = ()
    averaged_slot: str | None = None

    def accumulate(self, gradient: tf.Tensor, slots: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Returns the slots after seeing `gradient`: there are none."""
        del gradient
        return dict(slots)

    def direction(self, gradient: tf.Tensor, slots: dict[str, tf.Tensor], count: tf.Tensor) -> tf.Tensor:
        """Returns u_t = g_t, float32 [n]."""
        del slots, count
        return gradient

    def averages_at(self, step: int) -> bool:
        """Whether step `step` (from 1) averages a slot over the workers: never."""
        del step
        return False
