"""Compressors that are less used, one file each. They pass the same contract tests as all others."""
