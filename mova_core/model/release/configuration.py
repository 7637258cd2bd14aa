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
from mova_core.errors import CheckpointError, ConfigError
from mova_core.model.config import MovaConfig
from mova_core.model.fingerprint import folder_digest
from mova_core.model.own_cards import changed_card
from mova_core.model.release.expected import language_config
from mova_core.model.release.naming import BASE, EXPERTS, TEXT_FILE, tower_file
from mova_core.model.release.plan import LANGUAGE, Moves, Sizes
from mova_core.model.release.profiles import ReleaseProfile
from mova_core.model.release.source import TOKENIZER_FILES, Release, read_json, told
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
        cards: of base encoder and experts, as the checkpoint will have them, their weights where it is made.
        changes: of the installed cards.
        release: where the tokenizer is.
        profile: how the language model is spoken to.
        sizes: of the parts.
        files: by part, the weight files.
        compat: whether the release's free routing is kept.
    """

    language: PreTrainedConfig
    bert: PreTrainedConfig
    text_tokenizer: Path
    changes: Mapping[str, Mapping[str, Any]]
    release: Release
    profile: ReleaseProfile
    sizes: Sizes
    moves: Moves
    compat: bool
    cards: dict[str, ExpertCard]

    def write(self, made: Path) -> None:
        """Write configurations and tokenizers, and put cards to their weights."""
        self.language.save_pretrained(made / LANGUAGE)
        self.bert.save_pretrained(made / TEXT_FOLDER)
        _copy_tokenizer(self.release.folder, made / LANGUAGE, "the language model's tokenizer")
        _copy_tokenizer(self.text_tokenizer, made / TEXT_FOLDER, "the text encoder's tokenizer")
        self._write_index(made)
        for id, document in self.profile.towers.items():
            (made / tower_file(id)).with_name("config.json").write_text(json.dumps(document, indent=2))
        for id, changes in self.changes.items():
            self.cards[id] = changed_card(_installed(id), changes, made)

    def finish(self, made: Path) -> MovaConfig:
        """Write `config.json`, once all weights are there, and return it."""
        from mova_core.model.checkpoint import stored_fingerprint

        changes = {id: dict(change) for id, change in self.changes.items()}
        for id in changes:
            revision = folder_digest((made / tower_file(id)).parent)[:16]
            changes[id]["weights"] = {**changes[id]["weights"], "revision": revision}
        config = self._config(made, changes)
        config.fingerprint = stored_fingerprint(made, config)
        config.save_pretrained(made)
        return config

    def _config(self, made: Path, changes: Mapping[str, Mapping[str, Any]]) -> MovaConfig:
        entries: list[PoolEntry] = [
            PoolEntry(
                id=id,
                card_hash=_installed(id).hash,
                channels=self.sizes.channels[id],
                revision=changes[id]["weights"]["revision"],
            )
            for id in sorted(EXPERTS)
        ]
        return MovaConfig(
            base=BASE,
            adapter=self.sizes.adapter,
            text_encoder=TextSettings(source=f"inside:{TEXT_FOLDER}", width=self.sizes.text),
            language_model=LanguageSettings(source=f"inside:{LANGUAGE}", width=self.sizes.out),
            prompt=_prompt(self.profile.prompt, made / LANGUAGE),
            router=RouterSettings(
                kind="free" if self.compat else "listwise",
                max_experts=self.sizes.adapter.max_experts,
                listwise=self.profile.routing,
            ),
            pool=entries,
            cards=changes,
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
    if not any(release.processor(id) for id in set(_PROCESSED_BY.values())):
        warn(
            "the release brings no image processors: mean and deviation of the pictures, above all of the "
            "one that vary, codetr and sam share, are those of the installed cards"
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
        cards={},
    )


def _check_ways(release: Release) -> None:
    """Refuse what the released code can do and its one checkpoint does not."""
    ways: dict[str, tuple[Any, Any]] = {
        "image_aspect_ratio": (told(release, "image_aspect_ratio", "pad"), "pad"),
        "mm_vision_select_layer": (told(release, "mm_vision_select_layer", -2), -2),
        "mm_use_im_start_end": (bool(release.config.get("mm_use_im_start_end")), False),
        "num_projector_experts": (len(release.config.get("expert_channels", EXPERTS)), len(EXPERTS)),
    }
    for key, (found, expected) in ways.items():
        if found != expected:
            raise CheckpointError(
                f"config.json: {key}: this way is not supported", value=found, expected=repr(expected)
            )


def _changes(release: Release, profile: ReleaseProfile, id: str, *, compat: bool) -> dict[str, Any]:
    """What the checkpoint changes of an installed card."""
    _installed(id)
    own = {key: dict(value) for key, value in profile.cards.get(id, {}).items()}
    stream = own.pop("input", {})
    processor = release.processor(_PROCESSED_BY[id]) if id in _PROCESSED_BY else {}
    if "image_mean" in processor and "image_std" in processor:
        mean, std = processor["image_mean"], processor["image_std"]
        stream = {"mean": mean, "std": std, "pad_colour": [int(x * 255) for x in mean], **stream}
    if compat and _installed(id).input.kind == "patches":
        stream = {**stream, "size": None}
    weights = {"sources": [f"inside:experts/{id}"], "revision": None, "sha256": None}
    return {**own, "weights": weights, **({"input": stream} if stream else {})}


def _installed(id: str) -> ExpertCard:
    card = usable_expert(id).card
    if card is None:
        raise CheckpointError(f"expert {id} has no card", hint=f"Install it: pip install mova-expert-{id}")
    return card


def _bert(release: Release, profile: ReleaseProfile, moves: Moves) -> PreTrainedConfig:
    """The text encoder's configuration: what its tensors tell, and what stands beside them."""
    from transformers import BertConfig

    tensors = moves.files.get(TEXT_FILE, {})
    words = tensors.get("embeddings.word_embeddings.weight")
    inner = tensors.get("encoder.layer.0.intermediate.dense.weight")
    places = tensors.get("embeddings.position_embeddings.weight")
    if words is None or inner is None or places is None:
        raise CheckpointError(
            "the release lacks its text encoder", expected="weights of a BERT under model.mm_projector"
        )
    folder = release.beside(release.text_encoder)
    stated = read_json(folder / "config.json") if folder and (folder / "config.json").is_file() else {}
    told = {
        "vocab_size": words.shape[0],
        "hidden_size": words.shape[1],
        "num_attention_heads": max(1, words.shape[1] // 64),
        "num_hidden_layers": len({n.split(".")[2] for n in tensors if n.startswith("encoder.layer.")}),
        "intermediate_size": inner.shape[0],
        "max_position_embeddings": places.shape[0],
    }
    return BertConfig(**{**told, **{k: v for k, v in stated.items() if k in told}, **profile.text_encoder})


def _text_tokenizer(release: Release, given: str | Path | None) -> Path:
    """A folder with the text encoder's tokenizer: the user's, the release's, or the hub's cache."""
    name = str(given or release.text_encoder)
    hub = name if "/" in name else f"google-bert/{name}"
    for place in (Path(name), release.beside(name), locate(f"hf:{hub}")):
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


def _prompt(prompt: PromptSettings, folder: Path) -> PromptSettings:
    """The prompt as the released code would spell it with this tokenizer.

    That code reads each piece of a text by itself and takes off its first token where the text began with the
    mark of a beginning. With a tokenizer that puts such a mark there itself, nothing else is lost; with one
    that does not, it is the newline after the image.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # each reader of these files fails in ways of its own
        raise CheckpointError(
            "the language model's tokenizer cannot be read", value=f"{type(error).__name__}: {error}"
        ) from error
    first = tokenizer.encode("", add_special_tokens=True)[:1]
    written = tokenizer.encode(prompt.begin, add_special_tokens=False)[:1]
    if first or not prompt.tokenizer_begins or written != [tokenizer.bos_token_id]:
        return prompt
    lost = tokenizer.decode(tokenizer.encode(prompt.image_end + "A", add_special_tokens=False)[:1])
    if lost != prompt.image_end:
        raise ConfigError(
            "this tokenizer melts the end of an image into what follows",
            value=lost,
            expected=prompt.image_end,
        )
    return prompt.model_copy(update={"image_end": ""})


def _rows(moves: Moves, name: str) -> int:
    for file, tensors in moves.files.items():
        if file.startswith(LANGUAGE) and name in tensors:
            return tensors[name].shape[0]
    raise CheckpointError("the release lacks its language model", value=name, expected="it to be there")
