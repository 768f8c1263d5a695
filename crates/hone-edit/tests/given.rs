//! Methods that train little around matrices they are given: drawn from a seed (PVeRA, Uni-LoRA), taken from the base's own
//! weights (TinyLoRA, OSF, PEANuT) or places chosen by them (Super-Tuning). Counts by formula, what they are at settings
//! where another function is the same, and what is refused.

mod common;

use std::path::Path;
use std::sync::Arc;

use common::{SMOL, STORIES, base, fields, planned_count};
use hone_edit::decompose::svd;
use hone_edit::files::read_edit;
use hone_edit::merge::{Merger, logits};
use hone_edit::training::{EditGradients, Moment};
use hone_edit::{Base, Edit, EditStack, Role, registry, save_edit};
use hone_engine::{DType, Gradients, ParamId, RandomKey, Tape, Tensor, Var, matmul, ops};
use hone_model::{Context, LoadOptions, Model, NoHooks, TokenBatch};

const Q: &str = "model.layers.1.self_attn.q_proj";
const ON_Q: &str = r#""target_modules": ["layers.1.self_attn.q_proj"]"#;

fn stories() -> Model {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/stories260k");
    Model::load(path.to_str().unwrap(), LoadOptions { dtype: DType::F32, keep_quantised: false }).unwrap()
}

fn fresh(base: &Base, json: &str) -> Edit {
    Edit::new(registry::from_recipe(&fields(json), &mut Vec::new()).unwrap(), base, 7).unwrap()
}

fn moved(mut edit: Edit, by: f32) -> Edit {
    for param in edit.params.iter_mut().filter(|p| p.traits.role == Role::Trained) {
        let key = RandomKey::new(3).named(&param.key);
        param.value.as_mut_slice::<f32>().iter_mut().enumerate().for_each(|(i, v)| *v += by * key.normal(i as u64));
    }
    edit
}

fn at(edit: &Edit, end: &str) -> usize {
    edit.params.iter().position(|p| p.key.ends_with(end)).unwrap_or_else(|| panic!("no {end}"))
}

fn value<'a>(edit: &'a Edit, end: &str) -> &'a Tensor {
    &edit.params[at(edit, end)].value
}

fn set(edit: &mut Edit, end: &str, value: Tensor) {
    let at = at(edit, end);
    assert_eq!(edit.params[at].value.dims(), value.dims());
    edit.params[at].value = value;
}

fn batch() -> TokenBatch {
    TokenBatch::from_sequences(&[vec![1u32, 403, 407, 261, 378, 300, 17], vec![1, 410, 17, 480]])
}

fn outputs(model: &Model, edit: &Edit) -> Tensor {
    logits(&(&model.decoder, EditStack::of(edit.clone()).hooks(DType::F32)), DType::F32, &batch())
}

/// The last hidden states of a step of training whose random numbers are `key`'s.
fn in_training(model: &Model, edit: &Edit, key: u64) -> Tensor {
    let stack = EditStack::training(edit.clone());
    let cx = Context {
        training: true,
        key: RandomKey::new(key),
        ..Context::new(Tape::off(), stack.hooks(DType::F32), DType::F32)
    };
    model.decoder.hidden(&cx, &batch()).value
}

/// The weight of the map of [`ON_Q`], merged.
fn merged(model: &Model, edit: &Edit) -> Tensor {
    let (stack, base) = (EditStack::of(edit.clone()), Base::of(model));
    Merger::new(&stack, &base).unwrap().merged(&format!("{Q}.weight")).unwrap().unwrap()
}

fn weight(model: &Model) -> Tensor {
    Base::of(model).weight(&format!("{Q}.weight")).unwrap().to_f32()
}

/// Largest difference, as a share of the largest value.
fn distance(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    let largest = a.as_slice::<f32>().iter().fold(0f32, |m, v| m.max(v.abs()));
    a.as_slice::<f32>().iter().zip(b.as_slice::<f32>()).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max) / largest
}

fn square(tensor: &Tensor) -> f64 {
    tensor.as_slice::<f32>().iter().map(|v| f64::from(*v).powi(2)).sum()
}

