"""What is recorded of an evaluation: the results of a set, `metrics.json`, and how both are shown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sptsr.core.version import __version__
from sptsr.evaluation.statistics import half_width

if TYPE_CHECKING:
    from sptsr.evaluation.metrics import Metric

LARGEST = 1 << 28  # bytes of our own JSON that are read: some 0.5 kB an image in metrics.json, 2 kB a run in runs.json
_NAMED = 3


class Results(dict[str, dict[str, Any]]):
    """The results of one set by metric.

    A record has:
        mean: over the images with a finite value; None when there is none.
        ci95: half width of the 95 % interval of the mean over images; None when unknown.
        per_image: {key: value}; infinite and NaN values stay in it.
        excluded: {key: reason} of the images that are not in the mean: `inf`, `-inf`, `nan`, or why the metric failed.
        options: of the metric, defaults filled in.
        masks: digest of what made the masks of its band, for a metric of a band.

    Attributes:
        images: {key: digest of its GT (of the LQ image where there is no GT)}; empty without metrics.
        inputs: {key: digest of its LQ image}; empty without metrics.
        left_out: names of metrics that need GT, where the set has none.
    """

    def __init__(self, records: Mapping[str, dict[str, Any]]) -> None:
        super().__init__(records)
        self.images: dict[str, str] = {}
        self.inputs: dict[str, str] = {}
        self.left_out: list[str] = []


def add_means(results: Results, metrics: Sequence[Metric]) -> None:
    """Completes the records from their `per_image` values and the reasons of failures in `excluded`."""
    for metric in metrics:
        record = results[metric.name]
        values, reasons = record['per_image'], record['excluded']
        finite = [value for value in values.values() if math.isfinite(value)]
        results[metric.name] = {
            'mean': math.fsum(finite) / len(finite) if finite else None,
            'ci95': half_width(finite),
            'per_image': values,
            'excluded': {
                key: reasons.get(key, str(value)) for key, value in values.items() if not math.isfinite(value)
            },
            'options': metric.options,
            **({'masks': metric.masks} if metric.masks else {}),
        }


def metrics_json(
    name: str,
    options_sha256: str,
    results: Mapping[str, Results],
    params: Mapping[str, int],
    adapter: Mapping[str, Any] | None = None,
    saved_images: bool = False,
) -> dict[str, Any]:
    """Returns the content of `metrics.json`.

    Args:
        name: of the test.
        options_sha256: digest of its options.
        results: by dataset.
        params: numbers of parameters.
        adapter: what is known of the adapter that was tested; its `seed` is that of the training.
        saved_images: whether the restored images of all datasets were written.
    """
    return {
        'name': name,
        'sptsr': __version__,
        'options_sha256': options_sha256,
        'seed': None if adapter is None else adapter['seed'],
        'datasets': {dataset: _to_json(records) for dataset, records in results.items()},
        'images': {dataset: records.images for dataset, records in results.items()},
        'inputs': {dataset: records.inputs for dataset, records in results.items()},
        'params': dict(params),
        'adapter': adapter,
        'saved_images': saved_images,
    }


def _to_json(results: Results) -> dict[str, dict[str, Any]]:
    """Returns the records for JSON, which has no infinity and no NaN: they become text, as in 0.1."""
    return {
        metric: {
            **record,
            'per_image': {key: plain_number(value) for key, value in record['per_image'].items()},
            'options': {key: plain_number(value) for key, value in record['options'].items()},
        }
        for metric, record in results.items()
    }


def shown_mean(record: Mapping[str, Any]) -> str:
    """Returns the mean with its interval, as in a log line: `32.2110 ± 1.5`, or `none`."""
    if record['mean'] is None:
        return 'none'
    return f'{record["mean"]:.4f}' + ('' if record['ci95'] is None else f' ± {record["ci95"]:.4f}')


def shown_exclusions(record: Mapping[str, Any]) -> str:
    """Returns which images are not in the mean: `1 of 5 left out: flat (inf)`; empty when all are."""
    excluded = record['excluded']
    if not excluded:
        return ''
    named = [f'{key} ({reason})' for key, reason in list(excluded.items())[:_NAMED]]
    more = f' and {len(excluded) - _NAMED} more' if len(excluded) > _NAMED else ''
    return f'{len(excluded)} of {len(record["per_image"])} left out: {", ".join(named)}{more}'


def plain_number(value: Any) -> Any:
    """Returns a value as `metrics.json` holds it: infinite numbers and NaN, which JSON has not, as text."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
