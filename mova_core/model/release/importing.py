"""From the released layout to a checkpoint of ours, file by file.

No more than one file of the release is open at a time, and no more than one tensor is copied: the files to be
written are laid out first, then filled as the tensors come by.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mova_core.errors import CheckpointError
from mova_core.fusion.pack_files import FORMAT
from mova_core.fusion.release_keys import checked_table, is_rotary
from mova_core.model.parts.disk import require_space
from mova_core.model.parts.progress import Progress, SilentProgress
from mova_core.model.release.configuration import Configurations, configure
from mova_core.model.release.naming import ADAPTER, ASIDE, BASE, EXPERTS, Place, tower_file
from mova_core.model.release.plan import LANGUAGE, Moves, Sizes, check_moves, plan_moves, read_sizes
from mova_core.model.release.profiles import ReleaseProfile, fitting_profile, read_profile
from mova_core.model.release.sentences import read_sentences
from mova_core.model.release.shards import Shard, read_shards
from mova_core.model.release.source import Release, find_release
from mova_core.model.release.towers import check_towers
from mova_core.model.release.writing import TensorFile

_UNKNOWN = "0" * 32
"""In place of a fingerprint that is not known yet."""
LAYOUT = "release/layout.json"
_KEPT_SUFFIXES = (".json", ".txt", ".md", ".model")
_LARGEST_KEPT = 64 * 2**20


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """What can be chosen in an import.

    Args:
        profile: name of a profile, or path of one's own; found by the language model's sizes without it.
        prompt_from: a copy of the released code whose sentences are to be used; ours without it.
        text_tokenizer: folder, or name on the hub, of the text encoder's tokenizer; found without it.
        compat: route and cut patches just as the released code does; see docs/mova-8b.md.
    """

    profile: str | Path | None = None
    prompt_from: Path | None = None
    text_tokenizer: str | Path | None = None
    compat: bool = False


def import_release(
    source: str | Path,
    out: Path,
    options: ImportOptions | None = None,
    *,
    revision: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Convert a released checkpoint.

    Args:
        source: its folder, or OWNER/NAME on the hub.
        out: the folder to make; it appears whole or not at all.
        options: what can be chosen.
        revision: commit, tag or branch on the hub.
        progress: hears of the steps.

    Returns:
        `out`.

    Raises:
        CheckpointError: there is no release; or its weights are unmapped, missing or misshapen, with the
            list; or `out` is taken or cannot be written.
        ConfigError: the profile or the released sentences cannot be used.
        ExpertLoadError: an expert's plugin is not installed, or refuses its weights.
        PartsError: there is not enough disk space.
    """
    options, tell = options or ImportOptions(), progress or SilentProgress()
    if out.exists() and any(out.iterdir() if out.is_dir() else [out]):
        raise CheckpointError(
            "there is something in the way", value=str(out), expected="a folder that is empty or not there"
        )
    release = find_release(source, revision)
    tell.say(f"reading the headers of {release.folder}")
    shards = read_shards(release.folder)
    moves = plan_moves(shards)
    profile = _profile(release, moves, options)
    sizes = read_sizes(
        moves,
        shards,
        most=int(release.config.get("topk", 3)),
        routing_tokens=int(release.config.get("num_routing_tokens", profile.routing_tokens)),
    )
    configurations = configure(release, profile, moves, sizes, options.text_tokenizer, compat=options.compat)
    check_moves(moves, shards, sizes, bert=configurations.bert, language=configurations.language)
    require_space(out.parent, moves.nbytes)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
        made = Path(scratch) / "made"
        try:
            _write(made, shards, moves, sizes, configurations, release, tell)
            if out.exists():
                out.rmdir()
            made.rename(out)
        except OSError as error:
            raise CheckpointError(
                "the checkpoint cannot be written", value=str(out), expected=f"a writable place ({error})"
            ) from error
    return out


def _profile(release: Release, moves: Moves, options: ImportOptions) -> ReleaseProfile:
    if options.profile is not None:
        profile = read_profile(options.profile)
    else:
        profile = fitting_profile({**_language_sizes(moves), **release.config})
    if options.prompt_from is not None:
        profile = read_sentences(options.prompt_from, profile.conversation).put_into(profile)
    return profile


