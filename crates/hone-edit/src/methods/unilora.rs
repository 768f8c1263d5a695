//! Uni-LoRA (Li et al. 2025, "Uni-LoRA: One Vector is All You Need", arXiv 2506.00799): `W + B A`, where every entry of the
//! pairs of all maps is one of the `d` numbers of a single trained vector, `A[i, j] = θ[k] / √n_k`.
//!
//! Which number `k` stands where is drawn once from `proj_seed`, as PEFT draws it with NumPy: the pairs of all maps laid out
//! one after another (`A` `[r, in]`, then `B` `[out, r]`) have `D` entries, and each `k` is at `⌊D / d⌋` or `⌈D / d⌉` of
//! them, `n_k`. Divided by `√n_k`, the projection from `θ` to all entries keeps lengths. Places and factors are in the file
//! with `save_indices`, which are then used as they are, and made again without. There is no scale. Start: `θ`
//! `U(±init_theta_d_bound)`, so **the model is not unchanged**, by the size of the bound's square. Parameters: `d` in all,
//! however many maps there are.

use std::sync::{Arc, OnceLock};

use hone_engine::{Tape, Tensor, Var, ops};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::base::{Base, BaseWeight};
use crate::biases::Biases;
use crate::config::{self, Inert};
use crate::error::EditError;
use crate::forms::{MadePair, MadePairPart};
use crate::method::{Init, Mergeable, Method, MethodInfo, Origin, ParamPlan, Plan, QuantisedBase, Stored};
use crate::numpy_random::NumpyRandom;
use crate::planning::{Q_AND_V, TargetFields, check_factor, check_probability, check_rank, key, wrong};

/// The registry's entry.
pub const METHOD: MethodInfo = MethodInfo {
    name: "unilora",
    peft_type: "UNILORA",
    family: "low rank",
    summary: "low-rank pairs whose entries are all numbers of one trained vector",
    paper: "arXiv 2506.00799",
    formula: "W + B A, entries θ[k] / √n_k",
    mergeable: Mergeable::Yes,
    quantised_base: QuantisedBase::Kept,
    parse,
    schema: |generator| generator.subschema_for::<UniLoraConfig>(),
};

/// Hugging Face's `UniLoraConfig`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct UniLoraConfig {
    /// Rank.
    pub r: usize,
    /// Seed of the places.
    pub proj_seed: u64,
    /// Length of the vector: all trained numbers.
    pub theta_d_length: usize,
    /// Dropout on the input of `A`.
    pub unilora_dropout: f64,
    /// Half the width of the vector's first values.
    pub init_theta_d_bound: f64,
    /// Whether the vector starts within the bound; `false`: `N(0, 1)`.
    pub init_weights: bool,
    /// Whether the file holds places and factors.
    pub save_indices: bool,
    /// Which biases are trained: `none`, `all`, `unilora_only`.
    pub bias: String,
    /// Where.
    #[serde(flatten)]
    pub targets: TargetFields,
}

impl Default for UniLoraConfig {
    fn default() -> Self {
        UniLoraConfig {
            r: 4,
            proj_seed: 42,
            theta_d_length: 256,
            unilora_dropout: 0.0,
            init_theta_d_bound: 0.02,
            init_weights: true,
            save_indices: false,
            bias: "none".into(),
            targets: TargetFields::default(),
        }
    }
}

const INERT: &[Inert] = &[config::TRANSPOSED];

/// The longest vector: places are kept as `f32`, which has whole numbers up to here.
const LONGEST: usize = 1 << 24;

fn parse(
    fields: &Map<String, Value>,
    origin: Origin,
    warnings: &mut Vec<String>,
) -> Result<Arc<dyn Method>, EditError> {
    let fields = TargetFields::recommended(fields, origin, &[]);
    let unilora: UniLoraConfig = config::read(METHOD.name, &fields, INERT, origin, warnings)?;
    unilora.targets.check(METHOD.name)?;
    check_rank(METHOD.name, "r", unilora.r)?;
    check_rank(METHOD.name, "theta_d_length", unilora.theta_d_length)?;
    if unilora.theta_d_length > LONGEST {
        let expected = format!("at most {LONGEST} numbers");
        return Err(wrong(METHOD.name, "theta_d_length", unilora.theta_d_length.to_string(), expected));
    }
    check_probability(METHOD.name, "unilora_dropout", unilora.unilora_dropout)?;
    check_factor(METHOD.name, "init_theta_d_bound", unilora.init_theta_d_bound)?;
    unilora.biases()?;
    Ok(Arc::new(unilora))
}

/// Which number of the vector stands at each entry of all pairs, and what each number is multiplied by.
struct Assignment {
    places: Vec<u32>,
    factors: Vec<f32>,
}

impl Assignment {
    fn draw(entries: usize, length: usize, seed: u64) -> Assignment {
        let mut random = NumpyRandom::new(seed);
        let each = entries / length;
        let mut places: Vec<u32> = (0..length as u32).flat_map(|k| std::iter::repeat_n(k, each)).collect();
        let left = entries % length;
        if left > 0 {
            places.extend(random.choice(length as u32, left));
        }
        random.shuffle(&mut places);
        let mut counts = vec![0u32; length];
        places.iter().for_each(|k| counts[*k as usize] += 1);
        let factors = counts.iter().map(|n| if *n > 0 { 1.0 / (*n as f32).sqrt() } else { 0.0 }).collect();
        Assignment { places, factors }
    }

