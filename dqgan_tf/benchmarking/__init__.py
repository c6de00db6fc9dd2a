"""Measures the exchange: variants interleaved in real processes, on loopback or on links of a given rate."""
