"""`mova experts freeze` and `restore`: the same pool on another machine."""

from __future__ import annotations

import importlib
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mova_core.cards.discovery import card_directory
from mova_core.cli.plan import OtherIndex, Plan, Yes
from mova_core.errors import ConfigError

if TYPE_CHECKING:
    from mova_core.cards.lock import LockedDistribution, PoolLock
    from mova_core.cli.targets import Target

app = typer.Typer()

MOST_BYTES = 10_000_000
"""Largest lock that is read."""


@app.command()
def freeze(
    path: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="Where to write it; else it is printed.")
    ] = None,
) -> None:
    """Write down this pool: distributions, hashes of cards, revisions of weights, and your own cards."""
    from mova_core.cards.snapshot import snapshot

    lock, missing = snapshot()
    if path is None:
        print(lock.text(), end="")
    else:
        _write(path, lock.text())
        print(f"{path}: {len(lock.distributions)} distributions, {len(lock.cards)} cards of your own.")
    for line in missing:
        print(f"warning: {line}", file=sys.stderr)


@app.command()
def restore(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="What `freeze` wrote.", show_default=False)],
    index: OtherIndex = None,
    yes: Yes = False,
) -> None:
    """Install what differs from a frozen pool, then compare; exits with 1 if a difference is left."""
    from mova_core.cards.lock import differences, parse_lock
    from mova_core.cards.snapshot import snapshot

    lock = parse_lock(_read(path), str(path))
    here, _ = snapshot()
    if differences(lock, here):
        with tempfile.TemporaryDirectory(prefix="mova-restore-") as workshop:
            plan = _plan(lock, here, index, Path(workshop))
            if plan.changes:
                plan.agree(yes)
                plan.run()
        _write_cards(lock, here)
        importlib.invalidate_caches()
        here, _ = snapshot()
    left = differences(lock, here)
    for line in left:
        print(f"differs: {line}")
    for name in sorted({d.name for d in here.distributions} - {d.name for d in lock.distributions}):
        print(f"note: {name} is installed and not in the lock. `mova experts uninstall {name}` removes it.")
    if left:
        raise typer.Exit(1)
    print(f"This pool is the one of {path}. `mova doctor` says whether weights are still to be fetched.")


def _plan(lock: PoolLock, here: PoolLock, index: str | None, workshop: Path) -> Plan:
    from mova_core.cards.lock import outdated
    from mova_core.cli.install import install_line
    from mova_core.cli.installer import find_installer

    present = {distribution.name: distribution for distribution in here.distributions}
    wanted = [locked for locked in lock.distributions if any(outdated(locked, present.get(locked.name)))]
    targets = [locked_target(locked, index) for locked in wanted]
    versions = {name: distribution.version for name, distribution in present.items()}
    changes = [install_line(target, versions.get(target.name)) for target in targets]
    for name in _changed_cards(lock, here):
        kept = f", the present one is kept as {name}.before" if name in here.cards else ""
        changes.append(f"write the card {card_directory() / name}{kept}")
    steps = find_installer().install(targets, versions, workshop) if targets else []
    return Plan(tuple(changes), tuple(steps))


def locked_target(locked: LockedDistribution, index: str | None) -> Target:
    """Where to take a locked distribution from; a folder that is not here, from where an index says it is.

    Raises:
        InstallError: it can be taken from nowhere.
    """
    from mova_core.cli import targets

    origin, name = locked.origin, locked.name
    if origin.kind == "git":
        return targets.git_target(name, origin.url, origin.revision, origin.subdirectory)
    if origin.kind == "archive":
        return targets.archive_target(name, origin.url, origin.sha256)
    if origin.kind == "index":
        exact = f"{name}=={locked.version}"
        return (
            targets.pinned_target(exact, (origin.sha256,)) if origin.sha256 else targets.exact_target(exact)
        )
    if Path(origin.path).is_dir():
        return targets.path_target(Path(origin.path), name)
    return _from_index(locked, origin.path, index)


def _from_index(locked: LockedDistribution, folder: str, place: str | None) -> Target:
    from mova_core.cli.index import open_index
    from mova_core.cli.targets import entry_target
    from mova_core.errors import InstallError

    known = open_index(place)
    entry = next((entry for entry in known.entries if entry.distribution == locked.name), None)
    if entry is None:
        raise InstallError(
            f"{locked.name} was installed from a folder that is not here, and {known.place} does not know it",
            value=folder,
            hint=f"Install {locked.name} {locked.version}, or give an index that knows it with --index.",
        )
    return entry_target(entry, known)


def _changed_cards(lock: PoolLock, here: PoolLock) -> list[str]:
    return [name for name, text in lock.cards.items() if here.cards.get(name) != text]


def _write_cards(lock: PoolLock, here: PoolLock) -> None:
    folder = card_directory()
    for name in _changed_cards(lock, here):
        if name in here.cards:
            _write(folder / f"{name}.before", here.cards[name])
        _write(folder / name, lock.cards[name])


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"the lock cannot be read: {error.strerror}",
            value=str(path),
            hint="`mova experts freeze` writes one.",
        ) from error
    if len(content) > MOST_BYTES:
        raise ConfigError("the lock is too large", value=str(path), expected=f"at most {MOST_BYTES:,} bytes")
    return content


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(text.encode("utf-8"))
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise ConfigError(f"it cannot be written: {error.strerror}", value=str(path)) from error
