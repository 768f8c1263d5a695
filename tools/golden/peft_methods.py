"""Golden adapters of every method of Hugging Face PEFT, with the logits they give.

    python tools/golden/peft_methods.py [CASE ...]

Needs torch, transformers, peft, safetensors, and bitsandbytes for `loftq`. Reads
crates/hone-edit/tests/golden/tiny-qwen2, which peft_lora.py makes; writes tiny-llama and tiny-llama-biased beside it and,
for every case, crates/hone-edit/tests/golden/peft/<case>/:

- the adapter directory as PEFT saves it, every trained tensor with values that are not the initial ones;
- `expected.safetensors`: `ids` [tokens] of all sequences, one after another; `lengths` [sequences]; PEFT's f32 `logits`
  [tokens, vocabulary] of the real tokens, each sequence run alone; `task_ids` [sequences] where a method has tasks; and
  `merged` [tokens of the last sequence, vocabulary], the logits after PEFT merged the adapter into the weights.

`golden/peft/cases.json` says of each case its base model, how many parameters PEFT trains (`trained`) and how many of
those its file holds (`stored`: what only training needs, an encoder of prompts, is dropped when PEFT saves), and whether
PEFT can merge it.

Before a case is kept, PEFT loads the directory into a fresh base model and must give the same logits.

What PEFT 0.21.2 has and this file does not:

- LILY mixes by the mean over all tokens of a batch: a sequence's logits depend on the batch it is in.
- SHADOW trains a second model beside the first.
- PSOFT and ADAMSS start from a decomposition of the base weights that the file does not hold, and that is unique only up to
  signs (PSOFT) or hangs on a seeded random projection and clusters (ADAMSS): no other program can be sure to find it.
- FROD's file holds `V`, but not `U`, which PEFT makes of a `V` of its own before it reads the file: where the signs of the
  two differ, as they may between programs, the adapter is another one.
- LoRA's `loftq` quantises on a GPU only; `eva`, `corda` and `lora_ga` start from activations or gradients: EVA's file is read
  like any LoRA's, the others changed the base (as `pissa` and `olora` below) in a way that their files do not say.
- VBLORA with `save_only_topk_weights`: an export that cannot be trained further.
"""
import json
import os
import shutil
import sys
import warnings
import zlib
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import peft
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

warnings.filterwarnings("ignore")
logging.disable_progress_bar()
torch.set_num_threads(2)
ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "crates" / "hone-edit" / "tests" / "golden"
PEFT = GOLDEN / "peft"
SEQUENCES = [[1, 403, 407, 261, 378, 432], [1, 286, 410, 17]]
# [16, 32] with a bias, [32, 32], [48, 32] and [32, 48].
BIASED = "tiny-llama-biased"
FOUR = ["v_proj", "o_proj", "up_proj", "down_proj"]
TWO = ["v_proj", "down_proj"]


class Case:
    """One configuration: `fields` of `config`, a class of PEFT."""

    def __init__(self, config, base="tiny-qwen2", std=0.1, tasks=None, merges=True, prepare=None, stored=None, experts=0, **fields):
        self.config, self.base, self.std, self.tasks, self.merges = config, base, std, tasks, merges
        self.prepare, self.stored, self.experts, self.fields = prepare, stored, experts, fields


def lora(merges=True, **fields):
    return Case("LoraConfig", merges=merges, **{"r": 2, "lora_alpha": 4, "target_modules": FOUR, **fields})


def prompt(config, stored=None, **fields):
    fields = {"num_virtual_tokens": 3, **fields}
    return Case(config, std=0.3, merges=False, stored=stored, **fields)


def prune_ranks(model, config):
    """What AdaLoRA's allocator leaves behind: singular values out of the budget at zero, and the pattern of the rest."""
    pattern, number = {}, 0
    for name, value in model.base_model.model.named_parameters():
        if "lora_E" in name:
            kept = [(number + i) % 3 != 0 for i in range(len(value))] if number != 2 else [False] * len(value)
            value[torch.tensor(kept).logical_not()] = 0.0
            pattern[name] = kept
            number += 1
    config.rank_pattern = pattern


