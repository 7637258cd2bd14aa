"""The little that a router needs of a causal language model.

Notation for tensor shapes:
    b: rows, q: tokens fed now, s: tokens fed so far, d: width of the model, n_r: routing tokens of one image,
    t: tokens asked about
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from mova_core.errors import ConfigError, InputError
from mova_core.routing.base import ImageInput
from mova_core.routing.beginnings import Beginnings, model_state
from mova_core.routing.images import See, routing_tokens
from mova_core.routing.labels import Path, encode
from mova_core.routing.placed import TREE_ATTENTION, can_read_trees, execution_device, tree_attention
from mova_core.routing.tree import lay_out, stale, visible

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel, PreTrainedTokenizerBase

Piece: TypeAlias = Path | Tensor
"""A stretch of a prompt: token ids, or embeddings [n_r, d]."""

WORTH_KEEPING = 32
"""Tokens from which on a text is read ahead: below, a pass of its own costs more than it saves."""


@dataclass(frozen=True, slots=True)
class Row:
    """What one sample reads: a trunk, and branches that continue it side by side."""

    trunk: Sequence[Piece] = ()
    branches: Sequence[Path] = ()

    @property
    def sizes(self) -> list[int]:
        """Tokens of the trunk, then of each branch."""
        return [sum(map(len, self.trunk)), *map(len, self.branches)]


@dataclass(frozen=True, slots=True)
class Context:
    """What has been read so far, to be read on from.

    Args:
        cache: keys and values; reading on changes it.
        branch: [b, s], 0 for what stays visible, -1 for the rest.
        lengths: for each row the visible tokens, which is the next position.
    """

    cache: Cache
    branch: Tensor
    lengths: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """One forward pass.

    Args:
        hidden: [b, q, d], final hidden states.
        spans: for each row the columns of its trunk, then of each branch.
        context: to read on from, if it was to be kept.
    """

    hidden: Tensor
    spans: tuple[tuple[range, ...], ...]
    context: Context | None = None


class RoutingLanguageModel:
    """A causal language model that reads images, and questions about the pool.

    It runs in the mode (training or evaluation) and with the weights it is found in.

    Args:
        model: any causal language model of transformers, bare or carrying peft adapters.
        tokenizer: its tokenizer.
        see: looks at pictures; without it images must come as routing tokens.
        adapter: makes the context in which a pass runs, for instance one that switches a LoRA on.
        start: tokens that open every prompt, such as the beginning that a tokenizer puts before a text.

    Raises:
        ConfigError: if the model's attention cannot take a mask of our own.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        see: See | None = None,
        adapter: Callable[[], AbstractContextManager[Any]] = nullcontext,
        start: Path = (),
    ) -> None:
        if not can_read_trees(model):
            raise ConfigError(
                "this attention cannot route, and the model's code knows no switch to another",
                value=model.config._attn_implementation,
                expected=" or ".join(TREE_ATTENTION),
                hint='Load the language model with attn_implementation="sdpa".',
            )
        self.model = model
        self.tokenizer = tokenizer
        self.see = see
        self.adapter = adapter
        self.start = tuple(start)
        self._beginnings = Beginnings()

    def look(self, images: Sequence[ImageInput]) -> list[Tensor]:
        """Routing tokens [n_r, d] of each image."""
        return routing_tokens(images, self._words.embedding_dim, self.see)

    def encode(self, text: str) -> Path:
        """Tokens of a text; special tokens written in it are recognised, none are added."""
        return encode(self.tokenizer, text)

    def opening(self, text: str) -> Path:
        """Tokens of a text that opens a prompt."""
        return self.start + self.encode(text)

    def begin(self, text: Path, rows: int) -> Context | None:
        """What there is to know of a text that opens every row, read once and kept for later calls.

        Call it with the adapter on that is on for the rest. Nothing changes but the time it takes.

        Args:
            text: tokens that depend on neither image nor question.
            rows: how many rows they open.

        Returns:
            The context to read the rest of each row on from; None where the text is to be read along with the
            rest: if it is short, gradients are wanted, the model is in training mode or has a sliding window.

        Raises:
            InputError: if the text alone is longer than the model can read.
        """
        window = getattr(self.model.config.get_text_config(), "sliding_window", None)
        if len(text) < WORTH_KEEPING or torch.is_grad_enabled() or self.model.training or window is not None:
            return None
        device = self._device
        cache = self._beginnings.cache(
            text, rows, model_state(self.model, device), lambda: self._read_alone(text)
        )
        branch = torch.zeros(rows, len(text), dtype=torch.long, device=device)  # [b, s]
        return Context(cache, branch, (len(text),) * rows)

    def forget(self) -> None:
        """Drop what `begin` has kept: to free memory, or after weights were written through `.data`.

        All other changes of weights are noticed; see `mova_core.routing.beginnings.model_state`.
        """
        self._beginnings.forget()

    def _read_alone(self, text: Path) -> Cache:
        """Keys and values of a text in one row."""
        cache = self._new_cache()
        nothing = torch.zeros(1, 0, dtype=torch.long, device=self._device)
        self.read([Row([text])], Context(cache, nothing, (0,)))
        return cache

    def read(self, rows: Sequence[Row], context: Context | None = None, *, keep: bool = False) -> Reading:
        """Read trunks and branches in one forward pass; gradients flow.

        Args:
            rows: what to read, one for each sample.
            context: what came before, if anything did.
            keep: whether to keep keys and values, so as to read on. Only the trunks are read on from.

        Raises:
            InputError: if a row is longer than the model can read.
        """
        starts = context.lengths if context else (0,) * len(rows)
        layout = lay_out([row.sizes for row in rows], starts)
        embeds = self._embed(rows)  # [b, q, d]
        branch = layout.branch.to(embeds.device)  # [b, q]
        if context:
            branch = torch.cat([context.branch, branch], dim=1)  # [b, s]
        longest = int(layout.position.max()) + 1
        self._check_length(longest, branch.shape[1] if keep or context else longest)
        blocked = ~visible(branch, embeds.shape[1])[:, None]  # [b, 1, q, s]
        # Additive, because eager attention adds whatever it is given; finite, because infinities make NaN.
        mask = torch.zeros_like(blocked, dtype=embeds.dtype)
        mask = mask.masked_fill(blocked, torch.finfo(embeds.dtype).min)
        cache = context.cache if context else self._new_cache() if keep else None
        with tree_attention(self.model):
            output = self._parts.get_decoder()(
                inputs_embeds=embeds,
                attention_mask=mask,
                position_ids=layout.position.to(embeds.device),
                past_key_values=cache,
                use_cache=cache is not None,
            )
        kept = None
        if keep and cache is not None:
            lengths = tuple(start + len(spans[0]) for start, spans in zip(starts, layout.spans, strict=True))
            kept = Context(cache, stale(branch), lengths)
        return Reading(output.last_hidden_state, layout.spans, kept)

    def logits(self, hidden: Tensor, tokens: Sequence[int] | None = None) -> Tensor:
        """Logits [..., t] of some tokens, or of all, after hidden states [..., d], as float32.

        For some tokens only their rows of the head are used, where it is a plain matrix, and in float32:
        scores are differences of logits, and bfloat16 keeps few digits of those.
        """
        head: nn.Module = self._parts.get_output_embeddings()
        if tokens is None or not _is_plain(head):
            logits: Tensor = head(hidden)
            return (logits if tokens is None else logits[..., list(tokens)]).float()  # [..., t]
        chosen = torch.tensor(tokens, device=head.weight.device)
        weight = head.weight[chosen].float()
        bias = None if head.bias is None else head.bias[chosen].float()
        with torch.autocast(hidden.device.type, enabled=False):
            # The head may be on another device than the last layer, where a model is spread over several.
            return nn.functional.linear(hidden.to(weight.device).float(), weight, bias)  # [..., t]

    @property
    def _parts(self) -> Any:
        """The model as what finds its parts: those methods are typed in no release of transformers."""
        return self.model

    @property
    def _words(self) -> nn.Embedding:
        table: nn.Embedding = self._parts.get_input_embeddings()
        return table

    @property
    def _device(self) -> torch.device:
        """Where embeddings come out, which an offloaded table's own weights do not tell."""
        return execution_device(self._words)

    def _embed(self, rows: Sequence[Row]) -> Tensor:
        """Embeddings [b, q, d] of all rows, images in their places, padded on the right."""
        table, device = self._words, self._device
        pieces = [[*row.trunk, *row.branches] for row in rows]
        texts = [piece for row in pieces for piece in row if not isinstance(piece, Tensor)]
        flat = torch.tensor([token for text in texts for token in text], device=device).long()
        ends = torch.tensor([len(text) for text in texts]).cumsum(0)
        words = iter(table(flat).tensor_split(ends[:-1]))  # for each text [n, d]
        joined = []
        for row in pieces:
            parts = [
                piece.to(device, table.weight.dtype) if isinstance(piece, Tensor) else next(words)
                for piece in row
            ]
            nothing = torch.zeros(0, table.embedding_dim, dtype=table.weight.dtype, device=device)
            joined.append(torch.cat([nothing, *parts]))  # [n, d]
        return pad_sequence(joined, batch_first=True)

    def _new_cache(self) -> Cache:
        from transformers import DynamicCache

        return DynamicCache(config=self.model.config)

    def _check_length(self, longest: int, cached: int) -> None:
        config = self.model.config.get_text_config()
        reach = getattr(config, "max_position_embeddings", None)
        window = getattr(
            config, "sliding_window", None
        )  # a tree mask knows none, a cache drops what leaves it
        for length, limit in ((longest, reach), (cached, window)):
            if limit is not None and length > limit:
                raise InputError(
                    "the question and the descriptions are too long for the language model that routes",
                    value=f"{length} tokens",
                    expected=f"at most {limit}",
                    hint="Shorten the question, or offer fewer experts.",
                )


def _is_plain(head: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether a head is a matrix at hand: not wrapped by an adapter, quantised, offloaded or sharded."""
    return type(head) is nn.Linear and not head.weight.is_meta and len(head.weight) == head.out_features