def _language_sizes(moves: Moves) -> dict[str, int]:
    """Sizes by which a profile is found where there is no `config.json`."""
    tensors = {n: s for file, own in moves.files.items() if file.startswith(LANGUAGE) for n, s in own.items()}
    first = tensors.get("model.layers.0.mlp.gate_proj.weight")
    layers = {name.split(".")[2] for name in tensors if name.startswith("model.layers.")}
    wide, narrow = first.shape if first else (0, 0)
    return {"hidden_size": narrow, "intermediate_size": wide, "num_hidden_layers": len(layers)}


def _write(
    made: Path,
    shards: tuple[Shard, ...],
    moves: Moves,
    sizes: Sizes,
    configurations: Configurations,
    release: Release,
    tell: Progress,
) -> None:
    with ExitStack() as stack:
        files = {
            file: stack.enter_context(TensorFile(made / file, tensors, _notes(file, sizes)))
            for file, tensors in moves.files.items()
        }
        configurations.write(made)
        _keep_for_the_way_back(made, shards, release)
        _fill(files, shards, moves, tell, only=(ASIDE, *map(tower_file, EXPERTS)), tables=True)
        tell.say("checking the towers against their plugins")
        check_towers(made, configurations.cards)
        _fill(files, shards, moves, tell)
        tell.say("computing fingerprints")
        config = configurations.finish(made)
        for file, tensors in files.items():
            if file.startswith("packs/"):
                tensors.describe(_notes(file, sizes, config.fingerprint))


def _fill(
    files: Mapping[str, TensorFile],
    shards: tuple[Shard, ...],
    moves: Moves,
    tell: Progress,
    *,
    only: tuple[str, ...] = (),
    tables: bool = False,
) -> None:
    """Put tensors in their places; with `tables` rotary tables alone, and of some files only."""
    done, total = 0, 0 if tables else moves.nbytes
    with tell.bar("converting", total=total, done=0) as show:
        for number, (shard, own) in enumerate(zip(shards, moves.by_shard, strict=True), start=1):
            chosen = {k: p for k, p in own.items() if not tables or (_is_table(k) and p[0].file in only)}
            if not chosen:
                continue
            if not tables:
                tell.say(f"file {number} of {len(shards)}: {shard.path.name}")
            for key, file in shard.read():
                if key in chosen:
                    tensor = file[key]
                    if is_rotary(key.removeprefix(ADAPTER)):
                        checked_table(key, tensor)
                    for place in chosen[key]:
                        _put(files, place, tensor)
                    done += shard.tensors[key].nbytes
                    show(min(done, total))
    for each in files.values():
        each.flush()


def _put(files: Mapping[str, TensorFile], place: Place, tensor: Any) -> None:
    row = tensor if place.row is None else tensor[place.row : place.row + 1]
    files[place.file].put(place.name, row)


def _is_table(key: str) -> bool:
    return key.endswith((".freqs_cos", ".freqs_sin"))


def _notes(file: str, sizes: Sizes, fingerprint: str = _UNKNOWN) -> dict[str, str]:
    """What is written beside the tensors of a file."""
    if not file.startswith("packs/"):
        return {"format": "pt"}
    id = Path(file).stem
    numbers = {
        "width": sizes.adapter.width,
        "channels": sizes.channels[id],
        "heads": sizes.adapter.heads,
        "depth": sizes.adapter.depth,
    }
    return {"core": fingerprint, "format": FORMAT, **{name: str(number) for name, number in numbers.items()}}


def _keep_for_the_way_back(made: Path, shards: tuple[Shard, ...], release: Release) -> None:
    """Which file held what, and the release's small files as they are."""
    layout = [
        {
            "file": shard.path.with_suffix(".safetensors").name.replace("pytorch_model", "model"),
            "header": shard.header.decode() if shard.header else None,
            "tensors": list(shard.tensors),
        }
        for shard in shards
    ]
    file = made / LAYOUT
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"shards": layout, "base": BASE, "experts": EXPERTS}), encoding="utf-8")
    kept = made / "release" / "files"
    kept.mkdir()
    for path in sorted(release.folder.iterdir()):
        index = path.name.endswith(".index.json")
        if (
            path.is_file()
            and path.suffix in _KEPT_SUFFIXES
            and path.stat().st_size <= _LARGEST_KEPT
            and not index
        ):
            shutil.copyfile(path, kept / path.name)
