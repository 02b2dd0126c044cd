"""What ``paracore doctor`` finds out, as plain data."""

from __future__ import annotations

import importlib.metadata
import inspect
import os
import platform
import sys
from collections.abc import Mapping
from typing import Any

import torch

from paracore.cli.extras import Need, extras_of, needs_of
from paracore.cli.mounting import commands_of
from paracore.composition import KINDS
from paracore.distributions import GROUP, OWN, own_version
from paracore.errors import ConfigurationError, ParacoreError
from paracore.evaluators.devices import usable_device
from paracore.plugins import API, Entry, Plugin, options_of, registry
from paracore.plugins.entry import IN_PROCESS

__all__ = ["diagnose"]


def diagnose() -> dict[str, Any]:
    """Everything, ready for JSON. ``problems`` has a sentence for each thing that is broken; empty if nothing is."""
    broken = [
        {
            "plugin": b.plugin,
            "distribution": b.distribution,
            "version": b.version,
            "target": b.target,
            "cause": b.cause,
            "traceback": b.details,
        }
        for b in registry.broken
    ]
    conflicts = [
        {"kind": kind, "name": name, "plugins": [e.origin for e in owners]}
        for (kind, name), owners in registry.conflicts.items()
    ]
    faults = [{"kind": e.kind, "name": e.name, "plugin": e.origin, "cause": why} for e, why in _faults()]
    plugins, failed = _plugins()
    needs = needs_of(OWN)
    devices = _devices()
    problems = [
        *(f"plugin {b.origin} is broken: {' '.join(b.cause.split())}" for b in registry.broken),
        *(f"{c['kind']} {c['name']!r} cannot be used: {' and '.join(c['plugins'])} register it" for c in conflicts),
        *(f["cause"] for f in faults),
        *failed,
        *(f"{n.text} is needed; {n.installed or 'none'} is installed" for n in needs if n.enough is False),
        *(f"{d['device']} cannot be used: {d['trouble']}" for d in devices if d["trouble"]),
    ]
    if not needs:
        problems.append(
            "paracore is not installed as a distribution: no plugin of its own can be found; pip install it"
        )
    return {
        "healthy": not problems,
        "problems": problems,
        "environment": {
            "paracore": own_version(),
            "hooks": API,
            "python": f"{platform.python_version()} ({platform.python_implementation()})",
            "executable": sys.executable,
            "platform": platform.platform(),
            "disabled_plugins": os.environ.get("PARACORE_DISABLE_PLUGINS", ""),
        },
        "needs": [_need(need) for need in needs],
        "plugins": plugins,
        "broken": broken,
        "conflicts": conflicts,
        "faults": faults,
        "disabled": [
            {"plugin": p.plugin, "distribution": p.distribution, "version": p.version} for p in registry.disabled
        ],
        "devices": devices,
        "extras": _extras(),
    }


def _need(need: Need) -> dict[str, Any]:
    return {"name": need.name, "asked": need.text, "installed": need.installed, "enough": need.enough}


def _plugins() -> tuple[list[dict[str, Any]], list[str]]:
    """The plugins that were found, and what is wrong with their commands."""
    found, failed = [], []
    for plugin in registry.plugins:
        commands: list[str] = []
        try:
            commands = [name for name, _ in commands_of(plugin, _module(plugin))] if plugin.target else []
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            failed.append(f"commands of plugin {plugin.origin} cannot be used: {type(error).__name__}: {error}")
        registers: dict[str, list[str]] = {}
        for entry in plugin.entries:
            registers.setdefault(entry.kind, []).append(entry.name)
        found.append(
            {
                "plugin": plugin.plugin,
                "distribution": plugin.distribution,
                "version": plugin.version,
                "target": plugin.target,
                "api": plugin.api,
                "registers": registers | ({"command": commands} if commands else {}),
            }
        )
    return found, failed


def _module(plugin: Plugin) -> object:
    return importlib.metadata.EntryPoint(plugin.plugin, plugin.target, GROUP).load()


def _faults() -> list[tuple[Entry, str]]:
    """Strategies and samplers that cannot be built from their own examples.

    Models and evaluators are not tried: they may load weights, or start processes.
    """
    found = []
    for entry in registry.entries():
        if entry.kind not in (*KINDS, "sampler"):
            continue
        for example in entry.conformance.examples:
            if isinstance(example, Mapping) and not _lacking(entry, example):
                try:
                    entry.make(**example)
                except ParacoreError as error:
                    found.append((entry, _told(entry, error)))
    return found


def _lacking(entry: Entry, example: Mapping[str, Any]) -> bool:
    """Whether nobody said how to build it: it has required options, and the plugin gives no example."""
    required = [n for n, (_, default) in options_of(entry.factory).items() if default is inspect.Parameter.empty]
    return not example and bool(required)


def _told(entry: Entry, error: ParacoreError) -> str:
    who = f"{entry.kind} {entry.name!r} of plugin {entry.origin}"
    return str(error) if who in str(error) else f"{who} cannot be built: {error}"


def _devices() -> list[dict[str, Any]]:
    threads = f"{torch.get_num_threads()} threads, {os.cpu_count()} cores"
    found = [_device("cpu", f"{platform.processor() or platform.machine()}, {threads}")]
    for index in range(torch.cuda.device_count()):
        found.append(_device(f"cuda:{index}", _cuda(index)))
    if torch.backends.mps.is_available():
        found.append(_device("mps", "Metal"))
    if torch.xpu.is_available():
        found += [_device(f"xpu:{index}", "XPU") for index in range(torch.xpu.device_count())]
    return found


def _cuda(index: int) -> str:
    try:
        seen: Any = torch.cuda.get_device_properties(index)
        return f"{seen.name}, {seen.total_memory / 2**30:.0f} GiB, compute capability {seen.major}.{seen.minor}"
    except (RuntimeError, AssertionError) as error:  # the driver is there and does not work
        return f"unknown ({str(error).splitlines()[0]})"


def _device(name: str, what: str) -> dict[str, Any]:
    try:
        usable_device(name)
        return {"device": name, "what": what, "trouble": ""}
    except ConfigurationError as error:
        return {"device": name, "what": what, "trouble": str(error)}


def _extras() -> list[dict[str, Any]]:
    """Of paracore, and of each distribution that a plugin came with."""
    names = dict.fromkeys(p.distribution for p in registry.plugins if p.distribution != IN_PROCESS)
    found = []
    for distribution in {OWN: None, **names}:
        for extra, needs in extras_of(distribution).items():
            missing = [need for need in needs if need.enough is False]
            found.append(
                {
                    "distribution": distribution,
                    "extra": extra,
                    "installed": not missing,
                    "needs": [_need(need) for need in needs],
                    "would_add": [need.text for need in missing],
                }
            )
    return found
