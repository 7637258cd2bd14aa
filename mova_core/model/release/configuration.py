"""The small files of an imported checkpoint: configurations, tokenizers, pool manifest."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mova_core.cards.card import ExpertCard
from mova_core.cards.resolve import usable_expert
from mova_core.cards.warning import warn
from mova_core.cards.weights import locate
from mova_core.errors import CheckpointError
from mova_core.model.config import MovaConfig
from mova_core.model.fingerprint import folder_digest
from mova_core.model.own_cards import CardChanges, OwnWeights, changed_card
from mova_core.model.release.expected import language_config
from mova_core.model.release.naming import BASE, EXPERTS, TEXT_FILE, tower_file, tower_folder
from mova_core.model.release.plan import LANGUAGE, Moves, Sizes
from mova_core.model.release.profiles import ReleaseProfile
from mova_core.model.release.source import TOKENIZER_FILES, Release, read_json, told
from mova_core.model.release.spelling import spelled
from mova_core.model.release.writing import TensorSpec
from mova_core.model.settings import (
    LanguageSettings,
    PoolEntry,
    PromptSettings,
    RouterSettings,
    TextSettings,
)

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

TEXT_FOLDER = str(Path(TEXT_FILE).parent)
_PROCESSED_BY = {BASE: BASE, "biomedclip": BASE, "dinov2": "dinov2"} | dict.fromkeys(
    ("vary", "codetr", "sam"), "vary"
)
"""Whose image processor prepares an expert's pictures in a release; patches need none."""


