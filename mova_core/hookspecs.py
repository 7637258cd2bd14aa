"""Behaviour hooks: what a plugin can add besides experts, and how such plugins are loaded.

A plugin is an object, often a module, named by an entry point of the group `mova.hooks`. Its functions carry
the mark `hookimpl`:

    from mova_core.hookspecs import hookimpl

    @hookimpl
    def mova_on_route(questions, routes):
        ...
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Any, Protocol

import pluggy

from mova_core.cards.entries import Entry, entries
from mova_core.errors import ConfigError, MovaError

if TYPE_CHECKING:
    import typer

    from mova_core.fusion.output import FusionOutput
    from mova_core.routing.base import Router
    from mova_core.routing.route import Route

GROUP = "mova.hooks"

hookspec = pluggy.HookspecMarker("mova")
hookimpl = pluggy.HookimplMarker("mova")


class MovaHooks(Protocol):
    """The hooks. A plugin implements any of them, and may leave out arguments it does not need."""

    @hookspec
    def mova_commands(self) -> Mapping[str, typer.Typer | Callable[..., None]]:
        """Commands to add to `mova`, by name: a typer app, or a function that becomes a command."""

    @hookspec
    def mova_routers(self) -> Mapping[str, Callable[..., Router]]:
        """Routers that can be asked for by name: functions that build one."""

    @hookspec
    def mova_metrics(self) -> Mapping[str, Callable[[Sequence[str], Sequence[str]], float]]:
        """Metrics that evaluations can ask for by name: from answers and references to one number."""

    @hookspec
    def mova_notes(self) -> Mapping[str, str]:
        """What `mova doctor` is to say of what is optional, by name, such as a library that is absent."""

    @hookspec
    def mova_on_route(self, questions: Sequence[str], routes: Sequence[Route]) -> None:
        """Called when a batch is routed, before its experts run."""

    @hookspec
    def mova_after_fuse(self, routes: Sequence[Route], output: FusionOutput) -> None:
        """Called when a batch is fused, before the language model reads it."""

    @hookspec(firstresult=True)
    def mova_card(
        self,
        source: str,
        id: str | None,
        descriptions: Sequence[str],
        example_questions: Sequence[str],
        title: str | None,
    ) -> Mapping[str, Any] | None:
        """A card for weights that a class of this plugin can read, for `mova experts add`.

        Args:
            source: `timm:NAME`, `hf:OWNER/NAME`, or `file:PATH` with an absolute path.
            id: the expert's name; None leaves it to the plugin.
            descriptions: what the router is to be told.
            example_questions: questions it helps with.
            title: it in a few words; None leaves it to the plugin.

        Returns:
            The card as its TOML file has it, `{"expert": {...}, "input": {...}, ...}`, where None stands for
            an entry that is left out; None for a source that is another plugin's.

        Raises:
            MovaError: the source is the plugin's, and no card can be made of it.
        """


@dataclass(frozen=True, slots=True)
class HookProblem:
    """A plugin, or one hook of it, that does not work.

    Args:
        plugin: name of its entry point.
        distribution: who brings it.
        problem: what is wrong.
    """

    plugin: str
    distribution: str
    problem: str


@dataclass(slots=True)
class Hooks:
    """The plugins of this environment.

    Args:
        manager: calls them: `hooks.manager.hook.mova_on_route(questions=..., routes=...)`.
        owners: distribution of each plugin that works, by the plugin's name.
        problems: those that do not.
    """

    manager: pluggy.PluginManager
    owners: dict[str, str] = field(default_factory=dict)
    problems: list[HookProblem] = field(default_factory=list)

    def collect(self, hook: str) -> dict[str, Any]:
        """What all plugins together bring for a hook that gives things by name.

        A plugin that fails here, or brings a name that another one has, becomes a problem; the others count.
        """
        found: dict[str, Any] = {}
        for implementation in sorted(self.manager.hook.__getattribute__(hook).get_hookimpls(), key=_name):
            plugin = implementation.plugin_name
            try:
                brought = dict(implementation.function())
            except Exception as error:
                self._report(plugin, f"{hook} failed: {type(error).__name__}: {error}")
                continue
            for taken in sorted(found.keys() & brought.keys()):
                self._report(plugin, f"{hook} brings {taken}, which another plugin brings, too")
            found = {**brought, **found}
        return found

    def card(self, **given: Any) -> Mapping[str, Any] | None:
        """The card that the first plugin, by name, makes of a source; a plugin that fails becomes a problem.

        Args:
            given: the arguments of `mova_card`.

        Raises:
            MovaError: the source is a plugin's, and no card can be made of it.
        """
        for implementation in sorted(self.manager.hook.mova_card.get_hookimpls(), key=_name):
            try:
                made: Any = implementation.function(*(given[name] for name in implementation.argnames))
            except MovaError:
                raise
            except Exception as error:  # a plugin may fail in any way
                self._report(implementation.plugin_name, f"mova_card failed: {type(error).__name__}: {error}")
                continue
            if made is not None:
                card: dict[str, Any] = dict(made)
                return card
        return None

    def _report(self, plugin: str, problem: str) -> None:
        self.problems.append(HookProblem(plugin, self.owners[plugin], problem))


def load_hooks() -> Hooks:
    """Import the behaviour plugins of this environment, each on its own: one that fails hides no other.

    Raises:
        ConfigError: MOVA_STRICT_PLUGINS is "1" and a plugin has a problem.
    """
    hooks = Hooks(pluggy.PluginManager("mova"))
    hooks.manager.add_hookspecs(MovaHooks)
    for entry in sorted(entries(GROUP), key=lambda entry: (entry.name, entry.owner.name)):
        try:
            _register(hooks.manager, entry)
        except (Exception, SystemExit) as error:  # a plugin's import may fail in any way
            problem = entry.broken or f"{type(error).__name__}: {error}"
            hooks.problems.append(HookProblem(entry.name, entry.owner.name, problem))
        else:
            hooks.owners[entry.name] = entry.owner.name
    if hooks.problems and os.environ.get("MOVA_STRICT_PLUGINS") == "1":
        first = hooks.problems[0]
        raise ConfigError(
            f"plugin {first.plugin} cannot be used: {first.problem}",
            hint=f"Mend or uninstall {first.distribution}.",
        )
    return hooks


def _register(manager: pluggy.PluginManager, entry: Entry) -> None:
    """Import one plugin and add it, or leave the manager as it was."""
    plugin = EntryPoint(entry.name, entry.value, GROUP).load()
    try:
        manager.register(plugin, entry.name)
        manager.check_pending()
    except (pluggy.PluginValidationError, ValueError):
        if manager.get_plugin(entry.name) is plugin:
            manager.unregister(plugin)
        raise


def _name(implementation: pluggy.HookImpl) -> str:
    return implementation.plugin_name
