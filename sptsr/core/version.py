"""The version of sptsr, written into every store and adapter."""

__version__ = '0.2.0'