CASES = {
    # Low rank: LoRA and its variants.
    "dora": lora(use_dora=True),
    "dora_rslora": lora(use_dora=True, use_rslora=True, target_modules=TWO, r=4),
    "pissa": lora(init_lora_weights="pissa", target_modules=TWO),
    "olora": lora(init_lora_weights="olora", target_modules=TWO),
    # PEFT merges into the table that the tied head shares, and so into the head as well: other logits than before.
    "lora_embedding": lora(r=1, target_modules=["embed_tokens", "v_proj"], merges=False),
    "trainable_token_indices": lora(target_modules=["q_proj"], trainable_token_indices=[403, 17, 5]),
    # One table: PEFT keeps the rows once, and drops the head's entry.
    "trainable_token_indices_tied": lora(
        base="tiny-llama", target_modules=["q_proj"], trainable_token_indices={"embed_tokens": [403, 17, 5], "lm_head": [403, 17, 5]}),
    # Merged they would be the embedding's rows as well.
    "trainable_token_indices_head": lora(
        base="tiny-llama", target_modules=["q_proj"], trainable_token_indices={"lm_head": [403, 17, 5]}, merges=False),
    # The map's own bias is replaced, then the adapter's added.
    "lora_bias_biases": lora(base=BIASED, lora_bias=True, bias="all", target_modules=["q_proj", "o_proj"]),
    # PEFT writes three biases of a module that is trained whole, and uses one.
    "lora_saved_biases": lora(base=BIASED, bias="all", target_modules=["q_proj"], modules_to_save=["o_proj"]),
    # A module named by its whole path is in whatever its layer.
    "lora_whole_path": lora(target_modules=["model.layers.0.self_attn.q_proj", "v_proj"], layers_to_transform=[1]),
    "lora_bias": lora(lora_bias=True, target_modules=["q_proj", "v_proj"]),
    "adalora": Case(
        "AdaLoraConfig", std=0.3, init_r=3, target_r=2, lora_alpha=6, total_step=100, target_modules=FOUR,
    ),
    "adalora_rank_pattern": Case(
        "AdaLoraConfig", std=0.3, init_r=3, target_r=2, lora_alpha=6, total_step=100, target_modules=TWO, prepare=prune_ranks, stored="file",
    ),
    "loha": Case("LoHaConfig", std=0.3, r=2, alpha=4, target_modules=FOUR),
    "lokr_full": Case("LoKrConfig", r=8, alpha=16, std=0.3, target_modules=FOUR),
    "lokr_w2": Case("LoKrConfig", r=2, alpha=4, std=0.3, target_modules=FOUR),
    "lokr_both": Case("LoKrConfig", r=1, alpha=2, std=0.3, decompose_both=True, target_modules=FOUR),
    "lokr_factor": Case("LoKrConfig", r=2, alpha=4, std=0.3, decompose_factor=3, target_modules=FOUR),
    "vera": Case("VeraConfig", r=4, std=0.3, target_modules=FOUR),
    "vera_no_projection": Case("VeraConfig", r=4, std=0.3, save_projection=False, projection_prng_key=5, target_modules=FOUR),
    "hira": Case("HiraConfig", r=2, std=0.5, target_modules=FOUR, rank_pattern={"down_proj": 3}),
    "miss": Case("MissConfig", r=5, target_modules=FOUR),
    "miss_mini": Case("MissConfig", r=4, mini_r=8, init_weights="mini", target_modules=FOUR),
    "miss_bat": Case("MissConfig", r=4, init_weights="bat", std=0.3, target_modules=FOUR),
    "randlora": Case("RandLoraConfig", r=5, randlora_alpha=20, std=0.02, target_modules=["v_proj", "up_proj"]),
    # Of 20,000 draws some are rounded up to their upper bound, where torch takes the lower one.
    "randlora_drawn": Case("RandLoraConfig", r=1, randlora_alpha=4, std=0.02, save_projection=False, target_modules=FOUR),
    "randlora_sparse": Case("RandLoraConfig", r=4, randlora_alpha=16, std=0.02, sparse=True, save_projection=False, target_modules=TWO),
    # Multiplicative.
    "oft": Case("OFTConfig", std=0.2, oft_block_size=8, target_modules=FOUR),
    "oft_cayley": Case("OFTConfig", std=0.2, oft_block_size=8, use_cayley_neumann=False, target_modules=FOUR),
    "oft_block_share": Case("OFTConfig", std=0.2, oft_block_size=0, r=4, block_share=True, target_modules=FOUR),
    "coft": Case("OFTConfig", std=0.2, oft_block_size=8, coft=True, eps=1.0, target_modules=TWO),
    "boft": Case("BOFTConfig", boft_block_size=4, std=0.3, target_modules=FOUR),
    "boft_block_num": Case("BOFTConfig", boft_block_size=0, boft_block_num=2, std=0.5, target_modules=["v_proj"], bias="boft_only"),
    "hra": Case("HRAConfig", r=2, std=0.3, target_modules=FOUR),
    "hra_gs": Case("HRAConfig", r=3, apply_GS=True, std=0.3, target_modules=FOUR),
    "fourierft": Case("FourierFTConfig", n_frequency=20, std=1.0, target_modules=FOUR, n_frequency_pattern={"v_proj": 9}),
    "ia3": Case("IA3Config", std=0.5, target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "road_1": Case("RoadConfig", std=0.5, group_size=8, target_modules=FOUR),
    "road_2": Case("RoadConfig", std=0.5, variant="road_2", group_size=8, target_modules=TWO),
    "road_4": Case("RoadConfig", std=0.5, variant="road_4", group_size=8, target_modules=TWO),
    # Others.
    "gralora": Case("GraloraConfig", r=4, alpha=8, gralora_k=2, target_modules=FOUR),
    "gralora_hybrid": Case("GraloraConfig", r=4, alpha=8, gralora_k=4, hybrid_r=2, target_modules=FOUR),
    "c3a": Case("C3AConfig", std=1.0, block_size=16, target_modules=FOUR, block_size_pattern={"down_proj": 8}),
    "delora": Case("DeloraConfig", r=2, delora_lambda=5, target_modules=FOUR, rank_pattern={"down_proj": 3}, lambda_pattern={"v_proj": 9}),
    "vblora": Case("VBLoRAConfig", r=2, num_vectors=6, vector_length=16, std=0.3, target_modules=FOUR),
    "waveft": Case("WaveFTConfig", n_frequency=20, std=0.3, target_modules=FOUR),
    "beft": Case("BeftConfig", std=0.3, target_modules=["q_proj", "v_proj"]),
    "glora": Case("GloraConfig", r=2, std=0.3, target_modules=FOUR),
    "glora_vectors": Case(
        "GloraConfig", config_A_B="vector", config_C="vector", config_D_E="vector", std=0.3, target_modules=["q_proj", "down_proj"],
    ),
    "glora_numbers": Case("GloraConfig", config_A_B="constant", config_C="none", std=0.3, target_modules=FOUR),
    "glora_bias": Case("GloraConfig", r=3, config_A_B="none", config_D_E="none", std=1.0, target_modules=["q_proj", "v_proj"]),
    "peanut": Case("PeanutConfig", r=2, std=0.3, target_modules=FOUR),
    "peanut_deep": Case("PeanutConfig", r=3, depth=2, act_fn="gelu_new", scaling=2.0, std=0.3, target_modules=FOUR),
    "pvera": Case("PveraConfig", r=4, std=0.3, target_modules=FOUR),
    "pvera_no_projection": Case("PveraConfig", r=4, std=0.3, save_projection=False, projection_prng_key=5, target_modules=FOUR),
    "tinylora": Case("TinyLoraConfig", r=2, u=8, std=0.3, target_modules=FOUR),
    "tinylora_tied": Case(
        "TinyLoraConfig", r=3, u=5, std=0.3, weight_tying=0.6, save_projection=False, init_weights="uniform", bias="tinylora_only",
        target_modules=FOUR,
    ),
    "unilora": Case("UniLoraConfig", r=2, theta_d_length=16, save_indices=True, std=0.3, target_modules=FOUR),
    "unilora_no_indices": Case(
        "UniLoraConfig", r=2, theta_d_length=100, proj_seed=7, std=1.0, bias="unilora_only", target_modules=FOUR,
    ),
    "osf": Case("OSFConfig", effective_rank=4, target_modules=TWO),
    "osf_shares": Case("OSFConfig", effective_rank=0.8, rank_pattern={"up_p": 20, "o_proj": 0.5}, target_modules=FOUR),
    "supertuning": Case("SupertuningConfig", sparsity=0.9, target_modules=TWO),
    "supertuning_supra": Case("SupertuningConfig", sparsity=0.95, select_top=False, r=2, target_modules=FOUR),
    "deft": Case("DeftConfig", r=2, std=0.3, target_modules=FOUR),
    "deft_qr": Case(
        "DeftConfig", r=3, decomposition_method="qr", alpha=6, bias="deft_only", std=0.3, target_modules=FOUR,
    ),
    "deft_para": Case("DeftConfig", r=3, decomposition_method="qr", para=True, std=0.3, target_modules=TWO),
    # Selective.
    "ln_tuning": Case("LNTuningConfig", std=0.3, target_modules=["input_layernorm", "post_attention_layernorm", "norm"]),
    "shira": Case("ShiraConfig", r=1, random_seed=3, std=0.3, target_modules=FOUR),
    "trainable_tokens": Case("TrainableTokensConfig", token_indices=[403, 17, 5, 9], target_modules=["embed_tokens"]),
    # Several tasks or experts.
    "poly": Case("PolyConfig", r=2, n_tasks=2, n_skills=3, n_splits=2, std=0.5, tasks=[0, 1], merges=False, target_modules=FOUR),
    "xlora": Case(
        "XLoraConfig", std=1.0, merges=False, experts=2, hidden_size=32, xlora_depth=2, xlora_size=4, layerwise_scalings=True,
    ),
    "xlora_topk": Case(
        "XLoraConfig", std=1.0, merges=False, experts=3, hidden_size=32, top_k_lora=2, enable_softmax_topk=True,
        softmax_temperature=0.5, global_scaling_weight=1.5,
    ),
    # Prompts.
    "prompt_tuning": prompt("PromptTuningConfig"),
    "p_tuning_mlp": prompt("PromptEncoderConfig", encoder_hidden_size=8, stored="file"),
    "p_tuning_lstm": prompt(
        "PromptEncoderConfig", encoder_reparameterization_type="LSTM", encoder_hidden_size=8, encoder_num_layers=2, stored="file",
    ),
    "prefix_tuning": prompt("PrefixTuningConfig"),
    "prefix_tuning_projection": prompt("PrefixTuningConfig", prefix_projection=True, encoder_hidden_size=8, stored="file"),
    "multitask_prompt_tuning": prompt("MultitaskPromptTuningConfig", num_tasks=2, num_ranks=2, tasks=[1, 0]),
    "cpt": prompt(
        "CPTConfig", cpt_token_ids=[1, 403, 407, 17], cpt_mask=[1, 1, 1, 1], cpt_tokens_type_mask=[1, 2, 3, 4], num_virtual_tokens=4,
        opt_projection_epsilon=3.0, opt_projection_format_epsilon=2.0,
    ),
    "cartridge": prompt("CartridgeConfig", num_frozen_tokens=1),
    "cartridge_all": prompt("CartridgeConfig", num_frozen_tokens=0),
    "adaption_prompt": Case("AdaptionPromptConfig", base="tiny-llama", std=0.5, merges=False, adapter_len=3, adapter_layers=1),
    # What is added goes through the output map with its bias.
    "adaption_prompt_bias": Case("AdaptionPromptConfig", base=BIASED, std=0.5, merges=False, adapter_len=3, adapter_layers=1),
    "adaption_prompt_all": Case("AdaptionPromptConfig", base="tiny-llama", std=0.5, merges=False, adapter_len=2, adapter_layers=2),
}


def tiny_llama(name="tiny-llama", biases=False):
    """A random llama with grouped-query attention, for methods that PEFT has for llama only; `biases` on its attention's maps."""
    path = GOLDEN / name
    if path.exists():
        return
    torch.manual_seed(8)
    config = LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
        vocab_size=512, max_position_embeddings=128, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2,
        attention_bias=biases,
    )
    model = LlamaForCausalLM(config)
    for parameter_name, parameter in model.named_parameters():
        if parameter_name.endswith(".bias"):
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(path)
    shutil.copy(GOLDEN / "tiny-qwen2" / "tokenizer.json", path)
    (path / "generation_config.json").unlink(missing_ok=True)


