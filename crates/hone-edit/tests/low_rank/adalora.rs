//! AdaLoRA's rules: the budget of ranks, what a checkpoint holds of it, and the penalty.

use hone_edit::files::read_edit;
use hone_edit::training::{EditGradients, Moment};
use hone_edit::{Base, Edit, save_edit};
use hone_engine::{DType, Gradients, ParamId, RandomKey, Tape, Tensor, Var};
use hone_model::Model;
use serde_json::json;

use crate::{ON_Q, distance, fresh, moved, outputs, set, stories, value};

/// Runs the rules of an AdaLoRA for some updates with gradients that make the last rank of every map matter most.
fn trained_adalora(model: &Model, updates: usize, stop: Option<usize>) -> Edit {
    let json = r#"{"type": "adalora", "init_r": 4, "target_r": 2, "tinit": 2, "tfinal": 3, "deltaT": 2,
        "target_modules": ["layers.0.self_attn.q_proj", "layers.0.mlp.down_proj"]}"#;
    let mut edit = moved(fresh(model, json), 0.05);
    let mut rules = edit.method.training(&edit).unwrap();
    let ids: Vec<ParamId> = (0..edit.params.len() as u32).map(ParamId).collect();
    for step in 0..updates {
        if stop == Some(step) {
            // As a checkpoint does: what the rules remember goes through names, and new rules take it back.
            let state = rules.state();
            rules = edit.method.training(&edit).unwrap();
            rules.restore(&edit, &mut |name, shape| {
                let found = state.iter().find(|(own, value)| own == name && value.dims() == shape);
                found.map(|(_, value)| value.clone())
            });
        }
        let moment = Moment { step, steps: updates, key: RandomKey::new(step as u64), run: RandomKey::new(0) };
        rules.begin(&mut edit, &moment);
        let mut gradients = Gradients::new();
        for (id, param) in ids.iter().zip(&edit.params) {
            let key = RandomKey::new(step as u64).named(&param.key);
            let (rows, columns) = param.value.rows_cols();
            let rank = |at: usize| if param.key.ends_with("lora_B") { at % columns } else { at / columns };
            let value = |at: usize| key.uniform(at as u64) * (1.0 + rank(at) as f32) * 4.0;
            let values: Vec<f32> = (0..rows * columns).map(value).collect();
            gradients.add(&Var::param(*id, param.value.clone()), Tensor::from_slice(param.value.dims(), &values));
        }
        rules.after(&mut edit, &EditGradients::new(&mut gradients, &ids), &moment);
        let alive = |p: &&hone_edit::Param| p.key.ends_with("lora_E");
        let alive = edit.params.iter().filter(alive).flat_map(|p| p.value.to_vec_f32()).filter(|e| *e != 0.0).count();
        let expected = match step + 1 {
            // Whole up to `tinit`, then at every second update `4 + 4 (1 − (t − 2) / 5)³` in whole ranks: 4.8 at the
            // fourth.
            0..=3 => 8,
            _ => 4,
        };
        assert_eq!(alive, expected, "ranks after update {}", step + 1);
    }
    edit
}

#[test]
fn adaloras_budget_falls_by_its_curve_and_the_file_holds_what_it_left() {
    let model = stories();
    let edit = trained_adalora(&model, 10, None);
    let pattern = edit.config["rank_pattern"].as_object().unwrap();
    let kept: Vec<bool> = pattern.values().flat_map(|v| v.as_array().unwrap()).map(|v| v.as_bool().unwrap()).collect();
    assert_eq!(kept.iter().filter(|kept| **kept).count(), 4);
    assert_eq!(edit.config["total_step"], json!(10));

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("adapter");
    save_edit(&edit, &path).unwrap();
    let read = read_edit(&path, &Base::of(&model)).unwrap();
    let ranks: Vec<usize> =
        read.params.iter().filter(|p| p.key.ends_with("lora_E")).map(|p| p.value.elements()).collect();
    assert_eq!(ranks.iter().sum::<usize>(), 4);
    let apart = distance(&outputs(&model, &edit), &outputs(&model, &read));
    assert!(apart < 2e-6, "{apart}");
}

#[test]
fn adaloras_rules_continue_from_what_a_checkpoint_holds() {
    let model = stories();
    let whole = trained_adalora(&model, 10, None);
    for stop in [1, 5, 8] {
        let resumed = trained_adalora(&model, 10, Some(stop));
        assert_eq!(whole.config, resumed.config, "stopped at {stop}");
        for (a, b) in whole.params.iter().zip(&resumed.params) {
            assert_eq!(a.value.as_bytes(), b.value.as_bytes(), "stopped at {stop}: {}", a.key);
        }
    }
}

#[test]
fn adaloras_penalty_is_nought_for_orthonormal_factors_and_its_gradient_a_derivative() {
    let model = stories();
    let json = format!(r#"{{"type": "adalora", "init_r": 3, "orth_reg_weight": 0.5, {ON_Q}}}"#);
    let edit = moved(fresh(&model, &json), 0.1);
    let rules = edit.method.training(&edit).unwrap();
    let moment = Moment { step: 0, steps: 10, key: RandomKey::new(0), run: RandomKey::new(0) };
    let penalty = |edit: &Edit| {
        let tape = Tape::recording();
        let numbered = edit.params.iter().enumerate();
        let values: Vec<Var> = numbered.map(|(i, p)| Var::param(ParamId(i as u32), p.value.clone())).collect();
        let penalty = rules.penalty(&tape, &values, &moment).unwrap();
        let mut gradients = Gradients::new();
        tape.backward(&penalty, Tensor::full([1], DType::F32, 1.0), &mut gradients);
        (f64::from(penalty.value.item()), gradients)
    };
    let (_, gradients) = penalty(&edit);
    for (index, param) in edit.params.iter().enumerate().filter(|(_, p)| !p.key.ends_with("lora_E")) {
        let mut moved = edit.clone();
        let step = 3e-3;
        let key = RandomKey::new(9).named(&param.key);
        let direction: Vec<f32> = (0..param.value.elements() as u64).map(|i| key.normal(i)).collect();
        let mut at = |offset: f32| {
            let values = param.value.as_slice::<f32>().iter().zip(&direction).map(|(v, d)| v + offset * d);
            moved.params[index].value = Tensor::from_slice(param.value.dims(), &values.collect::<Vec<f32>>());
            penalty(&moved).0
        };
        let by_difference = (at(step) - at(-step)) / f64::from(2.0 * step);
        let gradient = gradients.param(ParamId(index as u32)).unwrap().as_slice::<f32>();
        let by_backward: f64 = gradient.iter().zip(&direction).map(|(g, d)| f64::from(g * d)).sum();
        let tolerance = 1e-3 + 1e-2 * by_backward.abs();
        assert!((by_difference - by_backward).abs() < tolerance, "{}: {by_difference}, {by_backward}", param.key);
    }
    // Rows of an identity are orthonormal.
    let mut orthonormal = edit.clone();
    let identity = |dims: &[usize]| {
        let mut values = vec![0f32; dims[0] * dims[1]];
        (0..3).for_each(|i| values[i * dims[1] + i] = 1.0);
        Tensor::from_slice(dims, &values)
    };
    for end in ["lora_A", "lora_B"] {
        let dims = value(&edit, end).dims().to_vec();
        set(&mut orthonormal, end, identity(&dims));
    }
    assert_eq!(penalty(&orthonormal).0, 0.0);
}
