"""From the released layout to a checkpoint of ours, file by file.

No more than one file of the release is open at a time, and no more than one tensor is copied: the files to be
written are laid out first, then filled as the tensors come by.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mova_core.fusion.pack_files import FORMAT
from mova_core.fusion.release_keys import HEAD_DIM, checked_table
from mova_core.model.parts.disk import require_space
from mova_core.model.parts.progress import Progress, SilentProgress
from mova_core.model.release.configuration import Configurations, configure
from mova_core.model.release.layout import appearing, keep_layout
from mova_core.model.release.naming import Place, is_table
from mova_core.model.release.plan import LANGUAGE, Moves, Sizes, check_moves, plan_moves, read_sizes
from mova_core.model.release.profiles import ReleaseProfile, fitting_profile, read_profile
from mova_core.model.release.sentences import read_sentences
from mova_core.model.release.shards import Shard, read_shards
from mova_core.model.release.source import Release, find_release
from mova_core.model.release.towers import check_towers
from mova_core.model.release.writing import TensorFile

if TYPE_CHECKING:
    from torch import Tensor

_UNKNOWN = "0" * 32
"""In place of a fingerprint that is not known yet."""


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
    with appearing(out, "checkpoint") as made:
        release = find_release(source, revision)
        tell.say(f"reading the headers of {release.folder}")
        shards = read_shards(release.folder)
        moves = plan_moves(shards)
        profile = _profile(release, moves, options)
        sizes = read_sizes(
            moves,
            shards,
            most=release.count("topk", 3),
            routing_tokens=release.count("num_routing_tokens", profile.routing_tokens),
        )
        parts = configure(release, profile, moves, sizes, options.text_tokenizer, compat=options.compat)
        check_moves(moves, shards, sizes, bert=parts.bert, language=parts.language, cards=parts.cards(made))
        require_space(made, moves.nbytes)
        keep_layout(made, shards, release.folder)
        _write(made, shards, moves, sizes, parts, tell)
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
    wide, narrow = first.shape if first and len(first.shape) == 2 else (0, 0)
    return {"hidden_size": narrow, "intermediate_size": wide, "num_hidden_layers": len(layers)}


def _write(
    made: Path,
    shards: tuple[Shard, ...],
    moves: Moves,
    sizes: Sizes,
    parts: Configurations,
    tell: Progress,
) -> None:
    with ExitStack() as stack:
        files = {
            file: stack.enter_context(TensorFile(made / file, tensors, _notes(file, sizes)))
            for file, tensors in moves.files.items()
        }
        prompt = parts.write(made)
        _fill(files, shards, moves, sizes, tell, tables=True)
        tell.say("checking the towers against their plugins")
        check_towers(made, parts.cards(made))
        _fill(files, shards, moves, sizes, tell)
        tell.say("computing fingerprints")
        config = parts.finish(made, prompt)
        for file, tensors in files.items():
            if file.startswith("packs/"):
                tensors.describe(_notes(file, sizes, config.fingerprint))


def _fill(
    files: Mapping[str, TensorFile],
    shards: tuple[Shard, ...],
    moves: Moves,
    sizes: Sizes,
    tell: Progress,
    *,
    tables: bool = False,
) -> None:
    """Put all tensors in their places, or rotary tables alone: these are looked at before all the rest."""
    done, total = 0, 0 if tables else moves.nbytes
    with tell.bar("converting", total=total, done=0) as show:
        for number, (shard, own) in enumerate(zip(shards, moves.by_shard, strict=True), start=1):
            chosen = {key for key in own if not tables or key.endswith((".freqs_cos", ".freqs_sin"))}
            if not chosen:
                continue
            if not tables:
                tell.say(f"file {number} of {len(shards)}: {shard.path.name}")
            for key, file in shard.read():
                if key in chosen:
                    tensor = file[key]
                    if is_table(key):
                        checked_table(key, tensor, sizes.adapter.grid, HEAD_DIM)
                    for place in own[key]:
                        _put(files, place, tensor)
                    done += shard.tensors[key].nbytes
                    show(min(done, total))
    for each in files.values():
        each.flush()


def _put(files: Mapping[str, TensorFile], place: Place, tensor: Tensor) -> None:
    row = tensor if place.row is None else tensor[place.row : place.row + 1]
    files[place.file].put(place.name, row)


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
