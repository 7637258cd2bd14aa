"""The command lines that install and remove distributions: uv's where it is there, else pip's."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from mova_core.cli.index import offline
from mova_core.cli.plan import Step
from mova_core.cli.targets import Target
from mova_core.errors import InstallError


@dataclass(frozen=True, slots=True)
class Installer:
    """Makes command lines for the environment of an interpreter; runs none.

    Args:
        uv: path of uv; None uses pip.
        offline: nothing may be fetched; what is built is then built with what is installed.
        python: the interpreter; this one unless given.
    """

    uv: str | None
    offline: bool
    python: str = sys.executable

    def install(self, targets: Sequence[Target], present: Collection[str], workshop: Path) -> list[Step]:
        """The steps that install distributions with all they need.

        All are installed in one step, so that what one needs of another comes from where that one does.

        Args:
            targets: what to install.
            present: names of those that are installed now, and are replaced whatever their version is.
            workshop: an empty folder for downloads.

        Raises:
            InstallError: something would have to be fetched, and may not be, or pip is needed to fetch it.
        """
        downloads: list[Step] = []
        arguments, replaced = [], []
        for number, target in enumerate(targets, start=1):
            if self.offline and not target.local:
                raise InstallError(
                    "this would be fetched, and MOVA_OFFLINE is set",
                    value=target.requirement,
                    hint="Unset MOVA_OFFLINE, or give a path.",
                )
            argument = target.requirement
            if target.sha256:
                folder = workshop / f"{number}-{target.name}"
                downloads.append(self._download(target, folder))
                argument = f"{folder}/*"
            arguments.append(argument)
            if not target.name or target.name in present:  # a source alone may be of one that is here
                replaced.append((target, argument))
        return downloads + self._install(arguments, replaced)

    def uninstall(self, names: Sequence[str]) -> list[Step]:
        """The step that removes distributions."""
        if self.uv:
            return [(self.uv, "pip", "uninstall", "--python", self.python, *names)]
        return [(*self._pip(), "uninstall", "--yes", *names)]

    def _download(self, target: Target, folder: Path) -> Step:
        """Fetch one file whose digest is known, into a folder of its own."""
        folder.mkdir()
        digests = " ".join(f"--hash=sha256:{digest}" for digest in target.sha256)
        wanted = folder.with_suffix(".txt")
        wanted.write_text(f"{target.requirement} {digests}\n", encoding="utf-8")
        options = ("--no-deps", "--require-hashes", "--requirement", str(wanted), "--dest", str(folder))
        return (*self._pip(), "download", *options)

    def _install(self, arguments: list[str], replaced: list[tuple[Target, str]]) -> list[Step]:
        if self.uv:
            limits = ("--offline", "--no-build-isolation") if self.offline else ()
            anew = [
                word for target, _ in replaced if target.name for word in ("--reinstall-package", target.name)
            ]
            return [(self.uv, "pip", "install", "--python", self.python, *limits, *anew, *arguments)]
        limits = ("--no-index", "--no-build-isolation") if self.offline else ()
        command = (*self._pip(), "install", *limits)
        # pip leaves one of equal version alone, unless it is built here; forced, it must spare other needs.
        forced = [argument for target, argument in replaced if not target.local or argument.endswith(".whl")]
        first = [(*command, "--force-reinstall", "--no-deps", *forced)] if forced else []
        return [*first, (*command, *arguments)]

    def _pip(self) -> Step:
        """This interpreter's pip; it can install for others, too, which need none then."""
        if importlib.util.find_spec("pip") is None:
            raise InstallError(
                "this environment has no pip",
                value=sys.executable,
                hint=f"Run `{sys.executable} -m ensurepip`.",
            )
        elsewhere = () if self.python == sys.executable else ("--python", self.python)
        return (sys.executable, "-m", "pip", *elsewhere)


def find_installer() -> Installer:
    """uv if it is on PATH, else this interpreter's pip."""
    return Installer(shutil.which("uv"), offline())
