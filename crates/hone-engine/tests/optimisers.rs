//! Optimiser updates against `torch.optim` (`tools/golden/optimisers.py`).

use hone_engine::optim::{AdamState, AdamW, Sgd, SgdState, clip_factor, global_norm};
use serde_json::Value;

fn numbers(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
}

fn tensors(value: &Value) -> Vec<Vec<f32>> {
    value.as_array().unwrap().iter().map(numbers).collect()
}

enum Optimiser {
    Adam(AdamW, Vec<AdamState>),
    Sgd(Sgd, Vec<SgdState>),
}

impl Optimiser {
    fn new(name: &str, options: &Value, start: &[Vec<f32>]) -> Optimiser {
        let number = |key: &str| options[key].as_f64().unwrap();
        if name.starts_with("adamw") {
            let beta = |i: usize| options["betas"][i].as_f64().unwrap();
            let adamw =
                AdamW { beta1: beta(0), beta2: beta(1), eps: number("eps"), weight_decay: number("weight_decay") };
            return Optimiser::Adam(adamw, start.iter().map(|p| AdamState::new(p.len())).collect());
        }
        let sgd = Sgd {
            momentum: number("momentum"),
            dampening: number("dampening"),
            weight_decay: number("weight_decay"),
            nesterov: options["nesterov"].as_bool().unwrap(),
        };
        Optimiser::Sgd(sgd, vec![SgdState::default(); start.len()])
    }

    fn update(&mut self, rate: f64, scale: f32, i: usize, param: &mut [f32], gradient: &[f32]) {
        match self {
            Optimiser::Adam(adamw, states) => adamw.update(rate, scale, param, gradient, &mut states[i]),
            Optimiser::Sgd(sgd, states) => sgd.update(rate, scale, param, gradient, &mut states[i]),
        }
    }
}

#[test]
fn five_clipped_steps_equal_those_of_torch() {
    let golden: Value = serde_json::from_str(include_str!("golden/optimisers.json")).unwrap();
    let max_norm = golden["max_norm"].as_f64().unwrap();
    let cases = golden["cases"].as_object().unwrap();
    assert_eq!(cases.len(), 5);
    for (name, case) in cases {
        let mut params = tensors(&golden["start"]);
        let mut optimiser = Optimiser::new(name, &case["options"], &params);
        for (step, gradients) in golden["gradients"].as_array().unwrap().iter().enumerate() {
            let gradients = tensors(gradients);
            let norm = global_norm(gradients.iter().map(Vec::as_slice));
            let want = golden["norms"][step].as_f64().unwrap();
            assert!((norm - want).abs() <= 1e-6 * want, "norm {norm}, torch {want}");
            let scale = clip_factor(norm, max_norm);
            assert!(scale < 1.0, "the golden gradients are large enough to be clipped");
            let rate = golden["rates"][step].as_f64().unwrap();
            for (i, (param, gradient)) in params.iter_mut().zip(&gradients).enumerate() {
                optimiser.update(rate, scale, i, param, gradient);
                let want = numbers(&case["params"][step][i]);
                for (got, want) in param.iter().zip(want) {
                    // A few roundings of f32 a step.
                    assert!(
                        (got - want).abs() <= 4e-7 * (1.0 + want.abs()),
                        "{name}, step {step}: {got}, torch {want}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_saved_state_continues_with_the_same_bits_on_any_number_of_threads() {
    let gradient: Vec<f32> = (0..40_000).map(|i| (i as f32 * 0.7).sin()).collect();
    let adamw = AdamW { weight_decay: 0.01, ..AdamW::default() };
    let (mut param, mut state) = (vec![0.5f32; 40_000], AdamState::new(40_000));
    adamw.update(1e-3, 1.0, &mut param, &gradient, &mut state);
    let saved = (param.clone(), AdamState { m: state.m.clone(), v: state.v.clone(), step: state.step });
    adamw.update(1e-3, 1.0, &mut param, &gradient, &mut state);

    let (mut resumed, mut restored) = saved;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    pool.install(|| adamw.update(1e-3, 1.0, &mut resumed, &gradient, &mut restored));
    assert_eq!((param, state), (resumed, restored));
}
