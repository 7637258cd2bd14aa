"""Conversions: the same weights, the same answers, in the folder that models load."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from mova_core.errors import PartsError
from mova_core.model.parts.convert import conversion

TIMM = "test_efficientnet"


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    return source, target


def in_other_words(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same weights as another code base would name them."""
    return {f"_part{i}.{name.rpartition('.')[2]}": tensor for i, (name, tensor) in enumerate(state.items())}


def test_a_state_dict_becomes_a_timm_folder(folders):
    source, target = folders
    torch.manual_seed(0)
    model = timm.create_model(TIMM).eval()
    torch.save(in_other_words(model.state_dict()), source / "weights.pth")
    conversion(f"timm:{TIMM}").run(source, target)

    again = timm.create_model(f"local-dir:{target}", pretrained=True).eval()
    image = torch.randn(1, 3, 64, 64)
    assert torch.equal(again(image), model(image))
    assert again.pretrained_cfg["mean"] == list(model.pretrained_cfg["mean"])


def without_last(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return dict(list(state.items())[:-1])


def of_another_shape(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor[..., None] for name, tensor in state.items()}


def of_another_order(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Two tensors of one shape change places: only their names can tell."""
    names = list(state)
    i, j = (next(k for k, name in enumerate(names) if name.endswith(kind)) for kind in (".weight", ".bias"))
    i = next(
        k for k in range(j) if names[k].endswith(".weight") and state[names[k]].shape == state[names[j]].shape
    )
    names[i], names[j] = names[j], names[i]
    return {name: state[name] for name in names}


@pytest.mark.parametrize("spoil", [without_last, of_another_shape, of_another_order])
def test_weights_of_another_model_are_refused(folders, spoil):
    source, target = folders
    torch.save(spoil(in_other_words(timm.create_model(TIMM).state_dict())), source / "weights.pth")
    with pytest.raises(PartsError, match="of another model"):
        conversion(f"timm:{TIMM}").run(source, target)
    assert list(target.iterdir()) == []


class Trap:
    """Unpickling this would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., None], tuple[Path]]:
        return Path.touch, (self.path,)


def test_code_in_a_state_dict_is_not_run(folders, tmp_path):
    source, target = folders
    (source / "weights.pth").write_bytes(pickle.dumps(Trap(tmp_path / "sprung"), protocol=2))
    with pytest.raises(pickle.UnpicklingError):
        conversion(f"timm:{TIMM}").run(source, target)
    assert not (tmp_path / "sprung").exists()


def test_none_moves_what_is_there(folders):
    source, target = folders
    (source / "sub").mkdir()
    (source / "sub" / "config.json").write_text("{}")
    conversion("none").run(source, target)
    assert (target / "sub" / "config.json").read_text() == "{}"


def test_an_unknown_conversion_names_those_there_are():
    with pytest.raises(PartsError, match='unknown conversion.*got onnx.*"gguf-llama"'):
        conversion("onnx")


def test_a_conversion_of_one_file_says_what_it_found(folders):
    source, target = folders
    with pytest.raises(PartsError, match="reads one file; got none"):
        conversion("gguf-llama").run(source, target)


CONFIG: dict[str, Any] = {
    "vocab_size": 262,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}


def as_gguf_orders_rows(weight: Tensor, heads: int) -> Tensor:
    """GGUF keeps the two halves of each head's rotary pairs interleaved."""
    return weight.view(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def write_gguf(path: Path, model: LlamaForCausalLM) -> None:
    import gguf

    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    add_tokenizer(writer)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":
            continue  # tied
        if "q_proj" in name:
            tensor = as_gguf_orders_rows(tensor, config.num_attention_heads)
        if "k_proj" in name:
            tensor = as_gguf_orders_rows(tensor, config.num_key_value_heads)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_tokenizer(writer: Any) -> None:
    """Byte-level BPE: three special tokens, all bytes, and merges for "ab", " a" and two spaces."""
    from tokenizers.pre_tokenizers import ByteLevel

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokens = [*special, *sorted(ByteLevel.alphabet()), "ab", "Ġa", "ĠĠ"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 3 + [1] * (len(tokens) - 3))
    writer.add_token_merges(["a b", "Ġ a", "Ġ Ġ"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(
        "{% for message in messages %}<|im_start|>{{ message['content'] }}<|im_end|>{% endfor %}"
    )


@pytest.fixture(scope="module")
def from_gguf(tmp_path_factory: pytest.TempPathFactory) -> tuple[LlamaForCausalLM, Path]:
    """A tiny Llama and the folder it was converted to by way of GGUF."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("target")
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**CONFIG)).eval()
    write_gguf(source / "tiny.gguf", model)
    conversion("gguf-llama").run(source, target)
    return model, target


def test_gguf_weights_come_out_in_bfloat16_and_load_without_loss(from_gguf):
    model, target = from_gguf
    again, report = AutoModelForCausalLM.from_pretrained(target, output_loading_info=True)
    assert not any(report.values())
    expected = {name: tensor.bfloat16() for name, tensor in model.state_dict().items()}
    assert again.state_dict().keys() == expected.keys()
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    assert (target / "model.safetensors").exists()


def test_gguf_leaves_a_plain_model_that_generates_greedily(from_gguf):
    _, target = from_gguf
    again = AutoModelForCausalLM.from_pretrained(target)
    assert not hasattr(again.config, "quantization_config")
    ids = (again.generation_config.bos_token_id, again.generation_config.eos_token_id)
    assert (*ids, again.generation_config.pad_token_id, again.generation_config.do_sample) == (1, 2, 2, False)
    prompt = torch.tensor([[5, 6, 7]])
    assert torch.equal(again.generate(prompt, max_new_tokens=4), again.generate(prompt, max_new_tokens=4))


def test_gguf_tokenizer_splits_digits_and_knows_the_chat_template(from_gguf):
    _, target = from_gguf
    tokenizer = AutoTokenizer.from_pretrained(target)
    assert tokenizer.model_max_length == 128
    # Two spaces before a digit are one word of their own, as in training.
    assert tokenizer.tokenize("ab  1") == ["ab", "ĠĠ", "1"]
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "ab"}], return_dict=True)
    assert chat["input_ids"] == [1, tokenizer.convert_tokens_to_ids("ab"), 2]
    assert tokenizer.decode(chat["input_ids"], skip_special_tokens=True) == "ab"
