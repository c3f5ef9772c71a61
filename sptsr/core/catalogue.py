"""Names and signatures of what can be named in options, from source text.

Importing BasicSR with all its networks takes seconds, and torch takes most of what is left. A misspelt key needs
neither: which names are registered, and with which arguments, stands in the source files. What a process has
registered already, a plug-in's network say, is taken from the registries.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
import sys
import types
import typing
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from inspect import Parameter
from pathlib import Path
from typing import Any

from sptsr.core.errors import UserError, one_of
from sptsr.core.signatures import parameters
from sptsr.core.values import Range

# Packages and modules that register something when they are imported.
BASICSR = ('basicsr.archs', 'basicsr.data', 'basicsr.losses', 'basicsr.metrics', 'basicsr.models')
OWN = (
    'sptsr.archs.backbones.carn_arch',
    'sptsr.archs.backbones.denoisers_arch',
    'sptsr.archs.backbones.imdn_arch',
    'sptsr.archs.backbones.spandrel_arch',
    'sptsr.archs.geometry',
    'sptsr.archs.stems',
    'sptsr.archs.units',
    'sptsr.archs.spt_arch',
    'sptsr.data.degraded',
    'sptsr.data.denoising',
    'sptsr.data.paired',
    'sptsr.evaluation.perceptual',
    'sptsr.tuning.model',
    'sptsr.priors.sources.felzenszwalb',
    'sptsr.priors.sources.labels',
    'sptsr.priors.sources.no_masks',
    'sptsr.priors.sources.random_regions',
    'sptsr.priors.sources.sam',
)
_NO_OPTIMIZER = {
    'Optimizer',
    'LBFGS',  # runs the network several times a step
    'SparseAdam',  # for sparse gradients
    'Muon',  # for matrices only
}
# Their arguments are functions or other schedulers, or a metric is their input.
_NO_SCHEDULER = {
    'LRScheduler',
    'LambdaLR',
    'MultiplicativeLR',
    'SequentialLR',
    'ChainedScheduler',
    'ReduceLROnPlateau',
}
# Above a class or function: `@X_REGISTRY.register(suffix='s')` of BasicSR and our `@register(X_REGISTRY, 'name', ...)`.
_DECORATOR = re.compile(
    r"^@(?:(\w+)_REGISTRY\.register\((?:suffix='(\w+)')?\)|register\((\w+)_REGISTRY(?:, '(\w+)')?[^)]*\))\n"
    r'(?:@.*\n)*(?:class|def) (\w+)',
    re.MULTILINE,
)
_HINTS = {kind.__name__: kind for kind in (bool, int, float, str, list, tuple, dict)}
_HINTS |= {'List': list, 'Tuple': tuple, 'Sequence': list, 'Iterable': list, 'Dict': dict, 'Mapping': dict}


@dataclass(frozen=True)
class Entry:
    """A class or function that options can name.

    Attributes:
        module, name: where it is defined.
        loaded: the object itself; None where it is known from source text only.
    """

    module: str
    name: str
    loaded: Any = None

    def parameters(self, method: str = '__init__') -> dict[str, Parameter] | None:
        """Returns the parameters of a method (of a function: its own) as `sptsr.core.signatures.parameters` does.

        None where a class has no such method.
        """
        if self.loaded is None:
            found = _arguments(self.module, self.name, method)
            return {} if found is None and method == '__init__' else found
        function = self.loaded if method == '__init__' else getattr(self.loaded, method, None)
        return None if function is None else parameters(function)


def find(kind: str, name: str) -> Entry:
    """Returns the entry of a name.

    Args:
        kind: `arch`, `dataset`, `loss`, `metric`, `model`, `unit`, `stem`, `source`, `optimizer` or `scheduler`.
        name: as options give it.

    Raises:
        UserError: no such name; the message has the nearest right one.
    """
    known = entries(kind)
    return known[full_name(kind, name, known)]


def entries(kind: str) -> dict[str, Entry]:
    """Returns all entries of a kind by name; what is registered in this process comes first."""
    if kind == 'optimizer':
        return _optimizers()
    if kind == 'scheduler':
        return _schedulers()
    registries = sys.modules.get('sptsr.core.registry')
    registry = getattr(registries, f'{kind.upper()}_REGISTRY', None)
    loaded = {} if registry is None else {key: Entry(o.__module__, o.__name__, o) for key, o in registry}
    return {**_from_source()[kind], **loaded}


def full_name(kind: str, name: str, known: Collection[str]) -> str:
    """Returns the name itself if it is known, else `NAME_basicsr`; raises UserError with the nearest name."""
    for candidate in (name, f'{name}_basicsr'):
        if candidate in known:
            return candidate
    word = kind.replace('optimizer', 'optimiser')
    raise UserError(f"no {word} is called '{name}'{one_of(name, known)}")


@functools.cache
def _from_source() -> dict[str, dict[str, Entry]]:
    found: dict[str, dict[str, Entry]] = {kind: {} for kind in ('unit', 'stem', 'source')}
    modules = [module for package in BASICSR for module in _modules_in(package)]
    for module in (*modules, *OWN):
        for theirs, suffix, ours, other_name, name in _DECORATOR.findall(_path(module).read_text(encoding='utf-8')):
            key = other_name or (f'{name}_{suffix}' if suffix else name)
            found.setdefault((theirs or ours).lower(), {})[key] = Entry(module, name)
    return found


@functools.cache
def _optimizers() -> dict[str, Entry]:
    imports = [node for node in _tree('torch.optim').body if isinstance(node, ast.ImportFrom)]
    names = [(node.module, alias.name) for node in imports for alias in node.names]
    return {
        name: Entry(str(module), name)
        for module, name in names
        if name[0].isupper() and name not in _NO_OPTIMIZER and str(module).startswith('torch.optim.')
    }


@functools.cache
def _schedulers() -> dict[str, Entry]:
    module, base = 'torch.optim.lr_scheduler', {'LRScheduler', '_LRScheduler'}
    found = {}
    for node in _tree(module).body:
        if isinstance(node, ast.ClassDef) and base & {ast.unparse(parent) for parent in node.bases}:
            base.add(node.name)
            if not node.name.startswith('_') and node.name not in _NO_SCHEDULER:
                found[node.name] = Entry(module, node.name)
    of_basicsr = 'basicsr.models.lr_scheduler'
    return found | {
        'MultiStepLR': Entry(of_basicsr, 'MultiStepRestartLR'),  # BasicSR's name for it
        'MultiStepRestartLR': Entry(of_basicsr, 'MultiStepRestartLR'),
        'CosineAnnealingRestartLR': Entry(of_basicsr, 'CosineAnnealingRestartLR'),
    }


def _modules_in(package: str) -> list[str]:
    return [f'{package}.{path.stem}' for path in sorted(_path(package).parent.glob('*.py'))]


@functools.cache
def _path(module: str) -> Path:
    """Returns the source file of a module without importing anything."""
    package, *parts = module.split('.')
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f'{package} is not installed; see docs/install.md')
    path = Path(spec.submodule_search_locations[0], *parts)
    return path / '__init__.py' if path.is_dir() else path.with_suffix('.py')


@functools.cache
def _tree(module: str) -> ast.Module:
    return ast.parse(_path(module).read_text(encoding='utf-8'))


def _arguments(module: str, name: str, method: str) -> dict[str, Parameter] | None:
    """Returns the parameters of a function, or of a class's method, its own or inherited; None where there is none."""
    for node in _tree(module).body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return dict(_parameters(node.args)) if method == '__init__' else None
        if isinstance(node, ast.ClassDef) and node.name == name:
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef) and inner.name == method:
                    return dict(_parameters(inner.args))
            if method == '__init__' and any('dataclass' in ast.unparse(entry) for entry in node.decorator_list):
                return _fields(module, node)
            found = (_arguments(module, base.id, method) for base in node.bases if isinstance(base, ast.Name))
            return next((arguments for arguments in found if arguments is not None), None)
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _arguments(origin, alias.name, method) if (origin := _origin(module, node)) else None
    return None


