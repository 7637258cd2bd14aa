"""`mova experts isolate`: makes the virtual environment of an expert that runs in a process of its own."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from mova_core.cards import environments
from mova_core.cards.installed import version
from mova_core.cards.records import USER, ExpertRecord
from mova_core.cards.resolve import find_expert
from mova_core.cli.plan import Plan, Step, Yes
from mova_core.errors import CardError, ConfigError, InstallError

if TYPE_CHECKING:
    from mova_core.cards.card import ExpertCard
    from mova_core.cli.targets import Target

app = typer.Typer()

SHARE = "mova_shared.pth"


@app.command()
def isolate(
    name: Annotated[str, typer.Argument(metavar="ID", help="An id, or distribution/id.", show_default=False)],
    requirements: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[REQUIREMENT]...",
            help="What to install before the expert's distribution, or in its place: NAME==VERSION, "
            "NAME @ URL, a path.",
            show_default=False,
        ),
    ] = None,
    share_torch: Annotated[
        bool,
        typer.Option(
            "--share-torch",
            help="Take torch, and all else that the environment does not bring itself, from this one.",
        ),
    ] = False,
    yes: Yes = False,
) -> None:
    """Make the environment of an expert with isolation "process"; shows what it will do, and asks."""
    from mova_core.cli.index import offline
    from mova_core.cli.installer import Installer

    record = find_expert(name)
    card = _isolated_card(record)
    folder, shared = environments.environment_folder(card), _site_folders() if share_torch else ()
    targets = _targets(record, requirements or [], share_torch)
    # uv would not see what is shared, and install torch once more.
    uv = None if share_torch else shutil.which("uv")
    installer = Installer(uv, offline(), str(environments.interpreter(folder)))
    # That this environment has a distribution, too, must not keep it out of the new one.
    present = {target.name for target in targets if share_torch and target.name and version(target.name)}
    with TemporaryDirectory(prefix="mova-isolate-") as workshop:
        installs = installer.install(targets, present, Path(workshop))
        building = Building(folder, tuple(targets), tuple(installs), shared)
        building.plan().agree(yes)
        with _appearing_whole(folder):
            building.run()
            _finish(record, card, building)
    print(f"{card.id} has an environment of its own: {folder}")


@dataclass(frozen=True, slots=True)
class Building:
    """How an environment is made.

    Args:
        folder: where it will be.
        targets: what is installed into it.
        installs: the command lines that do so.
        shared: folders of this environment in which it looks for what it lacks, after its own.
    """

    folder: Path
    targets: tuple[Target, ...]
    installs: tuple[Step, ...]
    shared: tuple[str, ...]

    def plan(self) -> Plan:
        """What is shown before it is done."""
        changes = [f"{'replace' if self.folder.exists() else 'make'} the environment {self.folder}"]
        changes += [f"install {target.requirement}\n  from {target.origin}" for target in self.targets]
        changes += [f"share what it does not bring itself, from {folder}" for folder in self.shared]
        changes.append("What else is needed comes from your package index.")
        return Plan(tuple(changes), (self._venv(), *self.installs))

    def run(self) -> None:
        """Make it.

        Raises:
            InstallError: a step fails.
        """
        Plan((), (self._venv(),)).run()
        if self.shared:
            self._share()
        Plan((), self.installs).run()

    def _venv(self) -> Step:
        return (sys.executable, "-m", "venv", "--without-pip", str(self.folder))

    def _share(self) -> None:
        """Append this environment's folders to the search path: what the new one has comes first."""
        found = sorted((self.folder / "lib").glob("python*/site-packages"))
        if len(found) != 1:
            raise InstallError("the environment has no folder for packages", value=str(self.folder / "lib"))
        lines = [f"import site; site.addsitedir({folder!r})\n" for folder in self.shared]
        (found[0] / SHARE).write_text("".join(lines), encoding="utf-8")


def _finish(record: ExpertRecord, card: ExpertCard, building: Building) -> None:
    """Declare an environment finished in which the expert's code can be imported.

    Raises:
        InstallError: it cannot.
    """
    if problem := environments.import_problem(card):
        raise InstallError(
            f"expert {card.id} cannot be imported in its new environment, which was removed again",
            value=problem,
            hint=f"Name what is missing: `mova experts isolate {card.id} NAME==VERSION`.",
        )
    requirements = [target.requirement for target in building.targets]
    environments.write_note(
        card, version=record.version, requirements=requirements, shared=list(building.shared)
    )


def _isolated_card(record: ExpertRecord) -> ExpertCard:
    if record.card is None:
        raise CardError(f"expert {record.id} is {record.status}: {record.problem}", hint=record.hint)
    if record.card.isolation != "process":
        raise ConfigError(
            f"expert {record.id} runs in the process of its caller",
            value=f'isolation = "{record.card.isolation}"',
            expected='isolation = "process"',
            hint=f"Say so in {record.source}.",
        )
    return record.card


def _targets(record: ExpertRecord, requirements: Sequence[str], share_torch: bool) -> list[Target]:
    """What goes into the environment: mova-core unless it is shared, what was asked, the distribution.

    Raises:
        InstallError: a requirement is not full, or there is nothing to install.
    """
    from mova_core.cli.index import open_index
    from mova_core.cli.targets import target_of

    index = open_index() if requirements else None
    targets = [] if share_torch else [_as_installed("mova-core")]
    targets += [target_of(text, index) for text in requirements if index]
    if record.distribution == USER and not requirements:
        raise InstallError(
            f"{record.source} is a card of your own, and does not say what to install",
            hint=f"Add it: `mova experts isolate {record.id} ./FOLDER`, or NAME==VERSION.",
        )
    if record.distribution != USER and record.distribution not in {target.name for target in targets}:
        targets.append(_as_installed(record.distribution))
    return targets


def _as_installed(distribution: str) -> Target:
    """A distribution of this environment, from where it came from.

    Raises:
        InstallError: it cannot be said what it is.
    """
    from pydantic import ValidationError

    from mova_core.cards.lock import LockedDistribution
    from mova_core.cards.origins import origin_of
    from mova_core.cli.freeze import locked_target

    try:
        found = metadata.distribution(distribution)
        origin = origin_of(found.read_text("direct_url.json"))
        locked = LockedDistribution(name=distribution, version=found.version, origin=origin)
    except (metadata.PackageNotFoundError, ValidationError) as error:
        raise InstallError(
            "a distribution that the environment needs is not properly installed here",
            value=distribution,
            hint=f"Name a full requirement of {distribution} in the command.",
        ) from error
    return locked_target(locked, None)


def _site_folders() -> tuple[str, ...]:
    """Where this interpreter finds installed packages, in its order."""
    return tuple(dict.fromkeys(p for p in sys.path if Path(p).name in ("site-packages", "dist-packages")))


@contextmanager
def _appearing_whole(folder: Path) -> Iterator[None]:
    """Make a folder anew under its lock; what is left of a failure is removed.

    Raises:
        InstallError: another process makes it, or it cannot be written.
    """
    from filelock import FileLock, Timeout

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock"), timeout=0):
            if folder.exists():
                shutil.rmtree(folder)
            try:
                yield
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
    except Timeout as error:
        raise InstallError(
            "another process makes this environment", value=str(folder), hint="Wait for it, or end it."
        ) from error
    except OSError as error:
        raise InstallError(
            f"the environment cannot be made: {error.strerror}",
            value=str(error.filename or folder),
            hint="Set MOVA_CACHE to a folder of yours.",
        ) from error