@dataclass(frozen=True, slots=True)
class Configurations:
    """Everything but weights.

    Args:
        language: of the language model.
        bert: of the text encoder.
        text_tokenizer: a folder with the text encoder's tokenizer.
        changes: by base encoder and expert, of the installed cards.
        release: where the language model's tokenizer is.
        profile: how the language model is spoken to.
        sizes: of the parts.
        moves: which weight goes into which file.
        compat: whether the release's free routing is kept.
    """

    language: PreTrainedConfig
    bert: PreTrainedConfig
    text_tokenizer: Path
    changes: Mapping[str, CardChanges]
    release: Release
    profile: ReleaseProfile
    sizes: Sizes
    moves: Moves
    compat: bool

    def cards(self, made: Path) -> dict[str, ExpertCard]:
        """The cards of base encoder and experts as the checkpoint in that folder has them."""
        return {id: changed_card(_installed(id), changes, made) for id, changes in self.changes.items()}

    def write(self, made: Path) -> PromptSettings:
        """Write configurations and tokenizers.

        Returns:
            How conversations are written, for the tokenizer at hand.
        """
        self.language.save_pretrained(made / LANGUAGE)
        self.bert.save_pretrained(made / TEXT_FOLDER)
        _copy_tokenizer(self.release.folder, made / LANGUAGE, "the language model's tokenizer")
        _copy_tokenizer(self.text_tokenizer, made / TEXT_FOLDER, "the text encoder's tokenizer")
        self._write_index(made)
        for id, document in self.profile.towers.items():
            (made / tower_file(id)).with_name("config.json").write_text(json.dumps(document, indent=2))
        return spelled(self.profile.prompt, made / LANGUAGE)

    def finish(self, made: Path, prompt: PromptSettings) -> MovaConfig:
        """Write `config.json`, once all weights are there, and return it."""
        from mova_core.model.checkpoint import stored_fingerprint

        changes = {}
        for id, own in self.changes.items():
            folder = tower_folder(id)
            weights = OwnWeights(folder=folder, revision=folder_digest(made / folder)[:16])
            changes[id] = own.model_copy(update={"weights": weights})
        config = self._config(prompt, changes)
        config.fingerprint = stored_fingerprint(made, config)
        config.save_pretrained(made)
        return config

    def _config(self, prompt: PromptSettings, changes: Mapping[str, CardChanges]) -> MovaConfig:
        entries: list[PoolEntry] = [
            PoolEntry(
                id=id,
                card_hash=_installed(id).hash,
                channels=self.sizes.channels[id],
                revision=_revision(changes[id]),
            )
            for id in sorted(EXPERTS)
        ]
        return MovaConfig(
            base=BASE,
            adapter=self.sizes.adapter,
            text_encoder=TextSettings(source=f"inside:{TEXT_FOLDER}", width=self.sizes.text),
            language_model=LanguageSettings(source=f"inside:{LANGUAGE}", width=self.sizes.out),
            prompt=prompt,
            router=RouterSettings(
                kind="free" if self.compat else "listwise",
                max_experts=self.sizes.adapter.max_experts,
                listwise=self.profile.routing,
            ),
            pool=entries,
            cards={id: own.model_dump(mode="json", exclude_defaults=True) for id, own in changes.items()},
            image_token_id=self.language.vocab_size,
        )

    def _write_index(self, made: Path) -> None:
        """The index that joins the language model's files, where there are several."""
        files = {f: t for f, t in self.moves.files.items() if f.startswith(LANGUAGE)}
        if len(files) > 1:
            weights = {name: Path(file).name for file, tensors in files.items() for name in tensors}
            total = sum(spec.nbytes for tensors in files.values() for spec in tensors.values())
            index = {"metadata": {"total_size": total}, "weight_map": weights}
            (made / LANGUAGE / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def configure(
    release: Release,
    profile: ReleaseProfile,
    moves: Moves,
    sizes: Sizes,
    text_tokenizer: str | Path | None,
    *,
    compat: bool,
) -> Configurations:
    """Gather what is known of a release beside its weights.

    Args:
        release: the release.
        profile: of its language model.
        moves, sizes: what its weights tell.
        text_tokenizer: as the user names it.
        compat: keep the released code's own ways.

    Raises:
        CheckpointError: it asks for what the released code alone can do, or the tokenizer is not here.
        ExpertLoadError: a plugin is not installed.
    """
    _check_ways(release)
    vocabulary = _rows(moves, "model.embed_tokens.weight")
    language = release.config if "hidden_size" in release.config else profile.language_model
    changes = {id: _changes(release, profile, id, compat=compat) for id in (BASE, *EXPERTS)}
    for id in dict.fromkeys(_PROCESSED_BY.values()):
        if release.normalisation(id) is None:
            shared = ", ".join(own for own, by in _PROCESSED_BY.items() if by == id)
            warn(
                f"the release brings no image processor of {id}: mean and deviation of the pictures of "
                f"{shared} are assumed to be those of the installed cards"
            )
    return Configurations(
        language=language_config(language, vocabulary),
        bert=_bert(release, profile, moves),
        text_tokenizer=_text_tokenizer(release, text_tokenizer),
        changes=changes,
        release=release,
        profile=profile,
        sizes=sizes,
        moves=moves,
        compat=compat,
    )


def _check_ways(release: Release) -> None:
    """Refuse what the released code can do and its one checkpoint does not."""
    channels = release.config.get("expert_channels", EXPERTS)
    ways: dict[str, tuple[Any, Any]] = {
        "image_aspect_ratio": (told(release, "image_aspect_ratio", "pad"), "pad"),
        "mm_vision_select_layer": (told(release, "mm_vision_select_layer", -2), -2),
        "mm_use_im_start_end": (bool(release.config.get("mm_use_im_start_end")), False),
        "expert_channels": (len(channels) if isinstance(channels, (list, tuple)) else None, len(EXPERTS)),
    }
    for key, (found, expected) in ways.items():
        if found != expected:
            raise CheckpointError(
                f"config.json: {key}: this way is not supported",
                value=found,
                expected=f"{len(EXPERTS)} numbers" if key == "expert_channels" else repr(expected),
            )


def _changes(release: Release, profile: ReleaseProfile, id: str, *, compat: bool) -> CardChanges:
    """What the checkpoint changes of an installed card."""
    card = _installed(id)
    own = {str(tower): changes for tower, changes in profile.cards.items()}.get(id, CardChanges())
    stream: dict[str, Any] = {}
    found = release.normalisation(_PROCESSED_BY[id]) if id in _PROCESSED_BY else None
    if found is not None:
        # The release's way from a mean to a colour: cut off, not rounded.
        colour = tuple(min(max(int(mean * 255), 0), 255) for mean in found.mean)
        stream = {"mean": found.mean, "std": found.std, "pad_colour": colour}
    stream |= own.input
    if compat and card.input.kind == "patches":
        stream["size"] = None
    return own.model_copy(update={"input": stream, "weights": OwnWeights(folder=tower_folder(id))})


def _revision(changes: CardChanges) -> str:
    return (changes.weights.revision if changes.weights else None) or ""


def _installed(id: str) -> ExpertCard:
    card = usable_expert(id).card
    if card is None:
        raise CheckpointError(f"expert {id} has no card", hint=f"Install it: pip install mova-expert-{id}")
    return card


def _bert(release: Release, profile: ReleaseProfile, moves: Moves) -> PreTrainedConfig:
    """The text encoder's configuration: what its tensors tell, and what stands beside them."""
    from transformers import BertConfig

    tensors = moves.files.get(TEXT_FILE, {})
    words, inner, places = (
        _matrix(tensors, name)
        for name in (
            "embeddings.word_embeddings.weight",
            "encoder.layer.0.intermediate.dense.weight",
            "embeddings.position_embeddings.weight",
        )
    )
    folder = release.beside(release.text_encoder)
    stated = read_json(folder / "config.json") if folder and (folder / "config.json").is_file() else {}
    told = {
        "vocab_size": words[0],
        "hidden_size": words[1],
        "num_attention_heads": max(1, words[1] // 64),
        "num_hidden_layers": len({n.split(".")[2] for n in tensors if n.startswith("encoder.layer.")}),
        "intermediate_size": inner[0],
        "max_position_embeddings": places[0],
    }
    return BertConfig(**{**told, **{k: v for k, v in stated.items() if k in told}, **profile.text_encoder})


def _text_tokenizer(release: Release, given: str | Path | None) -> Path:
    """A folder with the text encoder's tokenizer: the user's, the release's, or the hub's cache."""
    name = str(given or release.text_encoder)
    # A release may name a folder of the machine that it was trained on: its last part is the model's name.
    hub = name if given and name.count("/") == 1 else f"google-bert/{Path(name).name}"
    for place in (Path(name) if given else None, release.beside(name), locate(f"hf:{hub}")):
        if place is not None and any((place / file).is_file() for file in ("tokenizer.json", "vocab.txt")):
            return place
    raise CheckpointError(
        "the tokenizer of the text encoder is not on this machine",
        value=name,
        expected="a folder with tokenizer.json or vocab.txt",
        hint=f"Run `hf download {hub} tokenizer.json tokenizer_config.json vocab.txt`, or name its folder "
        "with --text-tokenizer.",
    )


def _copy_tokenizer(source: Path, target: Path, what: str) -> None:
    found = [source / name for name in TOKENIZER_FILES if (source / name).is_file()]
    if not found:
        raise CheckpointError(
            f"{what} is missing", value=str(source), expected=" or ".join(TOKENIZER_FILES[:3])
        )
    target.mkdir(parents=True, exist_ok=True)
    for file in found:
        shutil.copyfile(file, target / file.name)


def _rows(moves: Moves, name: str) -> int:
    for file, tensors in moves.files.items():
        if file.startswith(LANGUAGE) and name in tensors:
            return _matrix(tensors, name)[0]
    raise CheckpointError("the release lacks its language model", value=name, expected="it to be there")


def _matrix(tensors: Mapping[str, TensorSpec], name: str) -> tuple[int, int]:
    """Rows and columns of a matrix."""
    spec = tensors.get(name)
    if spec is None or len(spec.shape) != 2:
        raise CheckpointError(
            "a matrix that tells a size is missing",
            value=name,
            expected="it in the release, with two dimensions",
        )
    rows, columns = spec.shape
    return rows, columns
