"""A program that loads an exported model in a fresh process, as its users do.

`python -m tests.publishing.loading MERGED ADAPTER SCRATCH`, the folders of one model and one for
the trainer; prints JSON: what each would write next after one question (logits), its greedy
continuation, and the first loss of TRL's trainer on the merged one.
"""

from __future__ import annotations

import json
import sys
from typing import Any

MESSAGES = [
    {"role": "user", "content": "Count the words.\n\ncat dog sun"},
    {"role": "assistant", "content": "3"},
]


def main(merged: str, adapter: str, scratch: str) -> None:
    """Load both, and print what they say."""
    from peft import AutoPeftModelForCausalLM, PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    whole = AutoModelForCausalLM.from_pretrained(merged)
    adapted = AutoPeftModelForCausalLM.from_pretrained(adapter)
    answers = {
        "merged": _answer(whole, AutoTokenizer.from_pretrained(merged)),
        "adapter": _answer(adapted, AutoTokenizer.from_pretrained(adapter)),
    }
    adapters = len(adapted.peft_config) if isinstance(adapted, PeftModel) else 0
    found = {**answers, "adapters": adapters, "loss": _first_loss(merged, scratch)}
    print(json.dumps(found), flush=True)


def _answer(model: Any, tokenizer: Any) -> dict[str, Any]:
    asked = tokenizer.apply_chat_template(
        MESSAGES[:1], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    written = model.generate(**asked, max_new_tokens=12, do_sample=False)
    return {"tokens": written[0].tolist(), "logits": model(**asked).logits[0, -1].tolist()}


def _first_loss(folder: str, scratch: str) -> float:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    trainer = SFTTrainer(
        model=folder,
        args=SFTConfig(
            output_dir=scratch,
            max_steps=1,
            per_device_train_batch_size=2,
            assistant_only_loss=True,
            report_to=[],
            save_strategy="no",
            logging_steps=1,
            use_cpu=True,
            bf16=False,
        ),
        train_dataset=Dataset.from_list([{"messages": MESSAGES}] * 2),
    )
    return float(trainer.train().training_loss)


if __name__ == "__main__":
    main(*sys.argv[1:])