#[test]
fn parameter_counts_are_the_formulas() {
    let smol = base(&SMOL, false);
    let count = |json: &str| {
        let json = format!(r#"{{ {json}, "target_modules": ["q_proj", "v_proj"] }}"#);
        planned_count(&json, &smol).unwrap()
    };
    let (layers, q, v) = (30, (576, 576), (192, 576));
    let maps = |of_map: &dyn Fn((usize, usize)) -> usize| layers * (of_map(q) + of_map(v));
    assert_eq!(count(r#""type": "pvera""#), maps(&|(o, _)| o + 2 * 256));
    assert_eq!(count(r#""type": "unilora""#), 256);
    assert_eq!(count(r#""type": "tinylora""#), 60 * 64);
    assert_eq!(count(r#""type": "tinylora", "u": 13, "weight_tying": 1.0"#), 13);
    assert_eq!(count(r#""type": "tinylora", "u": 5, "weight_tying": 0.75"#), 15 * 5);
    assert_eq!(count(r#""type": "peanut", "r": 8"#), maps(&|(o, _)| 2 * 8 * o));
    assert_eq!(count(r#""type": "peanut", "r": 8, "depth": 3"#), maps(&|(o, _)| 2 * 8 * o + 6 * 64));
    assert_eq!(count(r#""type": "osf""#), maps(&|(o, i)| o.min(i) / 2 * (o + i + 1)));
    let seven_tenths = maps(&|(o, i)| (o.min(i) - o.min(i) * 7 / 10) * (o + i + 1));
    assert_eq!(count(r#""type": "osf", "effective_rank": 0.7"#), seven_tenths);
    let entries = maps(&|(o, i)| ((o * i) as f64 * (1.0 - 0.99)) as usize);
    assert_eq!(count(r#""type": "supertuning""#), entries);
    assert_eq!(count(r#""type": "supertuning", "r": 4"#), entries + maps(&|(o, i)| 4 * (o + i)));
}

#[test]
fn pvera_is_vera_with_its_means_and_draws_anew_each_step_of_training() {
    let model = stories();
    let base = Base::of(&model);
    let edit = moved(fresh(&base, &format!(r#"{{"type": "pvera", "r": 6, {ON_Q}}}"#)), 0.5);
    let mut vera = fresh(&base, &format!(r#"{{"type": "vera", "r": 6, {ON_Q}}}"#));
    set(&mut vera, "vera_A", value(&edit, "pvera_A").narrow(0..6));
    set(&mut vera, "vera_B", value(&edit, "pvera_B").clone());
    set(&mut vera, "vera_lambda_b", value(&edit, "pvera_lambda_b").clone());
    set(&mut vera, "vera_lambda_d", value(&edit, "pvera_lambda_d").narrow(0..6));
    assert!(distance(&outputs(&model, &vera), &outputs(&model, &edit)) < 1e-6);
    let step = |edit: &Edit, key: u64| in_training(&model, edit, key);
    assert_eq!(step(&edit, 1).to_vec_f32(), step(&edit, 1).to_vec_f32(), "one step's numbers are its own");
    assert!(distance(&step(&edit, 1), &step(&edit, 2)) > 1e-4);
    let seeded = fresh(&base, &format!(r#"{{"type": "pvera", "r": 6, "generator_seed": 5, {ON_Q}}}"#));
    assert!(distance(&step(&edit, 1), &step(&moved(seeded, 0.5), 1)) > 1e-4, "a seed of its own counts");
}

/// Every number of the vector is used, and the way from it to all entries of all pairs keeps lengths.
#[test]
fn unilora_projects_without_changing_lengths() {
    let model = stories();
    for (length, maps) in [(50, r#"["q_proj"]"#), (97, r#""all-linear""#)] {
        let json = format!(r#"{{"type": "unilora", "r": 2, "theta_d_length": {length}, "target_modules": {maps}}}"#);
        let edit = fresh(&Base::of(&model), &json);
        let mut used = vec![0usize; length];
        let mut entries = 0.0;
        let theta = value(&edit, "unilora_theta_d").as_slice::<f32>();
        for places in edit.params.iter().filter(|p| p.key.contains("unilora_indices")) {
            let scales = &edit.params.iter().find(|p| p.key == places.key.replace("indices", "scales")).unwrap().value;
            for (place, scale) in places.value.as_slice::<f32>().iter().zip(scales.as_slice::<f32>()) {
                used[*place as usize] += 1;
                entries += f64::from(theta[*place as usize] * scale).powi(2);
            }
        }
        let (fewest, most) = (used.iter().min().unwrap(), used.iter().max().unwrap());
        assert!(*fewest > 0 && most - fewest <= 1, "{fewest} to {most}");
        let whole = square(value(&edit, "unilora_theta_d"));
        assert!((entries - whole).abs() < 1e-5 * whole, "{entries} of {whole}");
    }
}

/// At full rank with `R = 1` the change is the weight itself.
#[test]
fn tinyloras_directions_make_up_the_weight() {
    let model = stories();
    let mut edit = fresh(&Base::of(&model), &format!(r#"{{"type": "tinylora", "r": 64, "u": 1, {ON_Q}}}"#));
    let identity: Vec<f32> = (0..64 * 64).map(|at| f32::from(at % 65 == 0)).collect();
    set(&mut edit, "tinylora_P", Tensor::from_slice([1, 64, 64], &identity));
    set(&mut edit, "tinylora_v.0", Tensor::from_slice([1], &[1.0f32]));
    let mut twice = weight(&model);
    twice.as_mut_slice::<f32>().iter_mut().for_each(|v| *v *= 2.0);
    assert!(distance(&twice, &merged(&model, &edit)) < 1e-5);
    // A rank beyond the map's smaller side is that side, as in PEFT.
    let wide = fresh(
        &Base::of(&model),
        r#"{"type": "tinylora", "r": 500, "u": 1, "target_modules": ["layers.1.self_attn.v_proj"]}"#,
    );
    assert_eq!(value(&wide, "tinylora_A").dims(), [32, 64]);
}

/// Without its trained directions a weight is what its kept ones make.
#[test]
fn osf_trains_all_but_the_largest_directions() {
    let model = stories();
    let mut edit = fresh(&Base::of(&model), &format!(r#"{{"type": "osf", "effective_rank": 10, {ON_Q}}}"#));
    set(&mut edit, "osf_svd_params.S_low", Tensor::zeros([54], DType::F32));
    let mut parts = svd(&weight(&model)).unwrap().truncated(10);
    parts.u.as_mut_slice::<f32>().chunks_exact_mut(10).for_each(|row| {
        row.iter_mut().zip(&parts.s).for_each(|(v, s)| *v *= s);
    });
    let kept = matmul::matmul_nn(&parts.u, &parts.vt, DType::F32);
    assert!(distance(&kept, &merged(&model, &edit)) < 1e-5);
}

/// The rule finds each map's own kept directions, on maps of every form.
#[test]
fn osfs_gradients_are_held_off_the_kept_directions() {
    let model = stories();
    let base = Base::of(&model);
    let targets = r#"["layers.1.self_attn.q_proj", "layers.1.mlp.up_proj", "layers.1.mlp.down_proj"]"#;
    let json = format!(r#"{{"type": "osf", "modules_to_save": ["norm"], "target_modules": {targets}}}"#);
    let edit = fresh(&base, &json);
    let mut rules = edit.method.training(&edit).unwrap();
    let ids: Vec<ParamId> = (0..edit.params.len() as u32).map(ParamId).collect();
    // Gradients of any kind: of the sum of each parameter times random numbers.
    let tape = Tape::recording();
    let mut gradients = Gradients::new();
    for (id, param) in ids.iter().zip(&edit.params).filter(|(_, p)| p.traits.role == Role::Trained) {
        let key = RandomKey::new(6).named(&param.key);
        let random: Vec<f32> = (0..param.value.elements() as u64).map(|i| key.normal(i)).collect();
        let random = Var::constant(Tensor::from_slice(param.value.dims(), &random));
        let sum = ops::sum(&tape, &ops::multiply(&tape, &Var::param(*id, param.value.clone()), &random));
        tape.backward(&sum, Tensor::full(sum.value.dims(), DType::F32, 1.0), &mut gradients);
    }
    let before: Vec<Option<Tensor>> = ids.iter().map(|id| gradients.param(*id).cloned()).collect();
    let moment = Moment { step: 0, steps: 1, key: RandomKey::new(0), run: RandomKey::new(0) };
    rules.gradients(&edit, &mut EditGradients::new(&mut gradients, &ids), &moment);
    for module in ["self_attn.q_proj", "mlp.up_proj", "mlp.down_proj"] {
        let weight = base.weight(&format!("model.layers.1.{module}.weight")).unwrap().to_f32();
        let kept = svd(&weight).unwrap().truncated(weight.dim(0).min(weight.dim(1)) / 2);
        let gradient = |name: &str| {
            let at = at(&edit, &format!("{module}.osf_svd_params.{name}"));
            (gradients.param(ids[at]).unwrap(), before[at].as_ref().unwrap())
        };
        let (u, u_before) = gradient("U_low");
        let along = |u: &Tensor| square(&matmul::matmul_tn(&kept.u, u, DType::F32));
        assert!(along(u) < 1e-8 * along(u_before), "{module}: {} of {}", along(u), along(u_before));
        let (v, v_before) = gradient("V_low");
        let along = |v: &Tensor| square(&matmul::matmul_nt(v, &kept.vt, DType::F32));
        assert!(along(v) < 1e-8 * along(v_before), "{module}: {} of {}", along(v), along(v_before));
        let (s, s_before) = gradient("S_low");
        assert_eq!(s.to_vec_f32(), s_before.to_vec_f32(), "{module}");
    }
}

/// What is read is PEFT's alone, without `hone.safetensors`: the same directions are found again.
#[test]
fn osf_is_read_without_its_own_file() {
    let model = stories();
    let base = Base::of(&model);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("adapter");
    let edit = moved(fresh(&base, &format!(r#"{{"type": "osf", {ON_Q}}}"#)), 0.05);
    save_edit(&edit, &path).unwrap();
    std::fs::remove_file(path.join(hone_edit::files::OUR_WEIGHTS)).unwrap();
    let read = read_edit(&path, &base).unwrap();
    assert!(distance(&outputs(&model, &edit), &outputs(&model, &read)) < 1e-6);
}

#[test]
fn supertuning_moves_the_largest_entries_alone() {
    let model = stories();
    let base = Base::of(&model);
    for (largest, json) in [(true, ""), (false, r#""select_top": false,"#)] {
        let json = format!(r#"{{"type": "supertuning", {json} "sparsity": 0.9, {ON_Q}}}"#);
        let (after, before) = (merged(&model, &moved(fresh(&base, &json), 1.0)), weight(&model));
        let pairs = || after.as_slice::<f32>().iter().zip(before.as_slice::<f32>());
        let moved: Vec<f32> = pairs().filter(|(a, b)| a != b).map(|(_, b)| b.abs()).collect();
        let stayed: Vec<f32> = pairs().filter(|(a, b)| a == b).map(|(_, b)| b.abs()).collect();
        assert_eq!(moved.len(), 409, "⌊0.1 · 4096⌋");
        let (least, most) = moved.iter().fold((f32::MAX, 0f32), |(least, most), v| (v.min(least), v.max(most)));
        match largest {
            true => assert!(stayed.iter().all(|size| *size <= least)),
            false => assert!(stayed.iter().all(|size| *size >= most)),
        }
    }
}

#[test]
fn places_outside_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let base = Base::of(&stories());
    let unilora = format!(r#"{{"type": "unilora", "theta_d_length": 9, "save_indices": true, {ON_Q}}}"#);
    let supertuning = format!(r#"{{"type": "supertuning", {ON_Q}}}"#);
    let cases = [
        (&unilora, "unilora_indices_B", 9.0, "0 to 8"),
        (&unilora, "unilora_indices_A", -1.0, "0 to 8"),
        (&supertuning, "supertuning_indices", 64.0, "0 to 63"),
    ];
    for (number, (json, end, wrong, expected)) in cases.into_iter().enumerate() {
        let mut edit = fresh(&base, json);
        let at = at(&edit, end);
        edit.params[at].value.as_mut_slice::<f32>()[3] = wrong;
        let path = directory.path().join(number.to_string());
        save_edit(&edit, &path).unwrap();
        let message = read_edit(&path, &base).err().expect("a refusal").to_string();
        let named = message.contains(&edit.params[at].key) && message.contains(&wrong.to_string());
        assert!(named && message.contains(expected), "{message}");
    }
}

#[test]
fn impossible_settings_are_refused_by_name() {
    let base = base(&STORIES, false);
    let cases = [
        (r#"{"type": "pvera", "sample_at_inference": true}"#, "`sample_at_inference`"),
        (r#"{"type": "pvera", "r": 0}"#, "a rank of 1 or more"),
        (r#"{"type": "pvera", "bias": "vera_only"}"#, "`pvera_only`"),
        (r#"{"type": "unilora", "theta_d_length": 0}"#, "`theta_d_length`"),
        (r#"{"type": "unilora", "theta_d_length": 20000000}"#, "at most 16777216"),
        (r#"{"type": "unilora", "fan_in_fan_out": true}"#, "`fan_in_fan_out`"),
        (r#"{"type": "tinylora", "weight_tying": 1.5}"#, "a share from 0 to 1"),
        (r#"{"type": "tinylora", "init_weights": false}"#, "what lies in memory"),
        (r#"{"type": "tinylora", "init_weights": "normal"}"#, "`uniform`"),
        (r#"{"type": "tinylora", "target_modules": ["embed_tokens"]}"#, "not a linear map"),
        (r#"{"type": "peanut", "act_fn": "mish"}"#, "others are not built"),
        (r#"{"type": "osf", "effective_rank": 0}"#, "a number of 1 or more"),
        (r#"{"type": "osf", "effective_rank": 1.5}"#, "a share above 0.0"),
        (r#"{"type": "osf", "effective_rank": 64}"#, "1 to 63 directions"),
        (r#"{"type": "osf", "rank_pattern": {"(": 3}}"#, "regular expressions"),
        (r#"{"type": "osf", "target_svd_config": {"q_proj.weight": 8}}"#, "`target_svd_config`"),
        (r#"{"type": "supertuning", "sparsity": 1.0}"#, "a probability in [0, 1)"),
        (r#"{"type": "supertuning", "sparsity": 0.9999}"#, "one is trained"),
        (r#"{"type": "supertuning", "lora_alpha": 8}"#, "none without `r`"),
        (r#"{"type": "supertuning", "save_precomputed_indices": false}"#, "keep them in the file"),
    ];
    for (json, expected) in cases {
        let planned = registry::from_recipe(&fields(json), &mut Vec::new()).and_then(|m| m.plan(&base).map(|_| ()));
        let message = planned.expect_err(json).to_string();
        assert!(message.contains(expected), "{json}: {message}");
    }
}

/// A merged model needs no edit: what is merged of PEANuT is what its network makes of the base's weight.
#[test]
fn peanuts_change_follows_the_base_weight() {
    let model = stories();
    let edit = moved(fresh(&Base::of(&model), &format!(r#"{{"type": "peanut", "r": 4, {ON_Q}}}"#)), 0.1);
    let (a, b) = (value(&edit, "peanut_A.weight"), value(&edit, "peanut_B.weight"));
    let mut hidden = matmul::matmul_nn(a, &weight(&model), DType::F32);
    hidden.as_mut_slice::<f32>().iter_mut().for_each(|v| *v = v.max(0.0));
    let mut expected = weight(&model);
    matmul::matmul_nn_add(&mut expected, 1.0, b, &hidden);
    assert!(distance(&expected, &merged(&model, &edit)) < 1e-6);
    let (stack, base) = (EditStack::of(edit.clone()), Base::of(&model));
    let merger = Merger::new(&stack, &base).unwrap();
    let whole = Arc::new(merger.decoder(&model.decoder, DType::F32).unwrap());
    let plain = logits(&(&whole, Arc::new(NoHooks) as _), DType::F32, &batch());
    assert!(distance(&outputs(&model, &edit), &plain) < 1e-5);
}