def base_model(name):
    model = AutoModelForCausalLM.from_pretrained(GOLDEN / name, dtype=torch.float32)
    model.name_or_path = name
    model.config.use_cache = False
    return model


def disturb(model, std):
    """Adds noise to every trained value; returns how many there are."""
    trained = [value for value in model.parameters() if value.requires_grad]
    with torch.no_grad():
        for value in trained:
            value.add_(torch.randn_like(value) * std)
    return sum(value.numel() for value in trained)


def expert(number):
    """A LoRA for a mixture, in a directory of its own below the mixture's."""
    fields = {"r": 2 + number, "lora_alpha": 4, "target_modules": TWO if number else FOUR}
    model = get_peft_model(base_model("tiny-qwen2"), peft.LoraConfig(task_type="CAUSAL_LM", **fields))
    disturb(model, 0.2)
    save(model, f"expert_{number}")
    return f"expert_{number}"


def save(model, directory):
    model.save_pretrained(directory)
    Path(directory, "README.md").unlink(missing_ok=True)


@torch.no_grad()
def logits(model, sequences, tasks=None):
    """The logits of the real tokens, `[tokens, vocabulary]`; each sequence alone."""
    rows = []
    for number, ids in enumerate(sequences):
        more = {} if tasks is None else {"task_ids": torch.tensor([tasks[number]])}
        out = model(input_ids=torch.tensor([ids]), use_cache=False, **more).logits[0]
        rows.append(out[-len(ids):])
    return torch.cat(rows).float().contiguous()


