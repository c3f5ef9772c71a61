"""What plug-ins import to register a network, unit, source, dataset, loss or metric."""

from sptsr.core.registry import (
    ARCH_REGISTRY,
    DATASET_REGISTRY,
    LOSS_REGISTRY,
    METRIC_REGISTRY,
    MODEL_REGISTRY,
    SOURCE_REGISTRY,
    UNIT_REGISTRY,
    import_plugins,
    lookup,
    register,
    register_all,
)

__all__ = [
    'ARCH_REGISTRY',
    'DATASET_REGISTRY',
    'LOSS_REGISTRY',
    'METRIC_REGISTRY',
    'MODEL_REGISTRY',
    'SOURCE_REGISTRY',
    'UNIT_REGISTRY',
    'import_plugins',
    'lookup',
    'register',
    'register_all',
]
