r"""Bi-tunes a frozen language model in a bare loop of Accelerate, with one process or several.

Command (after 01_train_sasrec.py), with one process:

    python examples/03_bi_tune_with_accelerate.py

with two GPUs:

    accelerate launch --num_processes 2 examples/03_bi_tune_with_accelerate.py

with two processes on a CPU (where Accelerate's own launcher starts one only, without mpirun):

    torchrun --nproc_per_node 2 examples/03_bi_tune_with_accelerate.py --cpu

with the language model in shards (FSDP2) on GPUs:

    accelerate launch --config_file examples/accelerate/fsdp.yaml \
        examples/03_bi_tune_with_accelerate.py

Hardware: any CPU; GPUs are used if there are some, which was not tried.
Time: 2 minutes for an epoch over the demo's shop with one process, one thread of a busy 2-core x86
machine; as long with two, which share these two busy cores.
Expected output:

    epoch 1, 1 process(es): loss 3.722, validation HR@10 0.3640, NDCG@10 0.2152
    saved: runs/examples/accelerate
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, set_seed
from peft import PeftModel, get_peft_model
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer, get_linear_schedule_with_warmup

from laser_peft import BiTuningConfig, LaserRecommender
from laser_peft.data import Catalogue, LogSource, PaddingCollator
from laser_peft.evaluation import ranks_of_targets, summarise
from laser_peft.experiment import Experiment
from laser_peft.recommender import RecommenderConfig
from laser_peft.training import PromptDataset


def read_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--interactions", default="runs/demo/shop/interactions.csv.gz")
    parser.add_argument("--items", type=Path, default="runs/demo/shop/items.jsonl.gz")
    parser.add_argument("--llm", default="runs/demo/lm", help="folder or Hub id")
    parser.add_argument("--encoder", default="runs/examples/sasrec", help="folder or Hub id")
    parser.add_argument("--output", type=Path, default="runs/examples/accelerate")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=8, help="examples a process and forward")
    parser.add_argument("--accumulation", type=int, default=4, help="forwards a step")
    parser.add_argument("--max-tokens", type=int, default=400, help="longest prompt")
    parser.add_argument("--validation-users", type=int, default=500)
    parser.add_argument("--cpu", action="store_true", help="even where there is a GPU")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def new_model(args: argparse.Namespace) -> PeftModel:
    """Puts a new adapter on the language model."""
    llm = AutoModelForCausalLM.from_pretrained(args.llm)
    config = BiTuningConfig(collaborative_encoder=args.encoder, layout="text_first")
    return get_peft_model(llm, config)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the example."""
    args = read_arguments(argv)
    accelerator = Accelerator(cpu=args.cpu, gradient_accumulation_steps=args.accumulation)
    # Before the adapter is made, so that every process starts from the same weights.
    set_seed(args.seed)

    catalogue = Catalogue.read(args.items)
    split = Experiment.read(LogSource(args.interactions), catalogue).split
    tokenizer = AutoTokenizer.from_pretrained(args.llm)
    model = new_model(args)

    limits = RecommenderConfig(max_tokens=args.max_tokens, max_items=50)
    prompts = limits.prompt_builder(tokenizer, catalogue)
    train = PromptDataset(
        split.training_examples(every_prefix=False), prompts, max_items=limits.max_items
    )
    validation = PromptDataset(
        split.validation[: args.validation_users], prompts, max_items=limits.max_items, ranked=True
    )
    collate = PaddingCollator()
    loader = DataLoader(train, args.batch_size, shuffle=True, collate_fn=collate)
    ranked = DataLoader(validation, 4 * args.batch_size, collate_fn=collate)

    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=1e-3)
    # In the steps of one process: Accelerate moves the schedule on once for every process.
    steps = args.epochs * -(-len(loader) // args.accumulation)
    schedule = get_linear_schedule_with_warmup(optimizer, round(0.05 * steps), steps)
    model, optimizer, loader, ranked, schedule = accelerator.prepare(
        model, optimizer, loader, ranked, schedule
    )
    # In shards they are others than before.
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]

    for epoch in range(args.epochs):
        model.train()
        losses = []
        for batch in loader:
            with accelerator.accumulate(model):
                loss = model(**batch).loss
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(learnt, 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
            losses.append(accelerator.gather(loss.detach()).mean())
        metrics = validate(accelerator, model, ranked)
        accelerator.print(
            f"epoch {epoch + 1}, {accelerator.num_processes} process(es): "
            f"loss {torch.stack(losses).mean():.3f}, "
            f"validation HR@10 {metrics['hr@10']:.4f}, NDCG@10 {metrics['ndcg@10']:.4f}"
        )

    in_shards = accelerator.distributed_type == DistributedType.FSDP
    whole = accelerator.get_state_dict(model) if in_shards else {}  # all take part
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        trained = new_model(args) if in_shards else accelerator.unwrap_model(model)
        trained.load_state_dict(whole, strict=in_shards)
        LaserRecommender(trained, tokenizer, catalogue, limits).save_pretrained(args.output)
    accelerator.print(f"saved: {args.output}")
    accelerator.wait_for_everyone()  # all end together
    accelerator.end_training()


@torch.no_grad()
def validate(
    accelerator: Accelerator, model: torch.nn.Module, loader: DataLoader
) -> dict[str, float]:
    """Ranks every target over the whole catalogue; each process ranks its share of the users."""
    model.eval()
    ranks = []
    for batch in loader:
        targets, seen = batch.pop("labels"), batch.pop("seen")  # the model is called without them
        users = model(**batch).user_vectors
        item_vectors = accelerator.unwrap_model(model).item_vectors()  # behind it: else in shards
        found = ranks_of_targets(users, item_vectors, targets, seen)  # (B, 2), a column a protocol
        ranks.append(accelerator.gather_for_metrics(found))
    return summarise(torch.cat(ranks)[:, 0].cpu().numpy())


if __name__ == "__main__":
    main()
