"""Building the tiny model: random parts on disk, a recipe that names them, and a checkpoint of it all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from mova_core.training.config import TrainConfig
from mova_core.training.run import new_model

EXPERTS = ("tiny-blue", "tiny-green", "tiny-red")
LANGUAGE_WIDTH, TEXT_WIDTH, VOCABULARY = 32, 16, 320


def build(folder: Path) -> Path:
    """Writes language model, text encoder and a checkpoint in which every weight is at work.

    Returns:
        The checkpoint directory.
    """
    write_parts(folder)
    model = new_model(TrainConfig.model_validate(recipe(folder)))
    stir(model.adapter, 0.3)
    for name in ("answer", "router"):
        model.loras.add(name, LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"]))
    for key, parameter in model.language_model.named_parameters():
        if "lora_" in key:
            nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(len(key)))
    model.save_pretrained(folder / "model")
    return folder / "model"


def recipe(folder: Path, **changes: Any) -> dict[str, Any]:
    """A training configuration for a new tiny model whose parts `write_parts` put into the folder."""
    fields: dict[str, Any] = {
        "stage": "align",
        "output": str(folder / "run"),
        "model": {
            "base": "tiny-base",
            "pool": list(EXPERTS),
            "adapter": {"width": 16, "heads": 2, "grid": [4, 4], "depth": 2, "routing_grid": [2, 1]},
            "text_encoder": {"source": f"file:{folder / 'text'}", "pooling": "mean", "width": TEXT_WIDTH},
            "language_model": {"source": f"file:{folder / 'language'}", "width": LANGUAGE_WIDTH},
        },
        "data": {
            "factory": "mova_tiny.samples:training_set",
            "arguments": {"size": 8},
            "features": str(folder / "features"),
        },
        "learning_rates": {"adapter": 1e-3},
        "steps": 2,
        "batch": 4,
        "turns": 2,
        "warmup": 0,
        "save_every": 2,
    }
    return fields | changes


def write_parts(folder: Path) -> None:
    """A Llama and a BERT with random weights, and their tokenizer."""
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    language = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=LANGUAGE_WIDTH,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=VOCABULARY + 8,
            max_position_embeddings=1024,
            initializer_range=0.3,  # wide enough for answers to differ
            bos_token_id=None,
            eos_token_id=tokenizer.convert_tokens_to_ids("<|im_end|>"),
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    text = BertModel(
        BertConfig(
            hidden_size=TEXT_WIDTH,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            vocab_size=VOCABULARY,
            max_position_embeddings=512,
            initializer_range=0.5,
        )
    )
    for model, name in ((language, "language"), (text, "text")):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE: letters and the words of routing prompts' answers are single tokens."""
    specials = ["<pad>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    words = ["yes", "no", " red", " green", " blue", " left", " right"]
    core.train_from_iterator([*words * 20, *["A, B, C"] * 10, "What colour is it? Where is it?"], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
        model_max_length=512,
    )


def stir(module: nn.Module, std: float) -> None:
    """Gives every parameter, zero-started ones too, a value that depends on its name only."""
    for name, parameter in module.named_parameters():
        seed = sum((place + 1) * byte for place, byte in enumerate(name.encode()))
        mean = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        nn.init.normal_(parameter, mean, std, generator=torch.Generator().manual_seed(seed))
