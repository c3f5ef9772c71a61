"""`sptsr sites`: candidate sites of any network as a table, and YAML lines to paste."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import yaml
from torch import nn

from sptsr.archs.backbone import build_network, place, probe_of, size_rules
from sptsr.archs.recipes import find_recipe
from sptsr.archs.survey import Candidate, Survey, survey
from sptsr.core.errors import UserError
from sptsr.core.registry import ARCH_REGISTRY, import_named, import_plugins, lookup, register_all
from sptsr.core.signatures import argument_problems, parameters
from sptsr.core.version import RULES
from sptsr.core.yaml_io import read_settings
from sptsr.options.calling import split_calling
from sptsr.options.load import load_network
from sptsr.report.tables import text_table


def describe_network(name: str, settings: Sequence[str] = ()) -> str:
    """Returns the report on a network: `NAME`, or `path/to/file.py:NAME`, with arguments as `k=v`.

    What a known network needs and was not given is taken from a usual one of its kind.

    Raises:
        UserError: no such network or file, wrong arguments, or no module gives a feature map.
    """
    arch, plugins = import_named(name)
    if plugins and arch not in ARCH_REGISTRY:  # it does not register itself
        import_plugins([name])
        plugins = [name]
    arguments = read_settings(settings, 'sites')
    recipe = find_recipe(arch)
    network = lookup(ARCH_REGISTRY, arch)
    if recipe:  # all of a usual network's arguments, or those that have no default
        needed = [name for name, p in parameters(network).items() if not arguments or p.default is p.empty]
        arguments = {name: recipe.usual[name] for name in needed if name in recipe.usual} | arguments
    known = parameters(network)
    problems = argument_problems(known, split_calling(arguments, known)[0], arch)
    if problems:
        raise UserError(f'sites: {"; ".join(message for _, message in problems)}; give arguments as k=v')
    return _report({'type': arch, **arguments}, plugins)


def describe_options(path: str) -> str:
    """Returns the report on the backbone (or bare network) of an option file."""
    network, opt = load_network(path)
    register_all()
    return _report(network['backbone'] if network['type'] == 'SPTNet' else network, opt.get('plugins') or [])


def _report(section: Mapping[str, Any], plugins: Sequence[str]) -> str:
    net = build_network(section).eval().requires_grad_(False)
    sizes = size_rules(net, section)
    probe = probe_of(net, sizes)
    found = survey(net, probe)
    height, width = probe.shape[-2:]
    asks = f', image sizes a multiple of {sizes.multiple}' if sizes.multiple > 1 else ''
    lines = [
        f'{section["type"]}: {sum(p.numel() for p in net.parameters()):,} parameters, scale {found.scale}{asks}; '
        f'outputs for an image of {height}x{width} (height x width)',
        '',
        _table(found.candidates),
        '',
        *_proposal(net, section, plugins, found),
    ]
    return '\n'.join(lines)


def _table(candidates: Sequence[Candidate]) -> str:
    rows = [
        [
            candidate.pattern,
            candidate.kind,
            str(len(candidate.paths)),
            'x'.join(map(str, candidate.shape[1:])),
            candidate.layout,
            _stride(candidate.grid.stride),
            str(candidate.calls),
            f'{candidate.params:,}',
        ]
        for candidate in candidates
    ]
    return text_table(['site', 'class', 'modules', 'output', 'layout', 'stride', 'calls', 'parameters'], rows, left=2)


def _stride(stride: float) -> str:
    return f'{stride:g}' if stride >= 1 else f'1/{1 / stride:g}' if math.isclose(1 / stride % 1, 0) else f'{stride:.3g}'


def _proposal(net: nn.Module, section: Mapping[str, Any], plugins: Sequence[str], found: Survey) -> list[str]:
    if not found.proposal:
        raise UserError(f'sites: no module of {section["type"]} gives a feature map that a unit could refine')
    lines = [f'Proposal ({found.units} units, repeated blocks at one resolution), for an option file:', '']
    if not found.repeats:
        lines = [
            'No block repeats in this network, so there is no usual place for units. The proposal takes the modules of',
            f'one kind that do most of the work ({found.units} units); others from the table may be better:',
            '',
        ]
    options: dict[str, Any] = {'plugins': list(plugins)} if plugins else {}
    network = {'type': 'SPTNet', 'backbone': dict(section), 'sites': found.proposal}
    text = yaml.safe_dump({**options, 'network_g': network}, sort_keys=False, default_flow_style=None, width=100)
    lines += [text.rstrip()]
    if find_recipe(section['type']):
        with suppress(UserError):  # of so few blocks that it finds no place
            sites = place(net, section, 'auto').sites_of_units(RULES)
            several = f'{len(sites)} units, {sites[0].path} to {sites[-1].path}'
            found_units = several if len(sites) > 1 else f'1 unit, {sites[0].path}'
            lines += ['', f'`sites: auto` knows this network: {found_units}.']
    return lines
