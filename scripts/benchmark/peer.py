"""One peer's training run, in a process of its own: TRL's SFTTrainer or a plain PEFT loop. Knows nothing of pocketft.

    python -m benchmark.peer '{"kind": "trl-qlora", "model": folder, "rows": file.npy, "log": file, ...}'

kinds: trl-qlora (NF4, double quantization, bf16, gradient checkpointing), trl-lora (bf16, gradient checkpointing),
peft-checkpointing and peft (bf16, a loop by hand). Row for row the same tokens as pocketft gets, in the same order.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

Tell = Callable[[dict[str, Any]], None]


def main() -> None:
    job = json.loads(sys.argv[1])
    with open(job["log"], "w", encoding="utf-8") as log:

        def tell(event: dict[str, Any]) -> None:
            log.write(json.dumps(event) + "\n")
            log.flush()

        if job["kind"].startswith("trl"):
            train_with_trl(job, tell)
        else:
            train_by_hand(job, tell)


def train_with_trl(job: dict[str, Any], tell: Tell) -> None:
    import numpy as np
    import torch
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    quantized = job["kind"] == "trl-qlora"
    rows = np.load(job["rows"])
    arguments = SFTConfig(
        output_dir=job["log"] + ".output",
        per_device_train_batch_size=1,
        gradient_accumulation_steps=job["rows_per_step"],
        max_steps=job["steps"],
        learning_rate=job["learning_rate"],
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=1.0,
        optim="adamw_torch",
        bf16=True,
        use_cpu=True,
        gradient_checkpointing=True,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        max_length=rows.shape[1],
        packing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        train_sampling_strategy="sequential",
        dataloader_pin_memory=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=0,
    )
    trainer = SFTTrainer(
        model=_model(job["model"], torch.bfloat16, quantized),
        args=arguments,
        train_dataset=Dataset.from_dict({"input_ids": rows.tolist(), "labels": rows.tolist()}),
        processing_class=AutoTokenizer.from_pretrained(job["model"]),
        peft_config=_lora(job),
        callbacks=[_step_teller(job, rows.shape[1], tell)],
    )
    trainer.train()


def _step_teller(job: dict[str, Any], seq_length: int, tell: Tell) -> Any:
    from transformers import TrainerCallback

    class StepTeller(TrainerCallback):  # type: ignore[misc]  # untyped base
        begun = 0.0
        done_s = 0.0

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 0 and not self.begun:
                self.begun = time.perf_counter()
                tell({"event": "begin"})

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.done_s = time.perf_counter() - self.begun

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if logs and "loss" in logs:
                step = state.global_step
                tokens = step * job["rows_per_step"] * seq_length
                tell({"event": "step", "step": step, "tokens": tokens, "elapsed": self.done_s, "loss": logs["loss"]})

    return StepTeller()


def train_by_hand(job: dict[str, Any], tell: Tell) -> None:
    import numpy as np
    import torch
    from peft import get_peft_model

    rows = torch.from_numpy(np.load(job["rows"]))
    model = get_peft_model(_model(job["model"], torch.bfloat16, False), _lora(job))
    model.config.use_cache = False
    model.train()
    if job["kind"] == "peft-checkpointing":
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=job["learning_rate"], weight_decay=0.0)
    tell({"event": "begin"})
    begun, per_step = time.perf_counter(), job["rows_per_step"]
    for step in range(job["steps"]):
        total = 0.0
        for row in rows[step * per_step : (step + 1) * per_step]:
            loss = model(input_ids=row[None], labels=row[None]).loss / per_step
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        elapsed = time.perf_counter() - begun
        tokens = (step + 1) * per_step * rows.shape[1]
        tell({"event": "step", "step": step + 1, "tokens": tokens, "elapsed": elapsed, "loss": total})


def _model(folder: str, dtype: Any, quantized: bool) -> Any:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    settings = None
    if quantized:
        settings = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, quantization_config=settings, device_map="cpu")


def _lora(job: dict[str, Any]) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=job["r"], lora_alpha=job["alpha"], lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
    )


if __name__ == "__main__":
    main()
