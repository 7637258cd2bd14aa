"""What `mova ask` and `mova route` share: routers by name, and how a route is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mova_core.errors import ConfigError

if TYPE_CHECKING:
    from mova_core.model.assistant import Mova
    from mova_core.routing.base import Router
    from mova_core.routing.route import Route

ROUTERS = ("learned", "listwise", "free", "similarity", "all", "none", "random")
"""Routers that need nothing but a loaded model; behaviour plugins bring more."""


def choose_router(name: str, mova: Mova) -> Router | None:
    """The router of that name; None for the model's own.

    Raises:
        ConfigError: if neither we nor a behaviour plugin know it.
    """
    from mova_core.routing.baselines import AllRouter, NoneRouter, RandomRouter

    if name == "learned":
        return None
    if name == "listwise":
        from mova_core.model.routers import listwise_router

        return listwise_router(mova.model, mova.processor)
    if name == "free":
        from mova_core.model.routers import free_router

        return free_router(mova.model, mova.processor)
    if name == "similarity":
        from mova_core.model.routers import similarity_router

        return similarity_router(mova.model, mova.processor)
    if name == "random":
        return RandomRouter(count=1)
    if name in ("all", "none"):
        return AllRouter() if name == "all" else NoneRouter()
    return _from_plugin(name)


def _from_plugin(name: str) -> Router:
    from mova_core.hookspecs import load_hooks

    brought: dict[str, Any] = load_hooks().collect("mova_routers")
    if name not in brought:
        raise ConfigError("unknown router", value=name, expected="one of " + ", ".join([*ROUTERS, *brought]))
    router: Router = brought[name]()
    return router


def shown_probabilities(route: Route) -> str:
    """Probabilities of a route, the highest first."""
    ranked = sorted(route.probabilities.items(), key=lambda pair: -pair[1])
    return ", ".join(f"{id} {probability:.2f}" for id, probability in ranked) or "no probabilities"
