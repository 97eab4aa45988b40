"""The tokenizer that a .gguf file describes, in Hugging Face form.

Of Gemma's file transformers 5.17 makes a tokenizer that cuts words into letters once it has been
saved and read again, and that puts no `<bos>` in front; of others it adds special tokens that the
file does not have. So it is built here, from the file alone:

- `llama` (SentencePiece's BPE): merges are rebuilt from the scores, unknown characters become
  bytes, a blank is "▁".
- `gpt2` (byte-level BPE): merges are in the file; its `pre` names how a text is cut before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from refine_dagster.models.files import ModelError
from refine_dagster.models.gguf_file import GgufFile

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

NORMAL, CONTROL, USER_DEFINED = 1, 3, 4
KINDS = ("llama", "gpt2")
BLANK = "▁"

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,DIGITS}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3, _QWEN2 = _CL100K.replace("DIGITS", "3"), _CL100K.replace("DIGITS", "1")
# llama.cpp's name of how a text is cut -> patterns, applied one after the other.
CUTS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("gpt-2", "phi-2", "olmo", "mpt", "jais"), (_GPT2,)),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "lfm2"), (_LLAMA3,)),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "stablelm2", "hunyuan", "megrez"), (_QWEN2,)),
    **dict.fromkeys(
        ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"), (r"\p{N}", _GPT2)
    ),
}
# Vocabularies of whole words: a word that is a token is not built from its parts.
_WHOLE_WORDS = ("llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "lfm2")


def gguf_tokenizer(file: GgufFile) -> PreTrainedTokenizerBase:
    """Build the tokenizer of a .gguf file; its chat template is kept.

    `<bos>` is put in front where the file says so, or says nothing and llama.cpp would. The end
    token is never put behind: texts are prompts.

    Raises:
        ModelError: the vocabulary is of another kind, or incomplete.
    """
    from tokenizers import AddedToken
    from transformers import PreTrainedTokenizerFast

    kind, tokens = _field(file, "model"), _field(file, "tokens")
    if kind not in KINDS or not tokens:
        raise ModelError(
            f"the vocabulary is of the kind {kind!r}, and only {' and '.join(KINDS)} are read here",
            where=str(file.path),
            fix="take the model in Hugging Face format",
        )
    types = _field(file, "token_type") or [NORMAL] * len(tokens)
    tokenizer = _spm(file, tokens, types) if kind == "llama" else _byte_level(file, tokens)
    for special in (False, True):
        wanted = CONTROL if special else USER_DEFINED
        added = [
            AddedToken(token, normalized=False, special=special)
            for token, one in zip(tokens, types, strict=True)
            if one == wanted and token
        ]
        (tokenizer.add_special_tokens if special else tokenizer.add_tokens)(added)
    names = {
        f"{role}_token": tokens[token]
        for role, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))
        if (token := _field(file, f"{key}_token_id")) is not None and token < len(tokens)
    }
    _put_bos_in_front(file, kind, tokenizer, names.get("bos_token"))
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        clean_up_tokenization_spaces=False,
        model_max_length=file.metadata.get(f"{file.architecture}.context_length"),
        **names,
    )
    made.chat_template = file.metadata.get("tokenizer.chat_template")
    return made


def cut_is_known(file: GgufFile) -> bool:
    """Whether a byte-level vocabulary's way of cutting texts is known here; else it is GPT-2's."""
    return _field(file, "model") != "gpt2" or _field(file, "pre") in CUTS


def _field(file: GgufFile, name: str) -> Any:
    return file.metadata.get(f"tokenizer.ggml.{name}")


def _spm(file: GgufFile, tokens: Sequence[str], types: Sequence[int]) -> Tokenizer:
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE

    scores = _field(file, "scores")
    if not scores or len(scores) != len(tokens) or len(types) != len(tokens):
        raise ModelError(
            "the vocabulary has no scores", where=str(file.path), fix="download the file again"
        )
    unknown = _field(file, "unknown_token_id")
    tokenizer = Tokenizer(
        BPE(
            vocab={token: place for place, token in enumerate(tokens)},
            merges=[merge for *_, merge in sorted(_merges(tokens, scores, types))],
            byte_fallback=True,
            fuse_unk=True,
            unk_token=None if unknown is None else tokens[unknown],
        )
    )
    prefix = _field(file, "add_space_prefix") is not False
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
        replacement=BLANK, prepend_scheme="first" if prefix else "never", split=False
    )
    decoding = [decoders.Replace(BLANK, " "), decoders.ByteFallback(), decoders.Fuse()]
    if prefix:
        decoding.append(decoders.Strip(content=" ", left=1))
    tokenizer.decoder = decoders.Sequence(decoding)
    return tokenizer


def _merges(
    tokens: Sequence[str], scores: Sequence[float], types: Sequence[int]
) -> Iterator[tuple[float, int, int, int, tuple[str, str]]]:
    """Every way to split a normal token into two: sort key (rank, then ids) and the halves."""
    normal = {token: place for place, token in enumerate(tokens) if types[place] == NORMAL}
    for token, place in normal.items():
        for at in range(1, len(token)):
            left, right = normal.get(token[:at]), normal.get(token[at:])
            if left is not None and right is not None:
                yield -scores[place], place, left, right, (token[:at], token[at:])


def _byte_level(file: GgufFile, tokens: Sequence[str]) -> Tokenizer:
    from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE

    cut = _field(file, "pre")
    merges = [tuple(merge.split(" ", 1)) for merge in _field(file, "merges") or ()]
    vocab = {token: place for place, token in enumerate(tokens)}
    try:
        tokenizer = Tokenizer(BPE(vocab, merges, ignore_merges=cut in _WHOLE_WORDS))
    except (ValueError, TypeError) as error:
        raise ModelError(
            f"the vocabulary does not fit its merges: {error}",
            where=str(file.path),
            fix="download the file again",
        ) from error
    cuts = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in CUTS.get(cut, (_GPT2,))]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [*cuts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _put_bos_in_front(file: GgufFile, kind: str, tokenizer: Tokenizer, bos: str | None) -> None:
    from tokenizers.processors import TemplateProcessing

    wanted = _field(file, "add_bos_token")
    if wanted is None:
        wanted = kind == "llama" or _field(file, "pre") in _WHOLE_WORDS
    if wanted and bos is not None:
        tokenizer.post_processor = TemplateProcessing(
            single=[bos, "$A"],
            pair=[bos, "$A", f"{bos}:1", "$B:1"],
            special_tokens=[(bos, tokenizer.token_to_id(bos))],
        )
