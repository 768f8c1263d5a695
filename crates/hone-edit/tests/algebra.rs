//! Several edits made one: PEFT's numbers (`tools/golden/peft_combine.py`), and what each way is by definition.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hone_edit::algebra::{self, Combined, How, MajoritySign, Operand, Options};
use hone_edit::files::{TensorFile, read_edit};
use hone_edit::merge::{Merger, logit_difference};
use hone_edit::method::{LowRankPair, Place};
use hone_edit::{Base, Edit, EditError, EditStack, registry, save_edit};
use hone_engine::{DType, RandomKey, Tensor};
use hone_model::{LoadOptions, Model, NoHooks, TokenBatch};
use serde_json::json;

const DENSITY: f64 = 0.6;
const WEIGHTS: [f32; 2] = [0.7, -0.4];

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(path)
}

fn model() -> Model {
    let options = LoadOptions { dtype: DType::F32, keep_quantised: false };
    Model::load(golden("tiny-qwen2").to_str().unwrap(), options).unwrap()
}

/// PEFT's adapters of these names, weighted.
fn operands(base: &Base, names: [&str; 2]) -> Vec<Operand> {
    let operand = |(name, weight): (&str, f32)| {
        let edit = read_edit(&golden("combine").join(name), base).unwrap();
        Operand { name: name.into(), edit, weight }
    };
    names.into_iter().zip(WEIGHTS).map(operand).collect()
}

fn edit(combined: Combined) -> Edit {
    match combined {
        Combined::Edit(edit) => *edit,
        Combined::Weights(_) => panic!("an adapter was expected"),
    }
}

fn weights(combined: Combined) -> BTreeMap<String, Tensor> {
    match combined {
        Combined::Weights(weights) => weights,
        Combined::Edit(_) => panic!("weights were expected"),
    }
}

/// The pairs of an edit by module path.
fn pairs(edit: &Edit) -> BTreeMap<String, LowRankPair> {
    let pair = |placed: &hone_edit::method::Placed| {
        let values: Vec<Tensor> = placed.params.iter().map(|&p| edit.params[p].value.clone()).collect();
        let Place::Linear(module) = &placed.place else { panic!("{} is no linear map", placed.place) };
        (module.clone(), placed.part.low_rank(&values, None).unwrap())
    };
    edit.placed.iter().map(pair).collect()
}