def save_classifier(model, out):
    """X-LoRA's trained part. PEFT 0.21.2 takes `0` in `layers.0.weight` for the name of an expert and leaves the tensor
    out, and saves each expert once more, with the base model's weights; it does load the whole file."""
    for number in range(len(model.peft_config) - 1):
        shutil.rmtree(out / str(number))
    own = {key: value.contiguous() for key, value in model.state_dict().items() if "internal_xlora_classifier" in key}
    save_file(own, out / "adapter_model.safetensors", metadata={"format": "pt"})


def apart(a, b):
    return (a - b).abs().max().item() / b.abs().max().item()


def make(name, case):
    torch.manual_seed(zlib.crc32(name.encode()))
    out = PEFT / name
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    os.chdir(out)
    plain = logits(base_model(case.base), SEQUENCES)
    if case.experts:
        case.fields["adapters"] = {str(number): expert(number) for number in range(case.experts)}
    config = getattr(peft, case.config)(task_type="CAUSAL_LM", **case.fields)
    model = get_peft_model(base_model(case.base), config)
    count = disturb(model, case.std)
    if case.prepare:
        with torch.no_grad():
            case.prepare(model, config)
    model.eval()
    tuned = logits(model, SEQUENCES, case.tasks)
    save(model, out)
    if case.experts:
        save_classifier(model, out)

    read = PeftModel.from_pretrained(base_model(case.base), out).eval()
    back = apart(logits(read, SEQUENCES, case.tasks), tuned)
    assert back < 1e-5, f"{name}: PEFT reads back another adapter: {back}"
    expected = {
        "ids": torch.tensor(sum(SEQUENCES, []), dtype=torch.int32),
        "lengths": torch.tensor([len(ids) for ids in SEQUENCES], dtype=torch.int32),
        "logits": tuned,
    }
    if case.tasks is not None:
        expected["task_ids"] = torch.tensor(case.tasks, dtype=torch.int32)
    said = ""
    if case.merges:
        expected["merged"] = logits(model.merge_and_unload(), SEQUENCES[-1:])
        said = f", merged {apart(expected['merged'], tuned[-len(SEQUENCES[-1]):]):.1e} apart"
    save_file(expected, out / "expected.safetensors")
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    print(f"{name}: moved {apart(tuned, plain):.3f} of the largest logit, read back {back:.0e}{said}, {count} trained, {size} bytes")
    stored = count
    if case.stored == "file":
        stored = sum(value.numel() for value in load_file(out / "adapter_model.safetensors").values())
    return {"base": case.base, "peft_type": config.peft_type.value, "trained": count, "stored": stored, "merges": case.merges}


def main(names):
    tiny_llama()
    tiny_llama(BIASED, biases=True)
    file = PEFT / "cases.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    failed = []
    for name in names or CASES:
        try:
            known[name] = make(name, CASES[name])
        except Exception as error:
            failed.append(f"{name}: {type(error).__name__}: {error}"[:500])
            if os.environ.get("TRACE"):
                raise
    file.write_text(json.dumps({n: known[n] for n in CASES if n in known}, indent=1) + "\n")
    sys.exit("\n".join(failed) or 0)


main(sys.argv[1:])
