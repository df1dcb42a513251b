r"""Train the embedded model's tokenizer: byte-level BPE in which every number up to 99 and `\boxed{` is one token.

Digits are grouped in pairs from the right (1234 is 12 34, 123 is 1 23); operators and words include the spaces around
them. All 256 bytes are in the vocabulary, so every UTF-8 text survives encoding and decoding.
"""

from __future__ import annotations

import random

from problems import FAMILIES, LEVELS
from solutions import solution
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

VOCAB_SIZE = 768
PATTERN = r"\d{1,2}(?=(?:\d{2})*(?!\d))| ?\p{L}+[ \n]?| ?[^\s\p{L}\p{N}]+ ?|\s+|\p{N}"
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def make_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Train on 20,000 problems with solutions."""
    rng = random.Random(f"tokenizer:{seed}")
    corpus = []
    for _ in range(20_000):
        problem = rng.choice(list(FAMILIES.values()))(rng, rng.choice(LEVELS))
        corpus += [problem.question, solution(problem, rng, 0.2, 0.5, 0.0), "user\n", "assistant\n", "system\n"]
    corpus += [f"{tens}{ones}" for tens in range(10) for ones in range(10)] * 1000
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.add_tokens([AddedToken("\\boxed{", normalized=False, special=False)])
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - 1,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_tokens([AddedToken("\\boxed{", normalized=False, special=False)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=CHAT_TEMPLATE,
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
    )
