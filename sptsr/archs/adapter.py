"""The adapter file: what was trained, and what is needed to rebuild it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor

from sptsr.archs.spt_arch import SPTNet
from sptsr.archs.undo import undone_on_error
from sptsr.archs.weights import state_digest
from sptsr.core.errors import UserError
from sptsr.core.files import parse_json, sha256_tensors, write_bytes
from sptsr.core.values import Range, misfit
from sptsr.core.version import RULES, __version__

_FORMAT = 'sptsr-adapter-1'
_NO_ADAPTER = 'it is a .safetensors written by sptsr; weights of a network go to backbone_weights, or --weights'
# What the metadata says: keys that must be there, and keys that may.
_NEEDED: dict[str, Any] = {
    'network_g': dict,
    'backbone_sha256': str,
    'iteration': Annotated[int, Range(0, 10**12)],
    'sptsr': str,
}
_MORE: dict[str, Any] = {
    'rules': Annotated[int, Range(1, 10**6)],
    'untrained': Annotated[float, Range(0, 1)],
    'sha256': str,
    'trained_with': dict,
}
SIGMA = float | list[float]  # a level or a range
_TRAINED_WITH = {'dataset': str, 'seed': int, 'sigma': SIGMA | None, 'prior': dict}
_PRIOR = {
    'source': str,
    'params': dict,
    'weights_sha256': str | None,
    'max_masks': Annotated[int, Range(1, 64)],
    'fine': Annotated[int, Range(1, 4)],
}


@dataclass(frozen=True)
class Adapter:
    """A read adapter.

    Attributes:
        params: tensors of stem and units by name; where the backbone itself was tuned (`network_g.tune`), those of it
            that were (see `sptsr.archs.learned`).
        params_ema: their moving average, or None.
        network_g: the options that the network was built from.
        backbone_sha256: digest of the backbone's tensors (see `state_digest`).
        iteration: number of training iterations.
        version: of the sptsr that wrote it.
        untrained: share of the untrained adapter in `params_ema`, 0..1; None where the file does not say it.
            sptsr 0.1 did not, and its averages hold ema_decay^iteration.
        trained_with: what else is known of the training, JSON values: `dataset` (name), `seed`, `sigma` (noise level
            of 255), `prior` (`source`, `params`, `weights_sha256`, `max_masks` and `fine` of the store) and `metrics`
            (means by validation set and metric, where it was validated as it was saved); empty where the file does
            not say it.
        rules: which rules its units follow (see `RULES` in sptsr/core/version.py).
    """

    params: dict[str, Tensor]
    params_ema: dict[str, Tensor] | None
    network_g: dict[str, Any]
    backbone_sha256: str
    iteration: int
    version: str
    untrained: float | None
    rules: int
    trained_with: dict[str, Any] = field(default_factory=dict)

    @property
    def tune(self) -> str:
        """The way it was tuned."""
        return str(self.network_g.get('tune', 'adapter'))

    def entry(self, key: str | None, path: str | os.PathLike[str]) -> str:
        """Returns which tensors are meant, `params` or `params_ema`; None means the average where there is one.

        Raises:
            UserError: names `path`, when the adapter has no such entry.
        """
        if key is None:
            return 'params' if self.params_ema is None else 'params_ema'
        entries = ['params'] if self.params_ema is None else ['params', 'params_ema']
        if key not in entries:
            raise UserError(f"{path}: the adapter has no entry '{key}'; it has {', '.join(entries)}")
        return key


def save_adapter(
    path: str | os.PathLike[str],
    net: SPTNet,
    network_g: Mapping[str, Any],
    iteration: int,
    params_ema: Mapping[str, Tensor] | None = None,
    untrained: float = 0.0,
    trained_with: Mapping[str, Any] | None = None,
) -> None:
    """Writes the adapter of a network atomically, as safetensors; what is frozen of the backbone is not in it.

    Args:
        path: of the file.
        net: has the adapter.
        network_g: the options that the network was built from.
        iteration: number of training iterations.
        params_ema: moving average of the adapter by name, or None.
        untrained: share of the untrained adapter in `params_ema`, 0..1.
        trained_with: see `Adapter`.

    Raises:
        UserError: a count of iterations that is none, a folder that cannot be written, or a full disk.
    """
    if misfit(iteration, _NEEDED['iteration']) is not None:
        raise UserError(f'{path}: iteration {iteration!r} is not a whole number from 0 on')
    tensors = {f'params.{name}': value for name, value in net.adapter_state().items()}
    if params_ema is not None:
        tensors |= {f'params_ema.{name}': value for name, value in params_ema.items()}
    # safetensors refuses tensors that share storage, and channels-last ones must be contiguous
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    record = {
        'network_g': dict(network_g),
        'backbone_sha256': net.backbone_digest(),
        'iteration': iteration,
        'rules': net.rules,
        'sptsr': __version__,
        'sha256': sha256_tensors(plain),
        **({} if params_ema is None else {'untrained': untrained}),
        **({'trained_with': dict(trained_with)} if trained_with else {}),
    }
    # One metadata key: safetensors writes several in a random order, and equal runs must give equal bytes.
    metadata = {_FORMAT: json.dumps(record, sort_keys=True)}
    write_bytes(path, serialize(plain, metadata))  # the writer of safetensors reports a full disk in its own way


def read_adapter(path: str | os.PathLike[str]) -> Adapter:
    """Reads an adapter file; raises UserError when it is missing, damaged, or something else."""
    if not Path(path).is_file():
        raise UserError(f'{path}: no such file; check the path of the adapter')
    try:
        with safe_open(path, framework='pt', device='cpu') as handle:
            metadata = handle.metadata() or {}
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise UserError(f'{path}: not a readable adapter ({error}); {_NO_ADAPTER}') from error
    if _FORMAT not in metadata:
        raise UserError(f'{path}: not an adapter of this format ({_FORMAT}); {_NO_ADAPTER}')
    record = _read_record(metadata[_FORMAT], path)
    digest = sha256_tensors(tensors)
    if record.get('sha256', digest) != digest:  # the first adapters have none
        raise UserError(f'{path}: damaged (its tensors have another checksum); copy it again or take another')
    groups: dict[str, dict[str, Tensor]] = {'params': {}, 'params_ema': {}}
    for name, tensor in tensors.items():
        group, _, rest = name.partition('.')
        if group not in groups:
            raise UserError(f"{path}: not an adapter (a tensor is called '{name}'); take one written by sptsr")
        groups[group][rest] = tensor
    return Adapter(
        params=groups['params'],
        params_ema=groups['params_ema'] or None,
        network_g=record['network_g'],
        backbone_sha256=record['backbone_sha256'],
        iteration=record['iteration'],
        version=record['sptsr'],
        untrained=record.get('untrained'),
        trained_with=record.get('trained_with', {}),
        rules=record.get('rules', 1),  # 0.1 wrote none
    )


def _read_record(text: str, path: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns the record of an adapter's metadata; raises UserError where it lacks something."""
    try:
        record = parse_json(text)
    except ValueError as error:
        raise UserError(f'{path}: damaged (its metadata is not JSON); copy it again or take another') from error
    if not isinstance(record, dict):
        raise UserError(f'{path}: damaged (its metadata is not a JSON object); copy it again or take another')
    for name in _NEEDED.keys() - record.keys():
        raise _unusable(path, name)
    _must_fit(record, _NEEDED | _MORE, path)
    trained_with = record.get('trained_with', {})
    _must_fit(trained_with, _TRAINED_WITH, path, 'trained_with.')
    _must_fit(trained_with.get('prior', {}), _PRIOR, path, 'trained_with.prior.')
    return record


