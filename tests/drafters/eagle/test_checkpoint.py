"""Heads in every published format, tiny ones; and a sentence for whatever is wrong with them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import plain_head as plain
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from cast_drafters.eagle.checkpoint import HeadFormatError, read_head, write_head
from cast_drafters.eagle.config import TargetShape, default_layer_ids, parse_config

HIDDEN, INNER, VOCAB, DRAFT, HEADS, KEYS = 16, 24, 40, 12, 4, 2
TARGET = TargetShape(HIDDEN, VOCAB, 12)
TAPS = [2, 6, 9]
KEPT = torch.tensor([0, 3, 4, 9, 11, 12, 20, 21, 30, 31, 38, 39])
LAYER = {
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_attention_heads": HEADS,
    "num_hidden_layers": 1,
    "rms_norm_eps": 1e-5,
    "vocab_size": VOCAB,
}
EAGLE_1 = LAYER | {"architectures": ["LlamaForCausalLM"]}
EAGLE_3 = EAGLE_1 | {"num_key_value_heads": KEYS, "draft_vocab_size": DRAFT}
SPEC_FORGE = EAGLE_3 | {"architectures": ["LlamaForCausalLMEagle3"], "head_dim": 6}
SPECULATORS = {
    "architectures": ["Eagle3Speculator"],
    "speculators_model_type": "eagle3",
    "speculators_config": {"algorithm": "eagle3", "verifier": {"architectures": ["Llama"]}},
    "transformer_layer_config": LAYER | {"num_key_value_heads": KEYS},
    "draft_vocab_size": DRAFT,
    "norm_before_residual": True,
}


def layer_tensors(keys=HEADS, head_dim=HIDDEN // HEADS, wide=HIDDEN) -> dict[str, torch.Tensor]:
    heads, keys = HEADS * head_dim, keys * head_dim
    return {
        "self_attn.q_proj.weight": torch.randn(heads, wide),
        "self_attn.k_proj.weight": torch.randn(keys, wide),
        "self_attn.v_proj.weight": torch.randn(keys, wide),
        "self_attn.o_proj.weight": torch.randn(HIDDEN, heads),
        "mlp.gate_proj.weight": torch.randn(INNER, HIDDEN),
        "mlp.up_proj.weight": torch.randn(INNER, HIDDEN),
        "mlp.down_proj.weight": torch.randn(HIDDEN, INNER),
        "post_attention_layernorm.weight": torch.randn(HIDDEN),
    }


def eagle_1_tensors() -> dict[str, torch.Tensor]:
    layer = {f"layers.0.{name}": t for name, t in layer_tensors().items()}
    embedding = torch.randn(VOCAB, HIDDEN)
    return layer | {"fc.weight": torch.randn(HIDDEN, 2 * HIDDEN), "embed_tokens.weight": embedding}


def eagle_3_tensors(layer="midlayer.", **sizes) -> dict[str, torch.Tensor]:
    norms = {f"{name}.weight": torch.randn(HIDDEN) for name in ("hidden_norm", "input_layernorm")}
    parts = layer_tensors(**{"keys": KEYS, "wide": 2 * HIDDEN, **sizes}) | norms
    return {f"{layer}{name}": t for name, t in parts.items()} | {
        "fc.weight": torch.randn(HIDDEN, 3 * HIDDEN),
        "norm.weight": torch.randn(HIDDEN),
        "lm_head.weight": torch.randn(DRAFT, HIDDEN),
        "d2t": KEPT - torch.arange(DRAFT),
        "t2d": torch.zeros(VOCAB, dtype=torch.bool).index_fill(0, KEPT, True),
    }


def save(directory: Path, document, tensors, name="model.safetensors") -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(document))
    if name.endswith(".bin"):
        torch.save(tensors, directory / name)
    else:
        save_file(tensors, directory / name)
    return directory


def assert_same(tensors, published, ids) -> None:
    """The same tensors under canonical names."""
    expected = {
        name.replace("midlayer.", "layer.").replace("layers.0.", "layer."): t
        for name, t in published.items()
        if name not in ("d2t", "t2d")
    }
    assert tensors.keys() == expected.keys() | {"draft_token_ids"}
    for name, tensor in expected.items():
        assert tensors[name].dtype == tensor.dtype, name
        assert torch.equal(tensors[name], tensor), name
    assert tensors["draft_token_ids"].dtype == torch.int64
    assert tensors["draft_token_ids"].tolist() == list(ids)


@pytest.mark.parametrize("has_bias", [True, False])
def test_eagle_1(tmp_path, has_bias) -> None:
    document, published = dict(EAGLE_1), eagle_1_tensors()
    if has_bias:  # so it is where config.json says nothing
        published["fc.bias"] = torch.randn(HIDDEN)
    else:
        document["bias"] = False
    save(tmp_path, document, published, "pytorch_model.bin")
    config, tensors = read_head(tmp_path, TARGET)
    assert_same(tensors, published, range(VOCAB))
    assert (config.version, config.has_fc_bias, config.has_qkv_bias) == (1, has_bias, False)
    assert (config.num_key_heads, config.head_dim, config.layer_ids) == (HEADS, 4, ())
    assert config.draft_vocab_size == VOCAB
    assert (config.rope_theta, config.rope_scaling) == (10000.0, None)


def test_eagle_1_of_qwen_2(tmp_path) -> None:
    published = eagle_1_tensors()
    del published["embed_tokens.weight"]
    published |= {f"layers.0.self_attn.{p}_proj.bias": torch.randn(HIDDEN) for p in "qkv"}
    save(tmp_path, EAGLE_1 | {"bias": False, "qkv_bias": True, "rope_theta": 10**6}, published)
    config, tensors = read_head(tmp_path, TARGET)
    assert_same(tensors, published, range(VOCAB))
    assert config.has_qkv_bias
    assert config.rope_theta == 1e6


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_official_eagle_3(tmp_path, name, dtype) -> None:
    published = {
        name: t.to(dtype) if t.is_floating_point() else t for name, t in eagle_3_tensors().items()
    }
    config, tensors = read_head(save(tmp_path, EAGLE_3, published, name), TARGET)
    assert_same(tensors, published, KEPT.tolist())
    assert (config.version, config.draft_vocab_size, config.has_fc_bias) == (3, DRAFT, False)
    assert config.layer_ids == default_layer_ids(12) == tuple(TAPS)
    assert (config.rope_theta, config.rms_norm_eps) == (10000.0, 1e-5)


def test_eagle_3_of_the_whole_vocabulary_needs_no_map(tmp_path) -> None:
    published = eagle_3_tensors() | {"lm_head.weight": torch.randn(VOCAB, HIDDEN)}
    del published["d2t"], published["t2d"]
    save(tmp_path, EAGLE_3 | {"draft_vocab_size": VOCAB}, published)
    _, tensors = read_head(tmp_path, TARGET)
    assert_same(tensors, published, range(VOCAB))


def test_spec_forge_with_fc_norm(tmp_path) -> None:
    published = eagle_3_tensors(head_dim=6)
    published |= {f"fc_norm.{i}.weight": torch.randn(HIDDEN) for i in range(3)}
    document = SPEC_FORGE | {
        "fc_norm": True,
        "norm_output": True,
        "target_hidden_size": HIDDEN,
        "eagle_config": {"eagle_aux_hidden_state_layer_ids": [1, 5, 8]},
    }
    config, tensors = read_head(save(tmp_path, document, published), TARGET)
    assert_same(tensors, published, KEPT.tolist())
    assert (config.head_dim, config.fc_norm, config.norm_output) == (6, True, True)
    assert config.layer_ids == tuple(TAPS)


def test_speculators(tmp_path) -> None:
    published = eagle_3_tensors("layers.0.")
    published |= {
        "input_norm.weight": torch.randn(3 * HIDDEN),
        "embed_tokens.weight": torch.randn(VOCAB, HIDDEN),
    }
    rope = {"rope_theta": 5e5, "rope_type": "linear", "factor": 2.0}
    document = SPECULATORS | {
        "transformer_layer_config": SPECULATORS["transformer_layer_config"]
        | {"rope_parameters": rope, "head_dim": None},
        "norm_before_fc": True,
        "eagle_aux_hidden_state_layer_ids": [1, 4, 7],
    }
    config, tensors = read_head(save(tmp_path, document, published), TARGET)
    assert_same(tensors, published, KEPT.tolist())
    assert config.norm_before_residual
    assert config.norm_before_fc
    assert (config.fc_norm, config.norm_output) == (False, False)
    assert config.layer_ids == (1, 4, 7)
    assert (config.rope_theta, config.rope_scaling) == (5e5, {"type": "linear", "factor": 2.0})


def test_a_head_narrower_than_its_target(tmp_path) -> None:
    published = eagle_3_tensors() | {
        "fc.weight": torch.randn(HIDDEN, 3 * 20),
        "embed_tokens.weight": torch.randn(VOCAB, HIDDEN),
    }
    document = SPEC_FORGE | {"head_dim": 4, "target_hidden_size": 20}
    config, _ = read_head(save(tmp_path, document, published), TargetShape(20, VOCAB, 12))
    assert (config.hidden_size, config.target_hidden_size) == (HIDDEN, 20)
    del published["embed_tokens.weight"]  # the target's are too wide to stand in for them
    save(tmp_path, document, published)
    with pytest.raises(HeadFormatError, match="embed_tokens"):
        read_head(tmp_path, TargetShape(20, VOCAB, 12))


@pytest.mark.parametrize("prefix", ["model.", "eagle.", "draft_model.", "eagle.model."])
def test_prefixes_and_buffers(tmp_path, prefix) -> None:
    published = eagle_3_tensors()
    named = {prefix + name: t for name, t in published.items()}
    named["midlayer.self_attn.rotary_emb.inv_freq"] = torch.ones(2)
    _, tensors = read_head(save(tmp_path, EAGLE_3, named), TARGET)
    assert_same(tensors, published, KEPT.tolist())


def test_shards(tmp_path) -> None:
    published = eagle_3_tensors()
    names = {
        name: f"model-0000{i % 2 + 1}-of-00002.safetensors" for i, name in enumerate(published)
    }
    for shard in sorted(set(names.values())):
        save(tmp_path, EAGLE_3, {n: t for n, t in published.items() if names[n] == shard}, shard)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": names}))
    _, tensors = read_head(tmp_path, TARGET)
    assert_same(tensors, published, KEPT.tolist())
    (tmp_path / shard).unlink()
    assert_refused(tmp_path, shard, "missing")
    index.write_text(json.dumps({"weight_map": {"fc.weight": "../elsewhere.safetensors"}}))
    assert_refused(tmp_path, index.name, "weight_map")


@pytest.mark.parametrize(
    ("top", "nested", "expected"),
    [
        (None, None, TAPS),
        (TAPS, None, TAPS),
        ([1, 5, 8], None, TAPS),  # converted from SpecForge without a change
        (None, [1, 5, 8], TAPS),
        (None, TAPS, TAPS),
        (None, [1, 3, 5], [1, 3, 5]),
        ([1, 5, 8], [0, 4, 7], [1, 5, 8]),  # both countings: nothing to guess
        ([3, 5, 7], [1, 5, 8], [3, 5, 7]),
    ],
)
def test_countings_of_layers(top, nested, expected) -> None:
    document = EAGLE_3 | {
        "eagle_aux_hidden_state_layer_ids": top,
        "eagle_config": nested and {"eagle_aux_hidden_state_layer_ids": nested},
    }
    assert list(parse_config(document, TARGET).layer_ids) == expected


@pytest.mark.parametrize(
    ("fields", "theta", "scaling"),
    [
        ({"rope_theta": 500000}, 5e5, None),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, 1e4, {"type": "dynamic"}),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, 1e4, {"type": "llama3"}),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 7.0}}, 7.0, None),
    ],
)
def test_rope(fields, theta, scaling) -> None:
    config = parse_config(EAGLE_3 | fields, TARGET)
    assert config.rope_theta == theta
    kind = config.rope_scaling and {"type": config.rope_scaling["type"]}
    assert kind == scaling


# What is written


SWITCHES = ("norm_before_residual", "norm_before_fc", "fc_norm", "norm_output", "has_qkv_bias")


@settings(deadline=None, max_examples=40)
@given(
    switches=st.fixed_dictionaries({name: st.booleans() for name in SWITCHES}),
    layer_ids=st.permutations(range(plain.LAYERS)).map(lambda ids: tuple(sorted(ids[:3]))),
    sizes=st.sampled_from([{}, {"num_key_heads": 4}, {"hidden_size": plain.WIDTH, "head_dim": 6}]),
    has_embedding=st.booleans(),
    scaling=st.sampled_from([None, {"type": "linear", "factor": 4.0}]),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
)
def test_what_is_written_is_read(
    tmp_path_factory, switches, layer_ids, sizes, has_embedding, scaling, dtype
) -> None:
    directory = tmp_path_factory.mktemp("head") / "new"
    config = plain.config(**switches, **sizes, layer_ids=layer_ids, rope_scaling=scaling)
    tensors = {
        name: t.to(dtype) if t.is_floating_point() else t
        for name, t in plain.weights(config).items()
    }
    if config.hidden_size == plain.WIDTH and not has_embedding:
        del tensors["embed_tokens.weight"]
    write_head(directory, config, tensors)
    again, read = read_head(directory, TargetShape(plain.WIDTH, plain.VOCAB, plain.LAYERS))
    assert again == config
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(read[name], tensor), name
    assert sorted(p.name for p in directory.iterdir()) == ["config.json", "model.safetensors"]


def test_written_files_are_what_other_loaders_look_for(tmp_path) -> None:
    config = plain.config(hidden_size=plain.WIDTH, head_dim=6)
    tensors = plain.weights(config)
    del tensors["embed_tokens.weight"]
    ids = tensors["draft_token_ids"]
    write_head(tmp_path, config, tensors, "Qwen3ForCausalLM")
    stored = load_file(tmp_path / "model.safetensors")
    attention = {f"midlayer.self_attn.{part}_proj.weight" for part in "qkvo"}
    mlp = {f"midlayer.mlp.{part}_proj.weight" for part in ("gate", "up", "down")}
    names = ("hidden_norm", "input_layernorm", "post_attention_layernorm")
    norms = {f"midlayer.{name}.weight" for name in names} | {"norm.weight"}
    assert stored.keys() == attention | mlp | norms | {"fc.weight", "lm_head.weight", "d2t", "t2d"}
    assert (stored["d2t"].dtype, stored["t2d"].dtype) == (torch.int64, torch.bool)
    assert torch.equal(stored["d2t"] + torch.arange(len(ids)), ids)
    assert torch.equal(stored["t2d"].nonzero()[:, 0], ids)
    document = json.loads((tmp_path / "config.json").read_text())
    assert document["architectures"] == ["LlamaForCausalLMEagle3"]
    assert document["target_architectures"] == ["Qwen3ForCausalLM"]
    assert document["torch_dtype"] == "float32"
    assert document["eagle_aux_hidden_state_layer_ids"] == [1, 3, 5]
    # SGLang adds 1 to these.
    assert document["eagle_config"]["eagle_aux_hidden_state_layer_ids"] == [0, 2, 4]
    # To EAGLE's own loader it would mean that the embeddings are in the file; to SpecForge a false
    # norm_output means no norm at all.
    assert not {"target_hidden_size", "norm_output", "bias"} & document.keys()


def test_a_failed_write_leaves_the_old_head(tmp_path, monkeypatch) -> None:
    config = plain.config()
    write_head(tmp_path, config, plain.weights(config))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(tensors, path, metadata) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("cast_drafters.eagle.checkpoint.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        write_head(tmp_path, config, plain.weights(config, seed=1))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"draft_token_ids": torch.arange(29).flip(0)}, "rise"),
        ({"draft_token_ids": torch.arange(29) + 40}, "draft token 21 to 61"),
        ({"draft_token_ids": None}, "draft_token_ids"),
        ({"norm.weight": None}, "norm.weight"),
        ({"fc.weight": torch.ones(32, 5)}, "[32, 5]"),
    ],
)
def test_what_cannot_be_written(tmp_path, change, said) -> None:
    tensors = plain.weights(plain.config()) | change
    tensors = {name: t for name, t in tensors.items() if t is not None}
    with pytest.raises(HeadFormatError) as caught:
        write_head(tmp_path / "head", plain.config(), tensors)
    assert said in str(caught.value)
    assert not (tmp_path / "head").exists()


def test_only_eagle_3_is_written(tmp_path) -> None:
    config = dataclasses.replace(plain.config(), version=1)
    with pytest.raises(HeadFormatError, match="version 1"):
        write_head(tmp_path, config, plain.weights(plain.config()))


# What is refused


def assert_refused(directory: Path, *said: str, target: TargetShape = TARGET) -> None:
    """With one sentence that holds all these."""
    with pytest.raises(HeadFormatError) as caught:
        read_head(directory, target)
    text = str(caught.value)
    for part in said:
        assert part in text, text
    assert text.endswith(".")
    assert "\n" not in text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hidden_size": 32}, ["hidden_size is 32", "have 16", "trained for this target"]),
        ({"target_hidden_size": 20}, ["target_hidden_size is 20", "have 16"]),
        ({"vocab_size": 41}, ["vocab_size is 41", "40"]),
        ({"draft_vocab_size": 50}, ["draft_vocab_size is 50", "40"]),
        ({"architectures": ["DFlashDraftModel"]}, ["'DFlashDraftModel'", "EAGLE-3"]),
        ({"architectures": ["PEagleDraftModel"]}, ["'PEagleDraftModel'", "EAGLE-3"]),
        ({"architectures": [{}]}, ["architectures", "{}"]),
        ({"num_hidden_layers": 4}, ["num_hidden_layers is 4", "one Llama layer", "P-EAGLE"]),
        ({"medusa_num_heads": 5}, ["Medusa", "EAGLE-3"]),
        ({"speculators_model_type": "dflash"}, ["'dflash'", "EAGLE-3"]),
        ({"transformer_layer_config": 1}, ["transformer_layer_config", "dict", "1"]),
        ({"quantization_config": {"bits": 4}}, ["quantization_config"]),
        ({"hidden_act": "gelu_new"}, ["'gelu_new'", "silu"]),
        ({"hidden_size": None}, ["hidden_size is missing"]),
        ({"hidden_size": "16"}, ["hidden_size", "'16'"]),
        ({"hidden_size": 0}, ["hidden_size", "0"]),
        ({"rope_theta": 10**400}, ["rope_theta", "positive number"]),
        ({"rms_norm_eps": True}, ["rms_norm_eps", "True"]),
        ({"num_key_value_heads": 3}, ["num_attention_heads is 4", "(3)"]),
        ({"head_dim": 5}, ["head_dim must be even, got 5"]),
        ({"rope_scaling": "linear"}, ["rope_scaling", "'linear'"]),
        ({"eagle_aux_hidden_state_layer_ids": [2, 6, 12]}, ["[2, 6, 12]", "0 to 11"]),
        ({"eagle_aux_hidden_state_layer_ids": [2, 6]}, ["three", "[2, 6]"]),
        ({"eagle_aux_hidden_state_layer_ids": [2, 6, "9"]}, ["'9'"]),
        ({"eagle_config": [1]}, ["eagle_config", "[1]"]),
    ],
)
def test_config_is_refused(tmp_path, change, said) -> None:
    save(tmp_path, EAGLE_3 | change, eagle_3_tensors())
    assert_refused(tmp_path, str(tmp_path / "config.json"), *said)


def test_a_target_too_shallow_for_the_default_taps(tmp_path) -> None:
    save(tmp_path, EAGLE_3, eagle_3_tensors())
    assert_refused(tmp_path, "[2, 1, -1]", "0 to 1", target=TargetShape(HIDDEN, VOCAB, 2))


def shifted(values: torch.Tensor, index: int, by: int) -> torch.Tensor:
    return values + torch.eye(len(values), dtype=torch.int64)[index] * by


D2T = KEPT - torch.arange(DRAFT)
T2D = torch.zeros(VOCAB, dtype=torch.bool).index_fill(0, KEPT, True)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"midlayer.hidden_norm.weight": None}, ["midlayer.hidden_norm.weight is missing"]),
        ({"fc.weight": None, "norm.weight": None}, ["fc.weight, norm.weight are missing"]),
        ({"fc.bias": torch.ones(HIDDEN)}, ["fc.bias is there but not expected", '"bias"']),
        (
            {f"heads.{i}": torch.ones(1) for i in range(7)},
            ["heads.0, heads.1, heads.2, heads.3, heads.4 and 2 more are there"],
        ),
        ({"layers.1.mlp.up_proj.weight": torch.ones(1)}, ["layers.1.mlp", "second layer"]),
        ({"model.fc.weight": torch.ones(1)}, ["fc.weight", "two names"]),
        ({"fc.weight": torch.ones(16, 32)}, ["fc.weight", "[16, 32]", "[16, 48]"]),
        (
            {"midlayer.mlp.up_proj.weight": torch.ones(24, 16, dtype=torch.int8)},
            ["midlayer.mlp.up_proj.weight", "torch.int8", "unquantised"],
        ),
        ({"d2t": None}, ["d2t is missing", "12"]),
        ({"d2t": torch.zeros(5, dtype=torch.int64)}, ["d2t", "[5]", "[12]"]),
        ({"d2t": torch.zeros(12)}, ["d2t", "float32", "whole numbers"]),
        ({"d2t": KEPT}, ["draft token 9 to 40", "0 to 39", "minus draft id"]),
        ({"d2t": shifted(D2T, 0, -1)}, ["draft token 0 to -1"]),
        ({"d2t": shifted(D2T, 1, 2)}, ["t2d keeps token 3"]),
        ({"t2d": ~T2D}, ["t2d drops token 0"]),
        ({"t2d": T2D[:-1]}, ["t2d", "[39]", "[40]"]),
    ],
)
def test_weights_are_refused(tmp_path, change, said) -> None:
    tensors = {n: t for n, t in (eagle_3_tensors() | change).items() if t is not None}
    save(tmp_path, EAGLE_3, tensors)
    assert_refused(tmp_path, str(tmp_path / "model.safetensors"), *said)


def test_eagle_1_without_the_bias_that_config_promises(tmp_path) -> None:
    save(tmp_path, EAGLE_1, eagle_1_tensors())
    assert_refused(tmp_path, "fc.bias is missing", '"bias"', "EAGLE-1")


def test_missing_files(tmp_path) -> None:
    assert_refused(tmp_path / "nowhere", "nowhere", "not downloaded")
    assert_refused(tmp_path, str(tmp_path / "config.json"), "missing")
    (tmp_path / "config.json").write_text(json.dumps(EAGLE_3))
    assert_refused(tmp_path, str(tmp_path), "no weights", "model.safetensors")


@pytest.mark.parametrize("text", ["", "{", "[]", "\xff\xfe", "[" * 10**5])
def test_damaged_config(tmp_path, text) -> None:
    save(tmp_path, EAGLE_3, eagle_3_tensors())
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    assert_refused(tmp_path, "config.json", "damaged")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
@pytest.mark.parametrize("part", [0, 3, 40, 2000])
def test_damaged_weights(tmp_path, name, part) -> None:
    save(tmp_path, EAGLE_3, eagle_3_tensors(), name)
    whole = (tmp_path / name).read_bytes()
    for content in (whole[:part], b"version https://git-lfs.github.com/spec/v1\n"[:part]):
        (tmp_path / name).write_bytes(content)
        assert_refused(tmp_path, name, "damaged", "git lfs pull")


class Evil:
    def __reduce__(self):
        return (print, ("run",))


@pytest.mark.parametrize(
    ("content", "said"),
    [([torch.ones(1)], "state_dict"), ({"epoch": 3}, "state_dict"), ({"a": Evil()}, "damaged")],
)
def test_pickles_of_other_things(tmp_path, content, said, capsys) -> None:
    save(tmp_path, EAGLE_3, content, "pytorch_model.bin")
    assert_refused(tmp_path, "pytorch_model.bin", said)
    assert capsys.readouterr().out == ""
