"""The ablation trains what its file says, once, and its table says what the runs' tests say."""

import importlib
import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from laser_peft import LaserRecommender
from laser_peft.data import LogSource
from laser_peft.evaluation import Evaluation, compare, compare_over_seeds
from laser_peft.training import RankingTrainer
from laser_peft.tuner.sizes import resolve

EXAMPLES = Path(__file__).parents[2] / "examples"
SHIPPED = EXAMPLES / "ablation.yaml"
TINY = {
    "base": {
        "run": {"max_tokens": 200},
        "sasrec": {"epochs": 2},
        "adapter": {"item_vectors": "fused"},
        "laser": {"epochs": 1, "reading_epochs": 2, "batch_size": 9},
    },
    "variants": {
        "full": {},
        # The catalogue has no such attribute, which only its run can find out.
        "broken": {"prompt": {"attributes": {"colour": ""}}},
        "plain-prefix": {"adapter": {"prefix_source": "plain"}},
    },
}


@pytest.fixture(scope="session")
def scripts():
    """The modules of the example."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        names = ("ablation", "ablation_plan", "ablation_table")
        return SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    finally:
        sys.path.remove(str(EXAMPLES))


@pytest.fixture(scope="session")
def ablate(scripts, shop, lm_folder):
    """Runs the example; gives its exit status."""

    def run(file, output, *options, variants=TINY):
        file.write_text(yaml.safe_dump(variants, sort_keys=False))
        inputs = ["--interactions", shop / "interactions.csv.gz", "--items", shop / "items.jsonl"]
        words = [file, *inputs, "--llm", lm_folder, "--output", output, *options]
        return scripts.ablation.main([str(word) for word in words])

    return run


@pytest.fixture(scope="session")
def ablated(ablate, tmp_path_factory):
    """The folder of an ablation of two seeds with a variant that fails, and its exit status."""
    folder = tmp_path_factory.mktemp("ablation")
    status = ablate(folder / "variants.yaml", folder / "out", "--seeds", 0, 1)
    return folder, status


@pytest.fixture
def inputs(scripts, shop, lm_folder):
    source = LogSource(str(shop / "interactions.csv.gz"))
    return scripts.ablation_plan.Inputs(
        interactions=source, items=str(shop / "items.jsonl"), llm=lm_folder
    )


@pytest.fixture
def plan_of(scripts, inputs, tmp_path):
    def read(variants):
        file = tmp_path / "variants.yaml"
        file.write_text(yaml.safe_dump(variants))
        return scripts.ablation_plan.read_plan(file, inputs)

    return read


def resolved(scripts, run):
    """A run with every size of its adapter filled in, beside an LM 32 wide and a SASRec of 16."""
    adapter = resolve(
        scripts.ablation_plan.adapter_of(run),
        embedding_dim=32,
        hidden_dim=32,
        encoder_config={"model_type": "sasrec"},
        encoder_dim=16,
    )
    return asdict(run) | {"adapter": adapter.to_dict()}


def evaluations(output, name, model="laser", seeds=(0, 1)):
    return [
        Evaluation.load(output / name / f"seed-{seed}" / "evaluation" / model) for seed in seeds
    ]


def test_every_shipped_variant_is_a_run_of_its_own(scripts, inputs):
    plan = scripts.ablation_plan.read_plan(SHIPPED, inputs)
    assert len(plan) > 15
    told = {name: json.dumps(resolved(scripts, run), default=str) for name, run in plan.items()}
    assert len(set(told.values())) == len(told)  # so each differs from full, too


def test_a_broken_variant_stops_no_other_and_is_told(ablated):
    folder, status = ablated
    assert status == 1
    table = json.loads((folder / "out" / "table.json").read_text())
    assert list(table["variants"]) == ["encoder alone", "full", "plain-prefix"]
    assert table["variants"]["plain-prefix"]["seeds"] == [0, 1]
    assert not (folder / "out" / "broken" / "seed-0" / "metrics.json").exists()


def test_a_second_call_trains_nothing_and_makes_the_same_table(
    ablate, ablated, capsys, monkeypatch, tmp_path
):
    folder, _ = ablated
    before = json.loads((folder / "out" / "table.json").read_text())
    monkeypatch.setattr(
        RankingTrainer, "training_step", lambda *_, **__: pytest.fail("a step was taken")
    )
    options = ["--seeds", 0, 1, "--only", "full", "plain-prefix"]
    assert ablate(tmp_path / "variants.yaml", folder / "out", *options) == 0
    printed = capsys.readouterr().out
    assert printed.count("is there already") == 4
    after = json.loads((folder / "out" / "table.json").read_text())
    assert after | {"command": before["command"]} == before
    assert (folder / "out" / "table.md").read_text() in printed


def test_a_variant_that_was_cut_off_goes_on(ablate, stop_after, tmp_path):
    file, variants = tmp_path / "variants.yaml", {"base": TINY["base"], "variants": {"full": {}}}
    taken = stop_after(5)  # in the adapter's training: the SASRec takes two, the reader two
    with pytest.raises(KeyboardInterrupt):
        ablate(file, tmp_path / "out", variants=variants)
    assert not (tmp_path / "out" / "table.md").exists()
    sasrec = tmp_path / "out" / "encoder" / "seed-0" / "sasrec" / "model.safetensors"
    written = sasrec.stat().st_mtime_ns
    stop_after(None)
    assert ablate(file, tmp_path / "out", variants=variants) == 0
    assert sasrec.stat().st_mtime_ns == written
    assert len(taken) > 5


def test_the_table_says_what_the_tests_of_the_runs_say(ablated):
    out = ablated[0] / "out"
    table = json.loads((out / "table.json").read_text())
    full, plain = evaluations(out, "full"), evaluations(out, "plain-prefix")
    row = table["variants"]["plain-prefix"]
    of_seeds = [
        json.loads((out / "plain-prefix" / f"seed-{seed}" / "metrics.json").read_text())
        for seed in (0, 1)
    ]
    for protocol in ("unmasked", "masked"):
        for metric in ("hr@10", "ndcg@10"):
            values = [told["models"]["laser"][protocol][metric] for told in of_seeds]
            assert row["metrics"][protocol][metric]["mean"] == pytest.approx(sum(values) / 2)
    renamed = [Evaluation("plain", t.data_hash, t.targets, t.ranks) for t in plain]
    assert row["difference"] == compare_over_seeds(full, renamed)["difference"]
    assert table["users"] == 30
    assert table["data_sha256"] == full[0].data_hash
    assert "difference" not in table["variants"]["full"]
    encoder = table["variants"]["encoder alone"]["metrics"]["masked"]["hr@10"]["mean"]
    assert encoder == pytest.approx(
        sum(
            test.summary()["metrics"]["masked"]["hr@10"]
            for test in evaluations(out, "full", "sasrec")
        )
        / 2
    )


def test_with_one_seed_the_difference_is_that_of_compare(scripts, ablated):
    out = ablated[0] / "out"
    runs = {name: {0: out / name / "seed-0"} for name in ("full", "plain-prefix")}
    row = scripts.ablation_table.make_table(runs, {})["variants"]["plain-prefix"]
    (full,), (plain,) = (evaluations(out, name, seeds=(0,)) for name in runs)
    told = compare(full, Evaluation("plain", plain.data_hash, plain.targets, plain.ranks))
    assert row["difference"] == told["difference"]


def test_the_markdown_has_the_numbers_and_how_they_were_made(ablated):
    out = ablated[0] / "out"
    table, text = json.loads((out / "table.json").read_text()), (out / "table.md").read_text()
    assert table["commits"]
    for part in (table["data_sha256"], table["date"], table["command"], *table["commits"]):
        assert part in text
    (line,) = (line for line in text.splitlines() if line.startswith("| plain-prefix |"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    row = table["variants"]["plain-prefix"]
    assert cells[:3] == ["plain-prefix", "2", f"{row['trainable_parameters']:,}"]
    ndcg, to_full = row["metrics"]["masked"]["ndcg@10"], row["difference"]["masked"]["ndcg@10"]
    assert cells[8] == f"{ndcg['mean']:.4f} ± {ndcg['std']:.4f}"
    assert cells[9] == f"{to_full['mean']:+.4f} ({to_full['low']:+.4f} .. {to_full['high']:+.4f})"


def test_trainable_parameters_are_those_of_the_adapter(scripts, ablated):
    for name in ("full", "plain-prefix"):
        run = ablated[0] / "out" / name / "seed-0"
        layer = LaserRecommender.from_pretrained(run / "recommender").model.base_model.layer
        learnt = layer.bituning_adapters["default"].parameters()
        assert scripts.ablation_table.trainable_parameters(run) == sum(p.numel() for p in learnt)


def test_without_epochs_the_text_reader_alone_has_learnt(scripts, ablated, tmp_path):
    run = ablated[0] / "out" / "full" / "seed-0"
    shutil.copytree(run / "recommender", tmp_path / "recommender")
    told = json.loads((run / "run.json").read_text())
    told["settings"]["laser"]["epochs"] = 0
    (tmp_path / "run.json").write_text(json.dumps(told))
    layer = LaserRecommender.from_pretrained(run / "recommender").model.base_model.layer
    reader = layer.bituning_adapters["default"].text_reader.parameters()
    count = scripts.ablation_table.trainable_parameters(tmp_path)
    assert count == sum(p.numel() for p in reader)


def test_all_variants_of_a_seed_read_one_sasrec(ablated):
    out = ablated[0] / "out"
    for seed in (0, 1):
        (full,), (plain,) = (
            evaluations(out, n, "sasrec", [seed]) for n in ("full", "plain-prefix")
        )
        assert (full.ranks == plain.ranks).all()
    assert (evaluations(out, "full", "sasrec")[0].ranks != full.ranks).any()


def test_a_given_encoder_is_read_by_its_seed(ablate, ablated, tmp_path):
    given = ablated[0] / "out" / "encoder" / "seed-{seed}" / "sasrec"
    variants = {"base": TINY["base"], "variants": {"full": {}}}
    options = ["--seeds", 1, "--encoder", given]
    assert ablate(tmp_path / "variants.yaml", tmp_path / "out", *options, variants=variants) == 0
    assert not (tmp_path / "out" / "encoder").exists()
    told = json.loads((tmp_path / "out" / "full" / "seed-1" / "run.json").read_text())
    assert told["settings"]["encoder"] == str(given).replace("{seed}", "1")


def test_runs_of_other_settings_are_refused_before_anything_is_trained(
    ablate, ablated, tmp_path, capsys
):
    changed = TINY | {"base": TINY["base"] | {"laser": {"epochs": 2}}}
    status = ablate(
        tmp_path / "variants.yaml", ablated[0] / "out", "--seeds", 2, 0, variants=changed
    )
    assert status == 2
    assert "other settings: laser" in capsys.readouterr().err
    assert not (ablated[0] / "out" / "full" / "seed-2").exists()


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ({"variants": {"plain": {}}}, "one of them 'full'.*add 'full: {}'"),
        ({"bases": {}, "variants": {"full": {}}}, "no 'bases'; did you mean base?"),
        ({"variants": {"full": {}, "a/b": {}}}, "letters, digits.*got 'a/b'"),
        ({"variants": {"full": {}, "encoder": {}}}, "neither 'encoder'"),
        ({"variants": {"full": {}, "commits": {}}}, "nor 'commits'"),
        ({"variants": {"full": {"adaptor": {}}}}, "variant 'full' has no 'adaptor'; did you mean"),
        ({"variants": {"full": {"adapter": {"prefix_sauce": "plain"}}}}, "mean prefix_source?"),
        ({"variants": {"full": {"adapter": {"prefix_source": "plian"}}}}, "'none', got 'plian'"),
        ({"variants": {"full": {"laser": {"epochs": "3"}}}}, "'full': laser: .*expected int, got"),
        ({"variants": {"full": {"laser": {"epochs": -1}}}}, "'full': .*epochs must not be below 0"),
        ({"variants": {"full": {"laser": 3}}}, "laser must be names with values.*got 3"),
        ({"variants": {"full": {"prompt": {"item": "x"}}}}, "'full': a prompt's item must hold"),
        ({"variants": {"full": {"run": {"seed": 1}}}}, "run has no 'seed'"),
        ({"variants": {"full": {"run": {"max_tokens": 500}}}}, "use at most"),
        ({"variants": {"full": {"sasrec": {"epochs": 1}}}}, "set it in base"),
    ],
)
def test_what_cannot_work_is_said_with_its_variant(plan_of, variants, message):
    with pytest.raises(ValueError, match=message):
        plan_of(variants)


def test_only_takes_names_of_the_file(ablate, tmp_path, capsys):
    assert ablate(tmp_path / "variants.yaml", tmp_path / "out", "--only", "fulll") == 2
    assert "--only names fulll" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
