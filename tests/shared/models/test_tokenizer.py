"""Tokenizers: the same ids and texts from every source, and fingerprints that say so."""

from __future__ import annotations

import json
import re
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import checkpoints
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from foredraft_shared.errors import ModelDamaged, ModelNotFound, ModelUnsupported
from foredraft_shared.models import Detokenizer, Model, Tokenizer, open_model

TEXTS = (
    "",
    " ",
    "\n",
    "Hello world",
    " leading and trailing ",
    "I have 12345 apples, 3.14 of 2024-01-02, 1 2 3.",
    "a  b   c\n\n\td\r\n  e",
    "naïve café Straße ÀÉÎ, Ωμέγα, Привет, עברית, العربية, हिन्दी",
    "日本語のテキスト、中文字符，한국어",
    "😀👩‍👩‍👧🏽 e\u0301 zero\u200bwidth \u00a0 nbsp",
    "It's we'll I'd THEY'RE don't",
    "def f(x: int) -> list[str]:\n    return [str(x ** 2)]  # ok\n\n\nclass A:\n\tpass\n",
    "a\x00b\x7f\x1b[0m",
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
    'https://example.org/a?b=c&d=%20#e {"json": [1, 2.5e-3, null]}',
)
CONVERSATION = [
    {"role": "system", "content": "You are brief."},
    {"role": "user", "content": "What is 12 + 30? Réponds."},
    {"role": "assistant", "content": "42"},
    {"role": "user", "content": "  Sure?  "},
]
any_text = st.text(max_size=40) | st.sampled_from(TEXTS)


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> Tokenizer:
    return open_model(tiny_folder).tokenizer


@pytest.fixture(scope="session")
def tiny_from_gguf(tiny_gguf: Path) -> Tokenizer:
    return open_model(tiny_gguf).tokenizer


def sentence_piece_backend(prefixed: bool = True) -> Backend:
    """A SentencePiece-like BPE with byte fallback, as Llama 2's tokenizer.json."""
    specials = ["<unk>", "<s>", "</s>"]
    backend = Backend(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))  # noqa: S106  # not a password
    spaces = normalizers.Replace(" ", "▁")
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces]) if prefixed else spaces
    backend.pre_tokenizer = pre_tokenizers.Split("▁", behavior="merged_with_next")  # for training only
    alphabet = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=specials + alphabet, show_progress=False)
    backend.train_from_iterator(["The robot takes the red cup from the table; the café has a naïve door."] * 4, trainer)
    state = json.loads(backend.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in specials]
    state["pre_tokenizer"] = None
    backend = Backend.from_str(json.dumps(state))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefixed else steps)
    return backend


def sentence_piece_pair(folder: Path) -> tuple[Tokenizer, Tokenizer]:
    """From tokenizer.json, and from the scores of a GGUF."""
    checkpoints.write_hugging_face(folder)
    backend = sentence_piece_backend()
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": true}')
    (folder / "chat_template.jinja").unlink()
    state = json.loads(backend.to_str())["model"]
    pieces = sorted(state["vocab"], key=state["vocab"].__getitem__)
    order = {left + right: rank for rank, (left, right) in reversed(list(enumerate(state["merges"])))}
    types = [2] + [3] * 2 + [6] * 256 + [1] * (len(pieces) - 259)
    vocabulary = {
        "model": "llama",
        "tokens": pieces,
        "scores": [-float(order.get(piece, len(order))) for piece in pieces],
        "token_type": types,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
    }
    file = checkpoints.write_gguf(folder, folder / "model.gguf", vocabulary=vocabulary)
    return open_model(folder).tokenizer, open_model(file).tokenizer


