"""How both players' updates travel: a compressed channel, and an exact one until compression starts."""

from collections.abc import Sequence

from dqgan_tf import compressors
from dqgan_tf.config import CompressionConfig
from dqgan_tf.distribute.channel import Channel
from dqgan_tf.distribute.strategy import CompressedStrategy
from dqgan_tf.gan.player import Player


class UpdateChannels:
    """The open channels of compiled players, whose segments they carry one player after the other.

    Opened eagerly, on every worker alike.

    Args:
      strategy: opens the channels.
      name: begins the names of both channels.
      players: compiled.
      config: how updates travel.
      seed: of stochastic rounding.

    Raises:
      ValueError: error feedback with a compressor that is not contractive; see `Channel`.
    """

    def __init__(
        self, strategy: CompressedStrategy, name: str, players: Sequence[Player], config: CompressionConfig, seed: int
    ):
        self._strategy, self._players = strategy, players
        segments = [segment for player in players for segment in player.segments]
        self.compressed: Channel = strategy.open_channel(
            f"{name}/updates",
            segments,
            error_feedback=config.error_feedback,
            seed=seed,
            topology=config.topology,
            bucket_mb=config.packet_mb,
            allow_non_contractive=config.allow_non_contractive,
            transport=config.transport,
        )
        self._exact = None
        if config.start_step > 1:
            exact = [segment._replace(compressor=compressors.get("none")) for segment in segments]
            self._exact = strategy.open_channel(
                f"{name}/exact", exact, error_feedback=False, bucket_mb=config.packet_mb, transport=config.transport
            )

    def of(self, exact: bool) -> Channel:
        """Returns the channel of the steps before compression starts (`exact`) or of the later ones."""
        return self._exact if exact else self.compressed

    def by_player(self, per_segment: Sequence) -> list[list]:
        """Returns one list per player from one item per segment."""
        items = iter(per_segment)
        return [[next(items) for _ in player.segments] for player in self._players]

    def close(self) -> None:
        """Closes the channels; their names are free again."""
        for channel in (self.compressed, self._exact):
            if channel is not None:
                self._strategy.close_channel(channel.name)