    fn places(&self, at: usize, shape: [usize; 2]) -> Tensor {
        let places: Vec<f32> = self.places[at..at + shape[0] * shape[1]].iter().map(|k| *k as f32).collect();
        Tensor::from_slice(shape, &places)
    }

    fn factors(&self, at: usize, shape: [usize; 2]) -> Tensor {
        let places = &self.places[at..at + shape[0] * shape[1]];
        Tensor::from_slice(shape, &places.iter().map(|k| self.factors[*k as usize]).collect::<Vec<f32>>())
    }
}

/// The assignment of an edit, drawn when the first of its parts is asked for.
#[derive(Clone)]
struct Drawn {
    entries: usize,
    length: usize,
    seed: u64,
    drawn: Arc<OnceLock<Assignment>>,
}

impl Drawn {
    fn get(&self) -> &Assignment {
        self.drawn.get_or_init(|| Assignment::draw(self.entries, self.length, self.seed))
    }
}

impl UniLoraConfig {
    fn biases(&self) -> Result<Biases, EditError> {
        Biases::parse(METHOD.name, &self.bias, "unilora_only")
    }

    /// Entries of the pair of a map.
    fn entries(&self, weight: &BaseWeight) -> usize {
        self.r * (weight.shape[0] + weight.shape[1])
    }

    /// The assignment to the pairs of all targeted maps.
    fn assignment(&self, base: &Base) -> Result<Drawn, EditError> {
        let modules = self.targets.modules(METHOD.name, base, Q_AND_V)?;
        let targeted = base.linears().filter(|weight| modules.iter().any(|module| module == weight.module()));
        let entries = targeted.map(|weight| self.entries(weight)).sum();
        if u32::try_from(entries).is_err() {
            let expected = format!("a rank with which the pairs of all maps have fewer than {} entries", u32::MAX);
            return Err(wrong(METHOD.name, "r", self.r.to_string(), expected));
        }
        Ok(Drawn { entries, length: self.theta_d_length, seed: self.proj_seed, drawn: Arc::default() })
    }

    /// Puts a pair on a map whose entries begin at `at`.
    fn plan_map(&self, plan: &mut Plan, weight: &BaseWeight, drawn: &Drawn, at: usize) {
        let (module, r, out, inputs) = (weight.module(), self.r, weight.shape[0], weight.shape[1]);
        let (shape_a, shape_b) = ([r, inputs], [out, r]);
        let at_b = at + r * inputs;
        let fixed = |name: &str, shape: [usize; 2], make: Box<dyn Fn(&Assignment) -> Tensor + Send + Sync>| {
            let drawn = drawn.clone();
            let init = Init::Computed(Box::new(move |_| make(drawn.get())));
            let plan = ParamPlan::new(key(module, name), &shape, init).fixed().full_precision();
            if self.save_indices { plan } else { plan.not_saved() }
        };
        let places = |name: &str, shape: [usize; 2], at: usize| {
            let plan = fixed(name, shape, Box::new(move |all| all.places(at, shape)));
            plan.places_below(&vec![self.theta_d_length; shape[0]]).stored(Stored::I64)
        };
        let factors =
            |name: &str, shape: [usize; 2], at: usize| fixed(name, shape, Box::new(move |all| all.factors(at, shape)));
        let own = [
            places("unilora_indices_A", shape_a, at),
            places("unilora_indices_B", shape_b, at_b),
            factors("unilora_scales_A", shape_a, at),
            factors("unilora_scales_B", shape_b, at_b),
        ];
        plan.on_linear_sharing(weight, MadePairPart { made: Entries, dropout: self.unilora_dropout as f32 }, 0..1, own);
    }
}

impl Method for UniLoraConfig {
    fn info(&self) -> &'static MethodInfo {
        &METHOD
    }

    fn plan(&self, base: &Base) -> Result<Plan, EditError> {
        let drawn = self.assignment(base)?;
        let init = match self.init_weights {
            true => Init::Uniform { bound: self.init_theta_d_bound as f32 },
            false => Init::Normal { std: 1.0 },
        };
        let mut theta =
            Some(ParamPlan::new("base_model.unilora_theta_d", &[self.theta_d_length], init).full_precision());
        let mut at = 0;
        self.targets.plan_with_biases(
            METHOD.name,
            base,
            Q_AND_V,
            (self.fields(), INERT),
            self.biases()?,
            |plan, weight| {
                plan.add(theta.take());
                self.plan_map(plan, weight, &drawn, at);
                at += self.entries(weight);
                Ok(())
            },
        )
    }

    fn fields(&self) -> Map<String, Value> {
        config::to_map(self)
    }
}

/// A pair whose entries are numbers of the vector.
struct Entries;

impl MadePair for Entries {
    fn pair(&self, tape: &Tape, values: &[Var]) -> (Var, Var) {
        let [theta, in_a, in_b, factors_a, factors_b] = values else {
            unreachable!("Uni-LoRA plans a vector, two sets of places and two of factors")
        };
        let theta = ops::reshape(tape, theta, &[theta.value.elements(), 1]);
        let entries = |places: &Var, factors: &Var| {
            let ids: Vec<u32> = places.value.as_slice::<f32>().iter().map(|place| *place as u32).collect();
            let entries = ops::reshape(tape, &ops::gather_rows(tape, &theta, &ids), places.value.dims());
            ops::multiply(tape, &entries, factors)
        };
        (entries(in_a, factors_a), entries(in_b, factors_b))
    }
}
