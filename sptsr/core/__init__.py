"""What everything stands on: errors, files, YAML, registries, logs, processes, and patches of upstream."""