class TestEncoding:
    @pytest.mark.parametrize("text", TEXTS)
    def test_folder_and_gguf_agree(self, tiny: Tokenizer, tiny_from_gguf: Tokenizer, text: str) -> None:
        assert tiny.encode(text) == tiny_from_gguf.encode(text)

    @given(text=any_text)
    def test_any_text_comes_back(self, tiny: Tokenizer, tiny_from_gguf: Tokenizer, text: str) -> None:
        ids = tiny.encode(text)
        assert ids == tiny_from_gguf.encode(text)
        expected = tiny._backend.normalizer.normalize_str(text) if tiny._backend.normalizer else text
        assert tiny.decode(ids, special=True) == expected

    def test_special_tokens_are_single_ids_and_hidden_in_texts(self, tiny: Tokenizer) -> None:
        ids = tiny.encode("<|im_start|>user<|im_end|>")
        assert (ids[0], ids[-1]) == (checkpoints.VOCABULARY - 2, checkpoints.VOCABULARY - 1)
        assert tiny.is_special(ids[0])
        assert tiny.decode(ids) == "user"

    def test_lone_surrogates_are_replaced(self, tiny: Tokenizer) -> None:
        assert tiny.decode(tiny.encode("a\ud800b")) == "a?b"

    def test_unknown_ids_are_no_text(self, tiny: Tokenizer) -> None:
        assert tiny.decode([5, checkpoints.VOCABULARY + 3, 10**7]) == tiny.decode([5])
        assert tiny.token_bytes(-1) == b""

    def test_a_file_s_habit_to_truncate_and_pad_is_not_ours(self, tmp_path: Path) -> None:
        checkpoints.write_hugging_face(tmp_path)
        backend = checkpoints.tiny_tokenizer("llama")
        backend.enable_truncation(4)
        backend.enable_padding(length=50)
        backend.save(str(tmp_path / "tokenizer.json"))
        tokenizer = open_model(tmp_path).tokenizer
        assert tokenizer.decode(tokenizer.encode("a text of many more tokens")) == "a text of many more tokens"

    def test_begin_of_text_once(self, tmp_path: Path) -> None:
        tokenizer, from_gguf = sentence_piece_pair(tmp_path)
        assert tokenizer.adds_bos
        assert from_gguf.adds_bos
        assert tokenizer.encode("the cup")[0] == 1
        assert tokenizer.encode("<s>the cup").count(1) == 1
        assert 1 not in tokenizer.encode("the cup", begin=False)
        assert tokenizer.encode("") == (1,)


class TestSentencePiece:
    @pytest.mark.parametrize("text", [*TEXTS, "the robot takes the cup", "  two", "<s>the</s> cup"])
    def test_folder_and_gguf_agree(self, tmp_path: Path, text: str) -> None:
        from_folder, from_gguf = sentence_piece_pair(tmp_path)
        assert from_folder.encode(text) == from_gguf.encode(text)
        assert from_folder.fingerprint == from_gguf.fingerprint
        assert from_gguf.stop_tokens == (2,)

    def test_texts_come_back(self, tmp_path: Path) -> None:
        _, tokenizer = sentence_piece_pair(tmp_path)
        for text in TEXTS:
            if "<|" not in text:
                assert tokenizer.decode(tokenizer.encode(text)) == text

    def test_a_continued_text_keeps_its_space(self, tmp_path: Path) -> None:
        tokenizer, _ = sentence_piece_pair(tmp_path)
        ids = tokenizer.encode("the cup", begin=False)
        detokenizer = Detokenizer(tokenizer, continues=True)
        assert "".join(map(detokenizer.push, ids)) + detokenizer.flush() == " the cup"

    @given(ids=st.lists(st.integers(0, 320), max_size=30))
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
    def test_bytes_in_any_order(self, tmp_path_factory: pytest.TempPathFactory, ids: list[int]) -> None:
        tokenizer = _sentence_piece_once(tmp_path_factory)
        text = tokenizer.decode(ids)
        if "\ufffd" not in text:  # for bytes that are no UTF-8 the library writes another number of signs
            assert text == sentence_piece_backend_once().decode(ids, skip_special_tokens=True)


_ONCE: dict[str, Any] = {}