def _must_fit(record: Mapping[str, Any], hints: Mapping[str, Any], path: str | os.PathLike[str], at: str = '') -> None:
    """Raises UserError for a value that is none of its key's; other keys are of a newer sptsr."""
    for name in record.keys() & hints.keys():
        if misfit(record[name], hints[name]) is not None:
            raise _unusable(path, f'{at}{name}')


def _unusable(path: str | os.PathLike[str], name: str) -> UserError:
    return UserError(f"{path}: damaged (its metadata has no usable '{name}'); copy it again or take another")


def load_adapter(net: SPTNet, path: str | os.PathLike[str], key: str | None = None) -> Adapter:
    """Loads an adapter file into a network that has the same backbone, weights, sites and unit.

    Args:
        net: the network.
        path: the file.
        key: `params`, or `params_ema` for the moving average; None takes the average where there is one.

    Raises:
        UserError: trained for another backbone or other weights, tensors that do not fit, or no such entry.
    """
    adapter = read_adapter(path)
    apply_adapter(net, adapter, path, key)
    return adapter


def apply_adapter(net: SPTNet, adapter: Adapter, path: str | os.PathLike[str], key: str | None = None) -> None:
    """Loads an adapter that was read from `path` into a network; see `load_adapter`."""
    if not is_backbone_of(net, adapter.backbone_sha256):
        backbone = adapter.network_g.get('backbone')
        named = backbone if isinstance(backbone, dict) else {}
        was = named.get('type') or named.get('module') or 'another network'
        weights, keys = adapter.network_g.get('backbone_weights'), 'backbone and backbone_weights'
        if was == 'spandrel' and not weights:
            weights, keys = named.get('path'), 'path of the backbone'
        weights = f'the weights {weights}' if weights else 'weights of its own'
        raise UserError(
            f'{path}: the adapter was trained for {was} with {weights}, and this backbone holds others; set '
            f'{keys} to those it was trained for'
        )
    if adapter.rules not in range(1, RULES + 1):
        raise UserError(f'{path}: written by a newer sptsr ({adapter.version}); update sptsr')
    if adapter.tune != net.tune:
        raise UserError(
            f'{path}: was tuned by tune: {adapter.tune}, and this network is by tune: {net.tune}; make them agree'
        )
    average = adapter.params_ema if adapter.entry(key, path) == 'params_ema' else None
    with undone_on_error(net):
        net.use_rules(adapter.rules)
        load_params(net, adapter.params if average is None else average, path)
    net.trained_with = adapter.trained_with


def is_backbone_of(net: SPTNet, digest: str) -> bool:
    """Returns whether a digest in an adapter or a training state is that of this backbone.

    sptsr 0.1 took it after the network had run. That differs for networks that compute some of their tensors from
    others while they run (SPAN).
    """
    return digest == net.backbone_digest() or digest == state_digest(net.backbone)


@torch.no_grad()
def load_params(net: SPTNet, params: Mapping[str, Tensor], path: str | os.PathLike[str]) -> None:
    """Copies adapter tensors into a network; raises UserError unless names and shapes are the same."""
    own = net.adapter_state()
    different = sorted(own.keys() ^ params.keys())
    different += sorted(n for n in own.keys() & params.keys() if own[n].shape != params[n].shape)
    if different:
        keys = 'sites and rank' if not net.units else 'sites, unit, num_masks, rank and lora_sites'
        raise UserError(
            f"{path}: the adapter's tensors do not fit ({len(different)} differ, such as '{different[0]}'); "
            f'set {keys} to those it was trained with'
        )
    with net.unmerged():
        for name, value in own.items():
            value.copy_(params[name])
