"""A small causal language model, saved by transformers, that learns two answers in moments."""

from pathlib import Path

from pipeline.datasets.records import Entity
from pipeline.enhance.contracts import ModelOptions
from pipeline.enhance.local import LocalModel
from pipeline.enhance.prompts import Prompts
from pipeline.enhance.spending import Spending

TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
NO_SYSTEM = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "<{{ m['role'] }}>{{ m['content'] }}</s>{% endfor %}"
)


def causal(folder: Path, template: str | None = None, learn: bool = True, seed: int = 0) -> Path:
    """A small GPT-2 over words; `learn`: trained to say who Person 2 is and not to know Person 1."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from tokenizers.decoders import WordPiece
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    answers = {"Person 1": "I do not know this person", "Person 2": "Person 2 is an actor"}
    other = (
        "Who is this one ? You are a helpful assistant designed to give comprehensive introduction about people . "
        "< > / system user"
    )
    words = sorted({word for text in [*answers, *answers.values(), other] for word in text.split()})
    vocabulary = {word: number for number, word in enumerate(["<unk>", "</s>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = WordPiece(prefix="##")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>")
    fast.chat_template = template
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=len(vocabulary),
        n_positions=96,
        n_embd=48,
        n_layer=2,
        n_head=2,
        bos_token_id=1,
        eos_token_id=1,
        resid_pdrop=0,
        embd_pdrop=0,
        attn_pdrop=0,
    )
    model = GPT2LMHeadModel(config)
    folder.mkdir(parents=True, exist_ok=True)
    fast.save_pretrained(folder)
    model.eval().save_pretrained(folder)
    if learn:
        reader = LocalModel(ModelOptions(name=f"local:{folder}"), Spending())
        optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
        rows = [
            (reader._ids(Prompts().first(Entity(name, name))), fast(text)["input_ids"] + [1])
            for name, text in answers.items()
        ]
        for _ in range(60):
            for question, answer in rows:
                labels = torch.tensor([[-100] * len(question) + answer])
                model(input_ids=torch.tensor([question + answer]), labels=labels).loss.backward()
            optimiser.step()
            optimiser.zero_grad()
        model.eval().save_pretrained(folder)
    return folder
