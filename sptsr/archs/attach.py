"""The networks' part of the public API: units into a network, out of it, to a file and back."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

from torch import nn

from sptsr.archs.adapter import apply_adapter, read_adapter, save_adapter
from sptsr.archs.backbone import Found, build_network, probe_of, size_rules
from sptsr.archs.recipes import find_recipe
from sptsr.archs.sites import check_patterns
from sptsr.archs.spt_arch import SPTNet
from sptsr.archs.survey import survey
from sptsr.archs.undo import undone_on_error
from sptsr.archs.units import stem_section
from sptsr.archs.weights import StateDigest
from sptsr.core.errors import UserError
from sptsr.core.homes import expanded, path_of
from sptsr.core.registry import STEM_REGISTRY, UNIT_REGISTRY, lookup, register_all
from sptsr.core.signatures import argument_problems, parameters
from sptsr.masks.prior import MAX_MASKS
from sptsr.options.schema import check_network
from sptsr.options.tune import tune_problems

_ASSETS = Path(__file__).parents[1] / 'assets'


def attach(
    backbone: nn.Module | Mapping[str, Any],
    sites: str | Sequence[str] = 'auto',
    unit: str = 'ModulationUnit',
    num_masks: int = MAX_MASKS,
    **unit_options: Any,
) -> SPTNet:
    """Puts units into a network.

    The network is frozen and goes into eval mode; its forward pass alone is what it was. Until the units are
    trained, the result gives the network's own images, bit for bit. Units have its device and dtype.

    Args:
        backbone: any `nn.Module` that maps an image [B, C, h, w] in 0..1 to one at a whole scale, or a section
            `{'type': NAME, ...}` of a registered network.
        sites: glob patterns of module paths, such as `['body.*']`. `'auto'` takes the recipe of a network that sptsr
            knows, else the repeated blocks that `sptsr sites` proposes.
        unit: name of a registered unit.
        num_masks: masks that the network is given, 1..64.
        unit_options: arguments of the unit, such as `width=16`.

    Returns:
        the network with units: `net(lq, masks)`; only `net.adapter_parameters()` are trainable.

    Raises:
        UserError: unknown names or arguments, or sites that no unit can refine.
    """
    if not isinstance(unit, str):
        raise UserError(
            f'attach: unit is a {type(unit).__name__}; give its name, and its arguments by keyword: width=16'
        )
    register_all()
    section = {'type': unit, **unit_options}
    _check_unit(section, 'attach')
    sites = list(sites) if isinstance(sites, Iterable) and not isinstance(sites, str) else sites
    num_masks = _plain(num_masks)
    given = {'sites': sites, 'num_masks': num_masks}
    _refuse(argument_problems(parameters(SPTNet, ('backbone',)), given, 'the network'), 'attach')
    if not isinstance(backbone, nn.Module | Mapping):
        raise UserError(
            f'attach: a {type(backbone).__name__} is no network; give a module, or a section {{type: NAME, ...}}'
        )
    if isinstance(backbone, SPTNet):
        raise UserError('attach: this network has units; sptsr.detach gives its backbone back')
    if isinstance(backbone, Mapping):
        _check_section(dict(backbone), 'attach')
    net = build_network(backbone)
    name = backbone['type'] if isinstance(backbone, Mapping) else type(net).__name__
    if sites == 'auto' and find_recipe(name) is None:
        sites = _proposed_sites(net)
    with undone_on_error(backbone):
        return SPTNet(backbone, sites=sites, unit=section, num_masks=num_masks)


def _proposed_sites(net: nn.Module) -> list[str]:
    found = Found.of(net)
    try:
        sites = survey(net.eval(), probe_of(net, size_rules(net))).proposal
    finally:
        found.put_back(net)
    if not sites:
        raise UserError(f'attach: no module of {type(net).__name__} gives a feature map that a unit could refine')
    return sites


def detach(net: SPTNet) -> nn.Module:
    """Takes the units out of a network and returns the backbone as `attach` found it.

    What was tuned of the backbone itself (`tune: all`, `lora` or `bias`) is undone. Its hooks are gone; the modes of
    its modules and `requires_grad` of its parameters are put back, where other networks tune it too as soon as the last
    of them is taken out. `net` is of no use afterwards.

    Raises:
        UserError: `net` has no units.
    """
    _check_units(net, 'detach')
    for hook in net.hooks:
        hook.remove()
    if net.learned:
        net.learned.take_out()
    if not StateDigest.of(net.backbone):
        net.found.put_back(net.backbone)
    return net.backbone


def save(net: SPTNet, path: str | os.PathLike[str], iteration: int = 0) -> None:
    """Writes the units of a network as an adapter file (safetensors), atomically; the backbone is not in it.

    Args:
        net: from `attach` or `load`.
        path: ends in `.safetensors`.
        iteration: training iterations so far, for the record.

    Raises:
        UserError: `net` has no units, or the file cannot be written.
    """
    _check_units(net, 'save')
    path = path_of(path, 'save')
    if not path.endswith('.safetensors'):
        raise UserError(f'{path}: an adapter is a .safetensors file; name it so')
    save_adapter(path, net, net.options, _plain(iteration), trained_with=net.trained_with)


def load(
    path: str | os.PathLike[str],
    backbone: nn.Module | Mapping[str, Any] | None = None,
    weights: str | os.PathLike[str] | None = None,
) -> SPTNet:
    """Reads an adapter file and returns the network that it was trained for, with its units, in eval mode.

    The moving average is taken where the file has one.

    Args:
        path: of the adapter.
        backbone: the network, pretrained: as a module with its weights, or as a section `{'type': NAME, ...}`. None
            builds the one that the file describes.
        weights: checkpoint of the backbone, where it is not at the path that the file names.

    Raises:
        UserError: unreadable, made on a network that must be given, or for other weights than these.
    """
    register_all()
    path = path_of(path, 'load')
    if backbone is not None and not isinstance(backbone, nn.Module | Mapping):
        raise UserError(
            f'load: backbone is a {type(backbone).__name__}; give a module, or a section {{type: NAME, ...}}'
        )
    adapter = read_adapter(path)
    section = expanded(dict(adapter.network_g))
    described = section.get('backbone')
    stored = section.get('backbone_weights')
    of_file = None  # the section of a network that is made of its checkpoint
    if backbone is None and stored is None and isinstance(described, Mapping) and described.get('type') == 'spandrel':
        of_file, stored = described, described.get('path')
    if backbone is not None:
        section.update(backbone=backbone, backbone_weights=None)
    elif not isinstance(described, Mapping) or 'type' not in described:
        made_on = described.get('module', 'a network') if isinstance(described, Mapping) else 'a network'
        raise UserError(f'{path}: was trained on {made_on}, which the file cannot rebuild; give it as backbone=')
    elif weights is None and isinstance(stored, str) and not os.path.isfile(stored):
        shipped = _ASSETS / os.path.basename(stored)
        if not shipped.is_file():
            raise UserError(
                f"{path}: the backbone's weights {stored} are not here; say where with weights= (--weights FILE)"
            )
        section['backbone_weights'] = str(shipped)  # of the demo, made where sptsr was installed elsewhere
    if weights is not None and of_file is not None:
        section['backbone'] = {**of_file, 'path': path_of(weights, 'load')}
    elif weights is not None:
        section['backbone_weights'] = path_of(weights, 'load')
    if not isinstance(section['backbone'], nn.Module):
        _check_section(section['backbone'], str(path))
    rest = {key: value for key, value in section.items() if key not in ('type', 'backbone')}
    _refuse(argument_problems(parameters(SPTNet, ('backbone',)), rest, 'the adapter'), str(path))
    _refuse(tune_problems(rest), str(path))
    for key in ('sites', 'lora_sites'):
        check_patterns(rest.get(key), f'{path}: {key}')
    _check_unit(rest.get('unit') or {}, str(path))
    with undone_on_error(backbone):
        net = SPTNet(section['backbone'], **rest)
        apply_adapter(net, adapter, path)
    return net.eval()


def _check_section(section: Mapping[str, Any], what: str) -> None:
    _refuse(check_network(section), what)


def _check_unit(section: Mapping[str, Any], what: str) -> None:
    name = str(section.get('type', 'ModulationUnit'))
    arguments = {key: value for key, value in section.items() if key != 'type'}
    _refuse(argument_problems(parameters(_own(UNIT_REGISTRY, name), ('channels',)), arguments, name), what)
    if 'stem' in section:
        name, arguments = stem_section(section['stem'])
        given = ('in_channels', 'num_masks', 'width')
        _refuse(argument_problems(parameters(_own(STEM_REGISTRY, name), given), arguments, f'stem {name}'), what)


def _own(registry: Any, name: str) -> Any:
    """Returns a registered part that an adapter names; one of a plug-in file must have been imported."""
    try:
        return lookup(registry, name)
    except UserError as error:
        raise UserError(f'{error}; of your own? import its file first (--plugins FILE.py)') from error


def _refuse(problems: Sequence[tuple[Any, str]], what: str) -> None:
    if problems:
        raise UserError(f'{what}: {problems[0][1]}')


def _plain(number: Any) -> Any:
    """Returns whole numbers of numpy as those of Python, and other values as they are."""
    return int(number) if isinstance(number, Integral) and not isinstance(number, bool) else number


def _check_units(net: object, what: str) -> None:
    if not isinstance(net, SPTNet):
        raise UserError(f'{what}: a {type(net).__name__} has no units; give what sptsr.attach returned')