def _sentence_piece_once(factory: pytest.TempPathFactory) -> Tokenizer:
    if "tokenizer" not in _ONCE:
        _ONCE["tokenizer"] = sentence_piece_pair(factory.mktemp("once"))[0]
    found: Tokenizer = _ONCE["tokenizer"]
    return found


def sentence_piece_backend_once() -> Backend:
    return _ONCE.setdefault("backend", sentence_piece_backend())


class TestDetokenizer:
    @given(data=st.data())
    def test_whatever_comes_the_parts_are_the_whole(self, tiny: Tokenizer, data: st.DataObject) -> None:
        """Always, for any ids, special and unknown ones included; and never half a character in between."""
        ids = data.draw(st.lists(st.integers(0, checkpoints.VOCABULARY + 20), max_size=40))
        special = data.draw(st.booleans())
        detokenizer = Detokenizer(tiny, special=special)
        parts = [detokenizer.push(token) for token in ids]
        whole = b"".join(tiny.token_bytes(token) for token in ids if special or not tiny.is_special(token))
        assert "".join(parts) + detokenizer.flush() == tiny.decode(ids, special=special)
        assert tiny.decode(ids, special=special) == whole.decode("utf-8", "replace")

    @given(text=any_text)
    def test_no_replacement_sign_that_is_not_in_the_text(self, tiny: Tokenizer, text: str) -> None:
        detokenizer = Detokenizer(tiny, special=True)
        ids = tiny.encode(text)
        assert "".join(map(detokenizer.push, ids)).count("\ufffd") == text.count("\ufffd")
        assert detokenizer.flush() == ""

    def test_a_character_comes_with_its_last_byte(self, tiny: Tokenizer) -> None:
        ids = tiny.encode("🦊")
        assert len(ids) >= 3
        detokenizer = Detokenizer(tiny)
        assert [detokenizer.push(token) for token in ids] == [""] * (len(ids) - 1) + ["🦊"]

    def test_a_character_cut_off_is_told_at_the_end(self, tiny: Tokenizer) -> None:
        detokenizer = Detokenizer(tiny)
        assert [detokenizer.push(token) for token in tiny.encode("🦊")[:2]] == ["", ""]
        assert detokenizer.flush() == "\ufffd"
        assert detokenizer.flush() == ""

    @given(ids=st.lists(st.integers(0, checkpoints.VOCABULARY - 1), max_size=30))
    def test_the_library_decodes_the_same(self, tiny: Tokenizer, ids: list[int]) -> None:
        assert tiny.decode(ids) == tiny._backend.decode(ids, skip_special_tokens=True)


class TestFingerprint:
    def test_shape_and_stability(self, tiny_folder: Path, tiny: Tokenizer) -> None:
        assert re.fullmatch(r"[0-9a-f]{32}", tiny.fingerprint)
        assert open_model(tiny_folder).tokenizer.fingerprint == tiny.fingerprint

    def test_folder_and_gguf_are_the_same(self, tiny: Tokenizer, tiny_from_gguf: Tokenizer) -> None:
        # The GGUF's vocabulary is padded by 16 tokens, the folder's is not.
        assert tiny.fingerprint == tiny_from_gguf.fingerprint

    def test_depends_on_what_ids_mean(self, tiny_folder: Path, tiny: Tokenizer, tmp_path: Path) -> None:
        assert self.changed(tiny_folder, tmp_path / "a", swap_ids) != tiny.fingerprint
        assert self.changed(tiny_folder, tmp_path / "b", swap_merges) != tiny.fingerprint
        assert self.changed(tiny_folder, tmp_path / "c", add_token) != tiny.fingerprint

    def test_does_not_depend_on_whether_an_added_token_is_called_special(
        self, tiny_folder: Path, tiny: Tokenizer, tmp_path: Path
    ) -> None:
        assert self.changed(tiny_folder, tmp_path / "copy", call_ordinary) == tiny.fingerprint

    @staticmethod
    def changed(folder: Path, copy: Path, change: Any) -> str:
        shutil.copytree(folder, copy)
        path = copy / "tokenizer.json"
        state = json.loads(path.read_text("utf-8"))
        change(state)
        path.write_text(json.dumps(state), "utf-8")
        return open_model(copy).tokenizer.fingerprint


