"""From the parts of a model to the memory they take in some dtype."""

from __future__ import annotations

from math import ceil, prod
from typing import Final

from mova_core.errors import ConfigError
from mova_core.experts.shelf import expected_memory
from mova_core.model.devices import DTYPES
from mova_core.model.inventory import Inventory, Piece
from mova_core.model.placement import Item, Sizes

CONTEXT: Final = 4096
"""Tokens of a conversation, images included, that room is kept for, unless the model reads fewer."""

VISION: Final = 500 * 10**6
"""Parts of working memory, each times the bytes of a number: 1 GB in 16 bits.

An adapter over 2,304 tokens takes about a half of it for one picture, a large encoder the whole.
"""

BLOCK: Final = 64
"""Weights that share a scale in 4 bits (bitsandbytes)."""


def measure(
    inventory: Inventory,
    *,
    dtype: str,
    quantization: str | None = None,
    adapter_dtype: str | None = None,
    context: int | None = None,
    working: int | None = None,
    cache_bytes: int,
) -> Sizes:
    """What each part takes.

    Args:
        inventory: the parts.
        dtype: of language model, base encoder and experts.
        quantization: "8bit" or "4bit" for the language model's layers.
        adapter_dtype: of adapter and text encoder, if it is another.
        context: tokens of the longest conversation.
        working: bytes that forward passes of encoders need.
        cache_bytes: bound of the cache of features.

    Raises:
        ConfigError: the language model reads no conversation of that length.
    """
    width, small = DTYPES[dtype].itemsize, DTYPES[adapter_dtype or dtype].itemsize
    tokens = _context(inventory, context)
    vision = VISION * width if working is None else working
    lora = 4 if quantization == "8bit" else width  # beside int8 weights peft keeps them in float32
    return Sizes(
        dtype=dtype,
        quantization=quantization,
        language=tuple(Item(piece.name, _nbytes(piece, width, quantization)) for piece in inventory.pieces),
        layers=frozenset(piece.name for piece in inventory.pieces if piece.layer is not None),
        tied=inventory.tied,
        resident=(
            Item("LoRAs", inventory.loras * lora),
            Item("adapter", inventory.adapter * small),
            Item(f"packs of {len(inventory.experts)} experts", inventory.packs * small),
            Item("text encoder", inventory.text_encoder * small),
            Item(
                f"base encoder {inventory.base.id}",
                expected_memory(inventory.base, DTYPES[dtype]),
                "by its card",
            ),
        ),
        experts={card.id: expected_memory(card, DTYPES[dtype]) for card in inventory.experts},
        most=inventory.most,
        cache_per_layer=tokens * _cached(inventory) * width,
        work=_language_work(inventory, tokens, width, quantization),
        vision=Item("working memory", vision, "forward passes of encoders and adapter, a picture at a time"),
        features=Item("cache of features", cache_bytes, "its bound"),
    )


def _nbytes(piece: Piece, width: int, quantization: str | None) -> int:
    return sum(
        _weight(shape, width, quantization if piece.layer is not None else None) for shape in piece.shapes
    )


def _weight(shape: tuple[int, ...], width: int, quantization: str | None) -> int:
    count = prod(shape)
    if quantization is None or len(shape) != 2:  # norms and biases keep their bits
        return count * width
    if quantization == "8bit":
        return count + 4 * shape[0]  # a float32 scale a row
    return ceil(count / 2) + 4 * ceil(count / BLOCK)  # a float32 scale a block


def _context(inventory: Inventory, wanted: int | None) -> int:
    reach = getattr(inventory.language.get_text_config(), "max_position_embeddings", None)
    if wanted is None:
        return min(CONTEXT, reach or CONTEXT)
    if wanted < 1 or (reach is not None and wanted > reach):
        raise ConfigError(
            "the language model reads no conversation of this length",
            value=f"{wanted:,} tokens",
            expected=f"1 to {reach:,}" if reach else "1 or more",
        )
    return wanted


def _cached(inventory: Inventory) -> int:
    """Numbers that one layer keeps of a token."""
    config = inventory.language.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * heads * size)


def _language_work(inventory: Inventory, tokens: int, width: int, quantization: str | None) -> Item:
    """What stands in memory while one layer reads a whole conversation, and logits of the last token."""
    config = inventory.language.get_text_config()
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    nbytes = tokens * (4 * config.hidden_size + 3 * inner) * width + 4 * config.vocab_size
    if quantization:  # one matrix at a time gets all its bits back
        nbytes += width * max(
            (prod(shape) for piece in inventory.pieces if piece.layer is not None for shape in piece.shapes),
            default=0,
        )
    return Item("working memory", nbytes, f"a forward pass over {tokens:,} tokens")
