"""Make trained object detectors small and fast without losing what they learned."""

__version__ = "0.1.0"
