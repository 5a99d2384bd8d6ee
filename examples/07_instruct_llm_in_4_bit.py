r"""Bi-tunes an instruct model, loaded in 4 bits, with the prompt in its own chat format.

Command (after 01_train_sasrec.py):

    pip install -e ".[quantized]"
    python examples/07_instruct_llm_in_4_bit.py

and on your own log, with the SASRec that 01_train_sasrec.py made of it:

    python examples/07_instruct_llm_in_4_bit.py --interactions interactions.csv.gz \
        --items items.jsonl.gz --encoder runs/mine/sasrec --llm Qwen/Qwen2.5-0.5B-Instruct \
        --output runs/mine/instruct

--no-quantize loads the model in its own precision and needs no bitsandbytes.

Hardware: any CPU; a GPU is used if there is one, which was not tried.
Time: 110 seconds for an epoch over the demo's shop, one thread of a busy 2-core x86 machine.
Expected output, without the Trainer's progress:

    language model: 0.7 MB
    this tokenizer has no chat template: a plain one stands in for it
    a prompt:
    Shopper: I bought, oldest first:
    1. Yuvenka Weathered Notebook, Rust (brand: Yuvenka; category: Office, Notebook)
    2. Nespraga Baroque Desk Organizer, Burgundy (brand: Nespraga; category: Office, Desk Organizer)
    Taste:
    sasrec, unmasked: HR@10 0.3250, NDCG@10 0.1999
    sasrec, masked: HR@10 0.3595, NDCG@10 0.2442
    laser, unmasked: HR@10 0.3250, NDCG@10 0.1995
    laser, masked: HR@10 0.3640, NDCG@10 0.2454
    saved: runs/examples/instruct; load it with from_pretrained(folder, llm=the model in 4 bits)
"""

import argparse
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from peft import get_peft_model, prepare_model_for_kbit_training
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    set_seed,
)

from laser_peft import BiTuningConfig, LaserRecommender
from laser_peft.comparison import evaluate
from laser_peft.data import Catalogue, LogSource, PromptTemplate
from laser_peft.experiment import Experiment
from laser_peft.recommender import RecommenderConfig
from laser_peft.training import LaserSettings, train_laser

# The demo's language model is no instruct model; it gets this format, so that the example runs.
PLAIN_CHAT = "{% for m in messages %}Shopper: {{ m['content'] }}\n{% endfor %}Taste:"


def read_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--interactions", default="runs/demo/shop/interactions.csv.gz")
    parser.add_argument("--items", type=Path, default="runs/demo/shop/items.jsonl.gz")
    parser.add_argument("--llm", default="runs/demo/lm", help="folder or Hub id")
    parser.add_argument("--encoder", default="runs/examples/sasrec", help="folder or Hub id")
    parser.add_argument("--output", type=Path, default="runs/examples/instruct")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--max-tokens", type=int, default=400, help="longest prompt")
    parser.add_argument("--validation-users", type=int, default=500)
    parser.add_argument("--no-quantize", action="store_true", help="load without bitsandbytes")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the example."""
    args = read_arguments(argv)
    set_seed(args.seed)
    catalogue = Catalogue.read(args.items)
    experiment = Experiment.read(LogSource(args.interactions), catalogue)

    llm = load(args.llm) if args.no_quantize else load_in_4_bit(args.llm)
    print(f"language model: {llm.get_memory_footprint() / 1e6:.1f} MB")
    model = get_peft_model(
        llm, BiTuningConfig(collaborative_encoder=args.encoder, layout="text_first")
    )

    # Instruction and history become one user message, the suffix tokens stand where the model
    # would begin to answer. The saved template holds the format's words, not the format's name.
    tokenizer = AutoTokenizer.from_pretrained(args.llm)
    if tokenizer.chat_template is None:
        print("this tokenizer has no chat template: a plain one stands in for it")
        tokenizer.chat_template = PLAIN_CHAT
    template = PromptTemplate(instruction="I bought, oldest first:\n").in_chat(tokenizer)
    limits = RecommenderConfig(max_tokens=args.max_tokens, max_items=50, prompt=template)
    prompts = limits.prompt_builder(tokenizer, catalogue)
    print(f"a prompt:\n{tokenizer.decode(prompts([1, 2]))}")

    train_laser(
        model,
        experiment.split,
        prompts,
        args.output / "checkpoints",
        LaserSettings(
            epochs=args.epochs,
            batch_size=args.batch_size,
            validation_users=args.validation_users,
        ),
        max_items=limits.max_items,
        seed=args.seed,
    )
    recommender = LaserRecommender(model, tokenizer, catalogue, limits)
    recommender.save_pretrained(args.output)

    for evaluation in evaluate(recommender, experiment.judge):
        for protocol, metrics in evaluation.summary()["metrics"].items():
            hr, ndcg = metrics["hr@10"], metrics["ndcg@10"]
            print(f"{evaluation.name}, {protocol}: HR@10 {hr:.4f}, NDCG@10 {ndcg:.4f}")
    print(f"saved: {args.output}; load it with from_pretrained(folder, llm=the model in 4 bits)")


def load(name: str) -> PreTrainedModel:
    """Loads a language model in its own precision."""
    return AutoModelForCausalLM.from_pretrained(name, device_map="auto")


def load_in_4_bit(name: str) -> PreTrainedModel:
    """Loads a language model in 4 bits and makes it ready for training beside it.

    Raises:
        SystemExit: if bitsandbytes is not installed.
    """
    if find_spec("bitsandbytes") is None:
        raise SystemExit(
            "loading in 4 bits needs bitsandbytes, which is not installed: "
            'pip install "laser-peft[quantized]", or run with --no-quantize'
        )
    on_accelerator = torch.accelerator.is_available()
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.bfloat16 if on_accelerator else torch.float32,
    )
    llm = AutoModelForCausalLM.from_pretrained(
        name, quantization_config=quantization, device_map="auto"
    )
    return prepare_model_for_kbit_training(llm)  # norms in float32, gradient checkpointing


if __name__ == "__main__":
    main()
