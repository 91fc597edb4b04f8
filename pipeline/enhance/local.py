"""A causal language model from a local folder, through transformers: tensors alone are read, and no code of the folder
is run.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cache.identity import weights_hash
from foundation import device as devices
from foundation.errors import UserError
from pipeline.enhance import LOCAL
from pipeline.enhance.chat import Answer, Conversation
from pipeline.enhance.contracts import ModelOptions
from pipeline.enhance.spending import Spending
from pipeline.models import files as model_files
from pipeline.servers.patience import brief


class LocalModel:
    """The model in the folder that `options` names. Greedy decoding: the same question has the same answer.

    Raises `UserError` where the folder holds no causal language model of transformers.
    """

    failure = ""

    def __init__(self, options: ModelOptions, spending: Spending) -> None:
        folder, place = options.name, Path(options.folder or "").expanduser().absolute()
        if not place.is_dir():
            raise UserError(
                f"--llm {folder}: no such folder; name one that holds a model as `save_pretrained` writes it"
            )
        self.files = model_files.find(str(place), Path.cwd(), None)
        if self.files.library != "transformers":
            raise UserError(
                f"--llm {folder}: a model of {self.files.library}, expected a causal language model of transformers"
            )
        memo = options.memo / "weights.json" if options.memo else None
        self.identity = LOCAL + weights_hash([*self.files.weights, *self.files.tokenizer], memo)
        self.settings: dict[str, Any] = {"max_tokens": options.max_answer, "temperature": 0.0}
        self.batch, self.device, self.precision = max(1, options.concurrency), options.device, options.precision
        self.spending = spending

    @property
    def tokenizer(self) -> Any:
        if not hasattr(self, "_tokenizer"):
            self._tokenizer = model_files.load_tokenizer(self.files)
            self._tokenizer.padding_side = "left"
            if self._tokenizer.pad_token_id is None:
                self._tokenizer.pad_token = self._tokenizer.eos_token or self._tokenizer.unk_token
            if self._tokenizer.pad_token_id is None:
                raise UserError(
                    f"--llm local:{self.files.folder}: its tokenizer has neither a padding nor an end token"
                )
        return self._tokenizer

    def written(self, conversation: Conversation) -> str:
        """The conversation as the model reads it: by its chat template, or as plain paragraphs where it has none."""
        if not self.tokenizer.chat_template:
            return "\n\n".join(message["content"] for message in conversation) + "\n\n"
        try:
            return self.tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # the template is the model's own (sandboxed) code
            merged = _without_system(conversation)
            if merged == conversation:
                raise UserError(
                    f"--llm local:{self.files.folder}: its chat template fails: {type(error).__name__}: {brief(error)}"
                ) from None
            return self.written(merged)

    def _ids(self, conversation: Conversation) -> list[int]:
        return self.tokenizer(self.written(conversation), add_special_tokens=not self.tokenizer.chat_template)[
            "input_ids"
        ]

    def count(self, conversation: Conversation) -> int:
        """Tokens of a question."""
        return len(self._ids(conversation))

    def open(self) -> None:
        """Load the weights. Raises `UserError` where the files or the device are refused."""
        self.device = devices.choose(self.device)
        self.model = model_files.load_transformers(self.files, "AutoModelForCausalLM", self.device)

    def ask(self, conversations: Sequence[Conversation], deliver: Callable[[int, Answer], None]) -> None:
        """Answer the conversations in batches of like length. See `LanguageModel.ask`."""
        import torch

        questions = [self._ids(conversation) for conversation in conversations]
        room = getattr(self.model.config, "max_position_embeddings", None)
        order = sorted(range(len(questions)), key=lambda number: (len(questions[number]), number))
        longest = self.settings["max_tokens"]
        for number in list(order):
            if not questions[number] or (room and len(questions[number]) + longest > room):
                deliver(number, Answer(None, "too long"))
                order.remove(number)
        for start in range(0, len(order), self.batch):
            rows, held = [], []
            try:
                for number in order[start : start + self.batch]:
                    hold = (len(questions[number]), longest)
                    self.spending.admit(*hold)
                    rows.append(number)
                    held.append(hold)
            finally:
                if rows:
                    with torch.inference_mode(), devices.autocast(self.device, self.precision):
                        answers = self._generate([questions[number] for number in rows])
                    for number, hold, answer in zip(rows, held, answers, strict=True):
                        self.spending.settle(hold, (answer.tokens_in or 0, answer.tokens_out or 0))
                        deliver(number, answer)

    def _generate(self, questions: list[list[int]]) -> list[Answer]:
        from transformers import GenerationConfig

        padded = self.tokenizer.pad({"input_ids": questions}, return_tensors="pt").to(self.device)
        ends = self.model.generation_config.eos_token_id
        ends = self.tokenizer.eos_token_id if ends is None else ends
        settings = GenerationConfig(
            max_new_tokens=self.settings["max_tokens"],
            do_sample=False,
            pad_token_id=self.tokenizer.pad_token_id,
            eos_token_id=ends,
        )
        generated = self.model.generate(
            input_ids=padded["input_ids"], attention_mask=padded["attention_mask"], generation_config=settings
        )
        stops = set(ends if isinstance(ends, list) else [ends])
        answers = []
        for question, row in zip(questions, generated[:, padded["input_ids"].shape[1] :].tolist(), strict=True):
            end = next((place for place, token in enumerate(row) if token in stops), None)
            text = self.tokenizer.decode(row if end is None else row[:end], skip_special_tokens=True)
            finish = "length" if end is None else "stop"
            answers.append(Answer(text, finish, len(question), len(row) if end is None else end + 1))
        return answers


def _without_system(conversation: Conversation) -> Conversation:
    """The instruction put before the first question, for chat templates that know no system role."""
    if conversation[0]["role"] != "system" or len(conversation) < 2:
        return conversation
    first = {"role": "user", "content": f"{conversation[0]['content']}\n\n{conversation[1]['content']}"}
    return [first, *conversation[2:]]