def _fields(module: str, node: ast.ClassDef) -> dict[str, Parameter]:
    """Returns the parameters of a dataclass's `__init__`: its own fields, then those of its bases (keyword-only)."""
    found = {}
    for inner in node.body:
        if isinstance(inner, ast.AnnAssign) and 'init=False' not in ast.unparse(inner):
            name = ast.unparse(inner.target)
            value = Parameter.empty if inner.value is None else _literal(inner.value)
            found[name] = Parameter(name, Parameter.KEYWORD_ONLY, default=value, annotation=_hint(inner.annotation))
    for base in node.bases:
        if isinstance(base, ast.Name):
            found |= _arguments(module, base.id, '__init__') or {}
    return found


def _origin(module: str, node: ast.ImportFrom) -> str | None:
    """Returns the module that an import names; None outside BasicSR and sptsr."""
    package = module.split('.')[: -node.level] if node.level else []
    origin = '.'.join([*package, *([node.module] if node.module else [])])
    return origin if origin.split('.')[0] in ('basicsr', 'sptsr') else None


def _parameters(arguments: ast.arguments) -> Iterator[tuple[str, Parameter]]:
    named = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(named) - len(arguments.defaults)) + arguments.defaults + arguments.kw_defaults
    for argument, default in zip([*named, *arguments.kwonlyargs], defaults, strict=True):
        if argument.arg != 'self':
            annotation = Parameter.empty if argument.annotation is None else _hint(argument.annotation)
            value = Parameter.empty if default is None else _literal(default)
            yield argument.arg, Parameter(argument.arg, Parameter.KEYWORD_ONLY, default=value, annotation=annotation)


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ...  # a name: some value that is no plain one


def _hint(node: ast.expr) -> Any:
    """Returns the type that an annotation means; Any where that is none of a YAML value's."""
    if isinstance(node, ast.Constant):
        if node.value in (None, ...):
            return type(None) if node.value is None else ...
        return _hint(ast.parse(str(node.value), mode='eval').body)
    if isinstance(node, ast.BinOp):
        return typing.Union[_hint(node.left), _hint(node.right)]  # noqa: UP007 (known at run time only)
    if isinstance(node, ast.Subscript):
        inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        match ast.unparse(node.value):
            case 'Annotated':
                ranges = [_range(item) for item in inner[1:]]
                return typing.Annotated[(_hint(inner[0]), *ranges)]
            case 'Literal':
                return typing.Literal[tuple(ast.literal_eval(item) for item in inner)]
            case 'Optional':
                return typing.Optional[_hint(inner[0])]  # noqa: UP045
            case 'Union':
                return typing.Union[tuple(_hint(item) for item in inner)]  # noqa: UP007
        kind = _hint(node.value)
        if kind is list:
            return types.GenericAlias(list, _hint(inner[0]))
        return types.GenericAlias(tuple, tuple(map(_hint, inner))) if kind is tuple else kind
    return _HINTS.get(ast.unparse(node), Any)


def _range(node: ast.expr) -> Range | None:
    """Returns the range in an `Annotated`; None for anything else that stands there."""
    if isinstance(node, ast.Call) and ast.unparse(node.func) == 'Range':
        return Range(*(ast.literal_eval(end) for end in node.args))
    return None
