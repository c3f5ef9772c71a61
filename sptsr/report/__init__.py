"""Reports: metrics, tables and pictures."""