fn apart(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    a.as_slice::<f32>().iter().zip(b.as_slice::<f32>()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn random_edit(base: &Base, fields: serde_json::Value, seed: u64) -> Edit {
    let method = registry::from_recipe(fields.as_object().unwrap(), &mut Vec::new()).unwrap();
    let mut edit = Edit::new(method, base, seed).unwrap();
    for param in &mut edit.params {
        let key = RandomKey::new(seed).named(&param.key);
        let values = param.value.as_mut_slice::<f32>().iter_mut();
        values.enumerate().for_each(|(i, v)| *v += 0.1 * key.normal(i as u64));
    }
    edit
}

fn operand(edit: Edit, weight: f32) -> Operand {
    Operand { name: "an edit".into(), edit, weight }
}

#[test]
fn combinations_are_pefts() {
    let base = Base::of(&model());
    let frequency = MajoritySign::Frequency;
    let pruned = Options { density: Some(DENSITY), ..Options::default() };
    let cases = [
        ("cat", "cat", "two", Options::default()),
        ("svd", "svd", "two", Options::default()),
        ("svd_rank_4", "svd", "two", Options { rank: Some(4), ..Options::default() }),
        ("ties_svd", "ties_svd", "two", pruned),
        ("ties_svd_frequency", "ties_svd", "two", Options { majority_sign: frequency, ..pruned }),
        ("magnitude_prune_svd", "magnitude_prune_svd", "two", pruned),
        ("linear", "linear", "three", Options::default()),
        ("ties", "ties", "three", pruned),
        ("ties_frequency", "ties", "three", Options { majority_sign: frequency, ..pruned }),
        ("magnitude_prune", "magnitude_prune", "three", pruned),
    ];
    let mut file = TensorFile::read(&golden("combine/expected.safetensors")).unwrap();
    for (case, how, second, options) in cases {
        let operands = operands(&base, ["one", second]);
        let combined = algebra::combine(How::named(how).unwrap(), &operands, &base, &options).unwrap();
        for (module, pair) in pairs(&edit(combined)) {
            assert_eq!(pair.scale, 1.0);
            let a = file.tensor(&format!("{case}.{module}.lora_A"), pair.a.dims()).unwrap();
            let b = file.tensor(&format!("{case}.{module}.lora_B"), pair.b.dims()).unwrap();
            if !how.ends_with("svd") {
                // Signs of singular vectors are nobody's, but these factors are PEFT's.
                assert!(apart(&pair.a, &a) < 1e-6 && apart(&pair.b, &b) < 1e-6, "{case}: {module}");
            }
            let theirs = LowRankPair { a, b, scale: 1.0 }.product();
            let largest = theirs.as_slice::<f32>().iter().fold(0f32, |m, v| m.max(v.abs()));
            let apart = apart(&pair.product(), &theirs);
            assert!(apart < 1e-5 * largest.max(0.1), "{case}: {module}: {apart}");
        }
    }
    file.all_used().unwrap();
}

#[test]
fn cat_is_the_stack_and_so_is_an_svd_of_enough_rank() {
    let model = model();
    let base = Base::of(&model);
    let operands = operands(&base, ["one", "two"]);
    let batch = TokenBatch::from_sequences(&[vec![1, 403, 407, 261, 378, 432, 403, 286]]);
    let stack = algebra::stack(&operands).unwrap();
    let near = |edit: Edit| {
        let first = (&model.decoder, stack.hooks(DType::F32));
        let second = (&model.decoder, EditStack::of(edit).hooks(DType::F32));
        let difference = logit_difference(&first, &second, DType::F32, std::slice::from_ref(&batch));
        difference.max / difference.largest_logit
    };
    let combined = |how: &str, rank: Option<usize>| {
        let options = Options { rank, ..Options::default() };
        edit(algebra::combine(How::named(how).unwrap(), &operands, &base, &options).unwrap())
    };
    let cat = combined("cat", None);
    assert!(cat.params.iter().any(|p| p.key.ends_with("q_proj.lora_A.weight") && p.value.dims() == [5, 32]));
    assert!(near(cat.clone()) < 1e-5);
    assert!(near(combined("svd", Some(5))) < 1e-5);
    // And what is no exact sum is not: neither a smaller rank, nor factors that are summed.
    assert!(near(combined("svd", Some(1))) > 1e-3);
    // The adapter is one like any other: written and read, it is the same.
    let dir = tempfile::tempdir().unwrap();
    save_edit(&cat, dir.path()).unwrap();
    assert!(near(read_edit(dir.path(), &base).unwrap()) < 1e-5);
    // The stack, merged, is the same model.
    let merged =
        weights(algebra::combine(How::named("stack").unwrap(), &operands, &base, &Options::default()).unwrap());
    let decoder = Arc::new(model.decoder.replaced(|name, _| merged.get(name).cloned()));
    let plain: Arc<dyn hone_model::Hooks> = Arc::new(NoHooks);
    let difference = logit_difference(
        &(&model.decoder, stack.hooks(DType::F32)),
        &(&decoder, plain),
        DType::F32,
        std::slice::from_ref(&batch),
    );
    assert!(difference.max < 1e-5 * difference.largest_logit, "{difference:?}");
}

#[test]
fn linear_has_cross_terms_and_cat_has_none() {
    let base = Base::of(&model());
    let operands = operands(&base, ["one", "three"]);
    let product = |how: &str| {
        let combined = algebra::combine(How::named(how).unwrap(), &operands, &base, &Options::default()).unwrap();
        pairs(&edit(combined))["model.layers.0.self_attn.q_proj"].product()
    };
    let mut expected = Tensor::zeros([32, 32], DType::F32);
    for operand in &operands {
        let own = pairs(&operand.edit)["model.layers.0.self_attn.q_proj"].product();
        let sum = expected.as_mut_slice::<f32>().iter_mut().zip(own.as_slice::<f32>());
        sum.for_each(|(e, v)| *e += operand.weight * v);
    }
    assert!(apart(&product("cat"), &expected) < 1e-6);
    assert!(apart(&product("linear"), &expected) > 1e-2, "the cross terms");
}

#[test]
fn task_arithmetic_adds_changes_of_any_kind() {
    let base = Base::of(&model());
    let lora = random_edit(&base, json!({ "type": "lora", "r": 2, "target_modules": ["q_proj"] }), 1);
    let full = |seed| random_edit(&base, json!({ "type": "full", "target_modules": ["q_proj", "norm"] }), seed);
    // Two that replace one weight cannot be stacked, but their changes add.
    let operands = [operand(lora.clone(), 0.5), operand(full(2), 2.0), operand(full(3), -1.0)];
    let how = How::named("task_arithmetic").unwrap();
    let combined = weights(algebra::combine(how, &operands, &base, &Options::default()).unwrap());
    let name = "model.layers.1.self_attn.q_proj.weight";
    let own = base.weight(name).unwrap().to_f32();
    let mut expected = own.clone();
    for operand in &operands {
        let stack = EditStack::of(operand.edit.clone());
        let merged = Merger::new(&stack, &base).unwrap().merged(name).unwrap().unwrap();
        let change = merged.as_slice::<f32>().iter().zip(own.as_slice::<f32>());
        let sum = expected.as_mut_slice::<f32>().iter_mut().zip(change);
        sum.for_each(|(e, (m, w))| *e += operand.weight * (m - w));
    }
    assert!(apart(&combined[name], &expected) < 1e-6);
    assert!(combined.contains_key("model.norm.weight") && !combined.contains_key("model.layers.0.mlp.up_proj.weight"));
    // Adding an edit and taking it away again is the base.
    let nothing = [operand(full(2), 1.0), operand(full(2), -1.0)];
    for (name, weight) in weights(algebra::combine(how, &nothing, &base, &Options::default()).unwrap()) {
        assert!(apart(&weight, &base.weight(&name).unwrap().to_f32()) < 1e-6, "{name}");
    }
}

/// DARE's claim, through the whole of it: the mean over seeds is the weighted sum.
#[test]
fn random_drops_are_unbiased_and_follow_the_seed() {
    let base = Base::of(&model());
    let operands = operands(&base, ["one", "two"]);
    let module = "model.layers.0.self_attn.q_proj";
    let drop = |how: &str, seed, density| {
        let options = Options { density: Some(density), seed, rank: Some(32), ..Options::default() };
        pairs(&edit(algebra::combine(How::named(how).unwrap(), &operands, &base, &options).unwrap()))[module].product()
    };
    let (first, again, other) =
        (drop("dare_linear_svd", 1, 0.5), drop("dare_linear_svd", 1, 0.5), drop("dare_linear_svd", 2, 0.5));
    assert_eq!(first.as_bytes(), again.as_bytes());
    assert!(apart(&first, &other) > 1e-3);
    let changes: Vec<(f32, Tensor)> = operands.iter().map(|o| (o.weight, pairs(&o.edit)[module].product())).collect();
    let sum = drop("dare_linear_svd", 0, 1.0);
    let seeds = 60;
    let mut mean = vec![0f64; 32 * 32];
    for seed in 0..seeds {
        let dropped = drop("dare_linear_svd", seed, 0.5);
        mean.iter_mut().zip(dropped.as_slice::<f32>()).for_each(|(m, v)| *m += f64::from(*v) / seeds as f64);
    }
    // At density 1/2 a number's variance is its square; z scores over the whole matrix must be standard normal.
    let mut squares = 0.0;
    for (at, mean) in mean.iter().enumerate() {
        let variance: f64 = changes.iter().map(|(w, d)| f64::from(w * d.as_slice::<f32>()[at]).powi(2)).sum();
        let z = (mean - f64::from(sum.as_slice::<f32>()[at])) / (variance / seeds as f64).sqrt();
        assert!(z.abs() < 5.5, "element {at} is {z} standard errors off");
        squares += z * z / 1024.0;
    }
    assert!((squares - 1.0).abs() < 0.3, "the mean square of z is {squares}");
    // With everything kept, the ways with drops are those without.
    let plain = |how: &str, density| {
        let options = Options { density, rank: Some(32), ..Options::default() };
        pairs(&edit(algebra::combine(How::named(how).unwrap(), &operands, &base, &options).unwrap()))[module].product()
    };
    assert!(apart(&drop("dare_ties_svd", 9, 1.0), &plain("ties_svd", Some(1.0))) < 1e-6);
    assert!(apart(&sum, &plain("svd", None)) < 1e-6);
}

#[test]
fn what_cannot_be_combined_is_refused_with_the_reason() {
    let base = Base::of(&model());
    let (two, one) = (operands(&base, ["one", "two"]), operands(&base, ["one", "three"]));
    let refused = |how: &str, operands: &[Operand], options: Options| -> String {
        let outcome = How::named(how).and_then(|how| algebra::combine(how, operands, &base, &options));
        outcome.err().expect("a mistake").to_string()
    };
    let message = How::named("dare_tie").expect_err("no such way").to_string();
    assert!(message.contains("did you mean `dare_ties`?") && message.contains("task_arithmetic"), "{message}");
    let message = refused("ties", &one, Options::default());
    assert!(message.contains("needs a density") && message.contains("--density 0.2"), "{message}");
    for density in [0.0, 1.5, f64::NAN, -1.0] {
        let message = refused("ties", &one, Options { density: Some(density), ..Options::default() });
        assert!(message.contains("is not above 0 and at most 1"), "{message}");
    }
    let message = refused("cat", &two, Options { density: Some(0.5), ..Options::default() });
    assert!(message.contains("prunes nothing"), "{message}");
    let message = refused("linear", &two, Options::default());
    assert!(message.contains("ranks 3 and 2") && message.contains("use `cat`"), "{message}");
    assert!(message.contains("at `model.layers.0.self_attn.q_proj`"), "{message}");
    let message = refused("cat", &two, Options { rank: Some(4), ..Options::default() });
    assert!(message.contains("its rank follows from the edits"), "{message}");
    let message = refused("svd", &two, Options { rank: Some(0), ..Options::default() });
    assert!(message.contains("a rank of 0 holds nothing"), "{message}");
    let message = refused("cat", &[], Options::default());
    assert!(message.contains("there is no edit to combine"), "{message}");
    let full = || random_edit(&base, json!({ "type": "full", "target_modules": ["q_proj"] }), 1);
    let message = refused("cat", &[operand(full(), 1.0)], Options::default());
    assert!(message.contains("(an edit, at `model.layers.0.self_attn.q_proj`)"), "{message}");
    assert!(message.contains("`task_arithmetic` combines whatever can be merged"), "{message}");
    let message = refused("stack", &[operand(full(), 1.0), operand(full(), 1.0)], Options::default());
    assert!(message.contains("cannot be stacked: both replace"), "{message}");
    let message = refused("svd", &[operand(full(), f32::NAN)], Options::default());
    assert!(message.contains("its weight is not a finite number"), "{message}");
    let error = How::named("").expect_err("no name is no way");
    assert!(matches!(error, EditError::UnknownCombination { .. }));
}
