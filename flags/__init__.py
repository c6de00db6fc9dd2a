"""absl flags of the binaries: one file a group, each flag one field of a configuration dataclass."""