def swap_ids(state: dict[str, Any]) -> None:
    vocabulary = state["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]


def swap_merges(state: dict[str, Any]) -> None:
    merges = state["model"]["merges"]
    merges[0], merges[1] = merges[1], merges[0]


def add_token(state: dict[str, Any]) -> None:
    state["added_tokens"].append({**state["added_tokens"][-1], "id": checkpoints.VOCABULARY, "content": "<tool>"})


def call_ordinary(state: dict[str, Any]) -> None:
    state["added_tokens"][0]["special"] = False


class TestFiles:
    def test_stop_tokens_of_a_folder(self, tiny: Tokenizer) -> None:
        assert tiny.stop_tokens == (checkpoints.VOCABULARY - 1, checkpoints.VOCABULARY - 3)

    def test_stop_tokens_of_a_gguf(self, tiny_from_gguf: Tokenizer) -> None:
        assert set(tiny_from_gguf.stop_tokens) == {checkpoints.VOCABULARY - 1, checkpoints.VOCABULARY - 3}

    def test_no_tokenizer(self, tmp_path: Path) -> None:
        model = open_model(checkpoints.write_hugging_face(tmp_path))
        (tmp_path / "tokenizer.json").unlink()
        with pytest.raises(ModelNotFound, match=r"tokenizer\.json"):
            _ = model.tokenizer

    def test_a_damaged_tokenizer(self, tmp_path: Path) -> None:
        model = open_model(checkpoints.write_hugging_face(tmp_path))
        (tmp_path / "tokenizer.json").write_text('{"version": "1.0", "model": {')
        with pytest.raises(ModelDamaged, match="fetch the model again"):
            _ = model.tokenizer

    def test_another_kind_of_tokenizer(self, tmp_path: Path) -> None:
        model = open_model(checkpoints.write_hugging_face(tmp_path))
        backend = Backend(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))  # noqa: S106  # not a password
        backend.decoder = decoders.WordPiece()
        backend.save(str(tmp_path / "tokenizer.json"))
        with pytest.raises(ModelUnsupported, match="WordPiece"):
            _ = model.tokenizer

    @pytest.mark.parametrize(
        ("key", "value", "named"),
        [("pre", "jais", "jais"), ("model", "rwkv", "rwkv"), ("merges", None, "merges"), ("tokens", None, "tokens")],
    )
    def test_ggufs_that_cannot_be_used(self, tmp_path: Path, key: str, value: Any, named: str) -> None:
        folder = checkpoints.write_hugging_face(tmp_path / "folder")
        file = checkpoints.write_gguf(folder, tmp_path / "model.gguf", vocabulary={key: value})
        with pytest.raises((ModelUnsupported, ModelDamaged), match=named):
            _ = open_model(file).tokenizer


KNOWN = Path(__file__).parent / "smollm2_tokens.json"
"""What transformers makes of TEXTS and CONVERSATION with the tokenizer of SmolLM2's GGUF; proven fresh by a slow test."""


@cache
def single_bytes(tokenizer: Tokenizer) -> frozenset[int]:
    pieces = map(tokenizer.token_bytes, range(tokenizer.vocabulary))
    return frozenset(piece[0] for piece in pieces if len(piece) == 1)


