"""The tag that asks for a compressed reduction."""

from dqgan_tf import private_tensorflow


class CompressionOptions(private_tensorflow.CommunicationOptions):
    """`tf.distribute.experimental.CommunicationOptions` that may name a channel.

    A reduction whose options name a channel is sent through it, compressed; every other reduction (metrics,
    normalisation statistics, counts, initial values) stays exact.

    Args:
      channel: name of an open channel, or None for an exact reduction.
      bytes_per_pack, timeout_seconds, implementation: as in
        `tf.distribute.experimental.CommunicationOptions`.
    """

    def __init__(self, channel: str | None = None, **options):
        super().__init__(**options)
        self.channel = channel

    def merge(self, options):
        merged = super().merge(options)  # a deep copy of self: the tag of `options` would be lost
        merged.channel = getattr(options, "channel", None) or self.channel
        return merged


def plain_options(options) -> CompressionOptions:
    """Returns `options` (or the defaults for None) as a `CompressionOptions` without a channel."""
    if options is None:
        return CompressionOptions()
    return CompressionOptions(
        bytes_per_pack=options.bytes_per_pack,
        timeout_seconds=options.timeout_seconds,
        implementation=options.implementation,
    )
