#!/usr/bin/env bash
# bert-score 0.3.13 (which asks for transformers>=3.0.0) with transformers 5.24.0: scores work, until one caption is
# empty; then the whole call ends in an AttributeError. With transformers 4.57.6 the same call gives the empty caption 0
# and the others their scores. bert-score takes another way for empty texts (build_inputs_with_special_tokens), and
# tokenizers have no such method any more.
#
# Seen on 2026-11-29 (CPU, Python 3.11, a random two-layer BERT made here):
#   transformers 4.57.6: ['a dog runs'] ok; ['a dog runs', ''] ok, the second F is 0
#   transformers 5.24.0: ['a dog runs'] ok; ['a dog runs', ''] AttributeError: ... build_inputs_with_special_tokens
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat > "$work/try.py" <<'PY'
import sys

import torch
import transformers
from bert_score import score
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, BertTokenizerFast

folder = sys.argv[1] + "/bert-" + transformers.__version__
words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "cat", "runs", "on", "the", "beach", "."]
tokenizer = Tokenizer(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
BertTokenizerFast(tokenizer_object=tokenizer, model_max_length=64).save_pretrained(folder)
torch.manual_seed(0)
shape = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
BertModel(BertConfig(vocab_size=len(words), **shape)).save_pretrained(folder)

print("transformers", transformers.__version__)
reference = "the dog runs on the beach"
one = score(["a dog runs"], [reference], model_type=folder, num_layers=2)[2]
assert 0 < one[0] <= 1
print("  one caption: ok")
try:
    two = score(["a dog runs", ""], [reference] * 2, model_type=folder, num_layers=2)[2]
    print("  with an empty one:", "ok, F of the empty caption", two[1].item())
    outcome = "ok"
    assert two[1] == 0
except AttributeError as error:
    print("  with an empty one: AttributeError:", error)
    assert "build_inputs_with_special_tokens" in str(error)
    outcome = "AttributeError"
assert outcome == ("AttributeError" if transformers.__version__.startswith("5.") else "ok"), "CHANGED"
PY
for version in 4.57.6 5.24.0; do
    python3 -m venv "$work/$version"
    "$work/$version/bin/pip" install -q torch==2.13.0 bert-score==0.3.13 "transformers==$version"
    "$work/$version/bin/python" "$work/try.py" "$work" 2>/dev/null
done