class TestRealModel:
    def test_encodes_as_transformers_does(self, smollm2: Model) -> None:
        known = json.loads(KNOWN.read_text("utf-8"))
        assert [entry["text"] for entry in known["texts"]] == list(TEXTS)
        for entry in known["texts"]:
            assert list(smollm2.tokenizer.encode(entry["text"])) == entry["ids"]

    @given(text=any_text)
    def test_any_text_comes_back(self, smollm2: Model, text: str) -> None:
        """But for the bytes SmolLM2's vocabulary lacks: some control characters, and the first of signs beyond U+3FFFF."""
        tokenizer = smollm2.tokenizer
        known = bytes(byte for byte in text.encode() if byte in single_bytes(tokenizer))
        assert tokenizer.decode(tokenizer.encode(text), special=True) == known.decode("utf-8", "replace")

    def test_every_digit_stands_alone(self, smollm2: Model) -> None:
        """Also those of other scripts and fractions: SmolLM2's own rule, which transformers' GGUF reader leaves out."""
        pieces = [smollm2.tokenizer.decode([token]) for token in smollm2.tokenizer.encode("x 10 ½")]
        assert pieces == ["x", " ", "1", "0", " ", "½"]

    def test_chat(self, smollm2: Model) -> None:
        known = json.loads(KNOWN.read_text("utf-8"))
        assert smollm2.tokenizer.chat(CONVERSATION) == known["chat"]
        assert smollm2.tokenizer.chat(CONVERSATION[1:2], add_generation_prompt=False) == known["chat_without_system"]

    def test_a_known_fingerprint(self, smollm2: Model) -> None:
        """It travels on the wire, so it must not change from one version to the next."""
        assert smollm2.tokenizer.fingerprint == "0ddb276a139882cc982a7e53b098bdf6"
        assert smollm2.tokenizer.stop_tokens == (2, 0)
        assert smollm2.tokenizer.vocabulary == 49152


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
class TestRealModelAgainstTransformers:
    """The same live; transformers takes half a minute to read the GGUF."""

    @pytest.fixture(scope="class")
    def official(self, smollm2: Model) -> Any:
        transformers = pytest.importorskip("transformers")
        return transformers.AutoTokenizer.from_pretrained(smollm2.path.parent, gguf_file=smollm2.path.name)

    def test_what_is_known_is_fresh(self, official: Any) -> None:
        fresh = {
            "texts": [{"text": text, "ids": official.encode(text, add_special_tokens=False)} for text in TEXTS],
            "chat": official.apply_chat_template(CONVERSATION, tokenize=False, add_generation_prompt=True),
            "chat_without_system": official.apply_chat_template(CONVERSATION[1:2], tokenize=False),
        }
        assert fresh == json.loads(KNOWN.read_text("utf-8"))

    @given(text=any_text)
    @settings(max_examples=300)
    def test_any_text(self, smollm2: Model, official: Any, text: str) -> None:
        if not any(sign.isnumeric() and not sign.isascii() for sign in text):  # see test_every_digit_stands_alone
            assert list(smollm2.tokenizer.encode(text)) == official.encode(text, add_special_tokens=False)

    def test_round_trip_through_tokenizer_json_keeps_the_fingerprint(
        self, smollm2: Model, official: Any, tmp_path: Path
    ) -> None:
        checkpoints.write_hugging_face(tmp_path)
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            (tmp_path / name).unlink()
        official.save_pretrained(tmp_path)
        from_folder = open_model(tmp_path).tokenizer
        assert from_folder.fingerprint == smollm2.tokenizer.fingerprint
        assert from_folder.bos == smollm2.tokenizer.bos
        assert from_folder.chat_template == smollm2.tokenizer.chat_template


def test_added_tokens_that_are_no_text_of_their_own(tmp_path: Path) -> None:
    """An added token is written out as it is, even where its letters would be bytes of GPT-2's alphabet."""
    folder = checkpoints.write_hugging_face(tmp_path)
    backend = checkpoints.tiny_tokenizer("llama")
    backend.add_tokens([AddedToken("two words", normalized=False, special=False)])
    backend.save(str(folder / "tokenizer.json"))
    tokenizer = open_model(folder).tokenizer
    assert tokenizer.decode(tokenizer.encode("a two words b")) == "a two words b"
