"""Train the tokenizer that ships with `model=mini`, from the sample's training rows alone.

    python data/tokenizer/train.py

XLM-R's kind (Unigram over NFKC, the same special tokens at the same ids), 8,000 pieces in place of 250,002. The 2,350
Hangul syllables of KS X 1001 are in it whether the sample has them or not, so Korean text of any subject has no unknowns.
"""

import json
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

PIECES = 8000
HERE = Path(__file__).parent
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def korean_syllables() -> list[str]:
    """The Hangul syllables of KS X 1001 (rows 16-40 of its 94 x 94 table), through the codec that has them."""
    cells = (bytes([0xA0 + row, 0xA0 + cell]) for row in range(16, 41) for cell in range(1, 95))
    return [cell.decode("euc-kr") for cell in cells]


def main() -> None:
    """Train and save."""
    texts = {}
    with open(HERE.parent / "sample" / "train.jsonl", encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            texts |= {f"query: {row['query']}": None, f"passage: {row['document']}": None}
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(" {2,}", " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation(), pre_tokenizers.Digits(individual_digits=True)]
    )
    trainer = trainers.UnigramTrainer(
        vocab_size=PIECES,
        special_tokens=SPECIAL,
        unk_token="<unk>",
        initial_alphabet=korean_syllables() + [chr(i) for i in range(33, 127)] + list("·…‘’“”「」『』《》〈〉―–—~∼°℃%×"),
        max_piece_length=8,
        show_progress=False,
    )
    tokenizer.train_from_iterator(list(texts), trainer)
    ids = {token: tokenizer.token_to_id(token) for token in ("<s>", "</s>")}
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=list(ids.items()))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        cls_token="<s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_max_length=512,
    )
    fast.save_pretrained(HERE)


if __name__ == "__main__":
    main()
