"""Behaviour plugins: loaded one by one, called together, and never hiding each other."""

from __future__ import annotations

from typing import Any

import pytest

from mova_core.errors import ConfigError
from mova_core.hookspecs import Hooks, load_hooks

HEAD = "from mova_core.hookspecs import hookimpl\n\n@hookimpl\n"


def install(site: Any, name: str, code: str) -> None:
    module = name.replace("-", "_")
    site.install(name, groups={"mova.hooks": {name: module}}, files={f"{module}.py": code})


def problem_of(hooks: Hooks, plugin: str) -> str:
    (problem,) = [problem for problem in hooks.problems if problem.plugin == plugin]
    return problem.problem


def test_events_reach_every_plugin_with_the_arguments_it_wants(site: Any) -> None:
    install(site, "hook-a", HEAD + "def mova_on_route(questions, routes):\n    routes.append(questions[0])\n")
    install(site, "hook-b", HEAD + "def mova_on_route(routes):\n    routes.append('b')\n")
    routes: list[str] = []
    load_hooks().manager.hook.mova_on_route(questions=["why?"], routes=routes)
    assert sorted(routes) == ["b", "why?"]


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("1 / 0\n", "ZeroDivisionError"),
        ("import hook_nowhere\n", "No module named 'hook_nowhere'"),
        ("raise SystemExit(1)\n", "SystemExit"),
        (HEAD + "def mova_on_rout(routes): ...\n", "mova_on_rout"),
        (HEAD + "def mova_on_route(images): ...\n", "images"),
    ],
)
def test_a_broken_plugin_is_reported_and_the_others_work(site: Any, code: str, problem: str) -> None:
    install(site, "hook-c-broken", code)
    install(site, "hook-d", HEAD + "def mova_metrics():\n    return {'toy-metric': max}\n")
    hooks = load_hooks()
    assert problem in problem_of(hooks, "hook-c-broken")
    assert "hook-c-broken" not in hooks.owners
    assert hooks.collect("mova_metrics")["toy-metric"] is max


def test_a_hook_that_fails_when_it_is_collected_is_reported(site: Any) -> None:
    install(site, "hook-e", HEAD + "def mova_routers():\n    return 1 / 0\n")
    install(site, "hook-f", HEAD + "def mova_routers():\n    return {'toy-router': dict}\n")
    hooks = load_hooks()
    assert hooks.collect("mova_routers")["toy-router"] is dict
    assert "mova_routers failed: ZeroDivisionError" in problem_of(hooks, "hook-e")


def test_of_two_plugins_with_one_name_the_first_by_name_counts_and_the_other_is_reported(site: Any) -> None:
    install(site, "hook-h", HEAD + "def mova_metrics():\n    return {'toy-same': min, 'toy-own': sum}\n")
    install(site, "hook-g", HEAD + "def mova_metrics():\n    return {'toy-same': max}\n")
    hooks = load_hooks()
    metrics = hooks.collect("mova_metrics")
    assert metrics["toy-same"] is max and metrics["toy-own"] is sum
    assert "toy-same, which another plugin brings" in problem_of(hooks, "hook-h")


def test_strict_mode_raises_for_a_broken_plugin(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    install(site, "hook-i", "1 / 0\n")
    monkeypatch.setenv("MOVA_STRICT_PLUGINS", "1")
    with pytest.raises(ConfigError, match="plugin hook-i cannot be used: ZeroDivisionError"):
        load_hooks()
