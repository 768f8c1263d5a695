//! First values of a pair, by `init_lora_weights`:
//!
//! | word | `A` | `B` | what is taken out of the base |
//! |---|---|---|---|
//! | `true` | `U(±1/√in)` | 0 | nothing |
//! | `gaussian` | `N(0, 1/r²)` | 0 | nothing |
//! | `false` (for tests) | `U(±1/√in)` | `U(±1/√r)` | nothing: the model changes |
//! | `orthogonal` | `(N Q_odd)ᵀ / 10` | `Nᵀ Q_even / 10` | nothing: `B A = 0`, because the rows of an orthogonal `Q` are |
//! | `pissa` (Meng et al. 2024, arXiv 2404.02948) | `√(S_r/s) V_rᵀ` | `U_r √(S_r/s)` of `W = U S Vᵀ` | `s B₀ A₀` |
//! | `pissa_niter_N` | the same by a random subspace and `N` rounds of iteration (Halko et al. 2011), far quicker | | `s B₀ A₀` |
//! | `olora` (Büyükakyüz 2024, arXiv 2406.01775) | `R[:r]` of `W = Q R` | `Q[:, :r]` | `s B₀ A₀` |
//! | `loftq` (Li et al. 2023, arXiv 2310.08659) | `√S_r V_rᵀ` of `W − Q_T` | `U_r √S_r` | all that NF4 loses |
//!
//! **PiSSA and OLoRA** keep the base as it is and put the frozen pair `−s B₀ A₀` beside the trained one, which is the same
//! function (PEFT calls it the adapter converted to rank `2 r`): a quantised base stays quantised, the adapter file stays
//! PEFT's, and nothing breaks when the adapter is taken off. **LoftQ** puts `Q_T`, the base rounded to NF4 (`nf4(W −
//! B_{T−1} A_{T−1})`, blocks of 64), in the place of the weight; `T` is `loftq_iter`, each round a singular value
//! decomposition. There is no division by `s`, so it makes up for the rounding only with `alpha = r`.
//!
//! What was taken out (`A₀`, `B₀`, and LoftQ's `A_{T−1}`, `B_{T−1}`) is in `hone.safetensors` beside the adapter, so that
//! it is the same to the bit when the adapter is read; for an adapter of PEFT's own it is computed from the base again, as
//! PEFT does (up to rounding; a random subspace is another one each time there too).

use std::sync::{Arc, Mutex, OnceLock};

use hone_engine::ops::LowRank;
use hone_engine::quant::nf4::Nf4;
use hone_engine::quant::{QuantTensor, QuantType};
use hone_engine::weight::WeightData;
use hone_engine::{DType, RandomKey, Tensor, Weight, WeightRef, matmul};
use hone_model::Linear;
use serde_json::{Map, Value};

use super::{InitLora, LoraConfig, METHOD};
use crate::base::{Base, BaseValue, BaseWeight};
use crate::decompose::{orthonormal, qr, svd};
use crate::error::EditError;
use crate::forms::{base_weight, dropout};
use crate::method::{At, Init, LinearEffect, Merge, ParamPlan, Part};
use crate::planning::{key, wrong};

/// How first values are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Of random numbers and zeros.
    Plain,
    /// Orthogonal, so that the product is 0.
    Orthogonal,
    /// Of the largest singular values, exactly or by so many rounds of subspace iteration.
    Pissa {
        /// Rounds.
        rounds: Option<usize>,
    },
    /// Of a QR decomposition.
    Olora,
    /// Of what rounding to NF4 loses.
    Loftq {
        /// Rounds of rounding and decomposing.
        rounds: usize,
    },
}

impl Start {
    /// The one that `init_lora_weights` and `loftq_config` name.
    pub fn of(init: &InitLora, loftq: &Map<String, Value>) -> Result<Start, EditError> {
        const FIELD: &str = "init_lora_weights";
        let InitLora::Named(word) = init else { return Ok(Start::Plain) };
        let rounds = |text: &str| {
            let expected = "`pissa_niter_` and a number of rounds up to 1000";
            let rounds = text.parse().ok().filter(|rounds| *rounds <= 1000);
            rounds.ok_or_else(|| wrong(METHOD.name, FIELD, format!("`{word}`"), expected))
        };
        match word.as_str() {
            "gaussian" => Ok(Start::Plain),
            "orthogonal" => Ok(Start::Orthogonal),
            "pissa" => Ok(Start::Pissa { rounds: None }),
            "olora" => Ok(Start::Olora),
            "loftq" => Ok(Start::Loftq { rounds: loftq_rounds(loftq)? }),
            other => match other.strip_prefix("pissa_niter_") {
                Some(number) => Ok(Start::Pissa { rounds: Some(rounds(number)?) }),
                None => {
                    let known =
                        "`true`, `false`, `gaussian`, `orthogonal`, `pissa`, `pissa_niter_N`, `olora` or `loftq`";
                    Err(wrong(METHOD.name, FIELD, format!("`{word}`"), known))
                }
            },
        }
    }

    /// The word that names it.
    pub fn name(self) -> &'static str {
        match self {
            Start::Plain => "true",
            Start::Orthogonal => "orthogonal",
            Start::Pissa { .. } => "pissa",
            Start::Olora => "olora",
            Start::Loftq { .. } => "loftq",
        }
    }
}

/// `loftq_config`: 4 bits, and how many rounds.
fn loftq_rounds(config: &Map<String, Value>) -> Result<usize, EditError> {
    let wrong = |found: String, expected: &str| Err(wrong(METHOD.name, "loftq_config", found, expected));
    if config.is_empty() {
        return wrong("nothing".into(), "with `init_lora_weights: loftq`, `{ loftq_bits: 4, loftq_iter: 1 }`");
    }
    let mut rounds = 1;
    for (field, value) in config {
        match (field.as_str(), value.as_u64()) {
            ("loftq_bits", Some(4)) => {}
            ("loftq_bits", _) => {
                return wrong(format!("`loftq_bits: {value}`"), "4, the bits of NF4: others are not built");
            }
            ("loftq_iter", Some(number @ 1..=100)) => rounds = number as usize,
            ("loftq_iter", _) => return wrong(format!("`loftq_iter: {value}`"), "1 to 100 rounds"),
            _ => return wrong(format!("`{field}`"), "`loftq_bits` and `loftq_iter`"),
        }
    }
    Ok(rounds)
}

/// First values of a pair and what belongs to them.
pub(super) struct First {
    pub a: Init,
    pub b: Init,
    /// Frozen: the pair that is taken out of the base, or LoftQ's last but one.
    pub taken_out: Vec<ParamPlan>,
    /// LoftQ's base.
    pub quantised: Option<Rounded>,
}

impl LoraConfig {
    /// First values of the pair on `weight`.
    pub(super) fn first_values(&self, weight: &BaseWeight, rank: usize, scale: f32) -> Result<First, EditError> {
        let (module, out, inputs) = (weight.module().to_string(), weight.shape[0], weight.shape[1]);
        let plain = |(a, b)| First { a, b, taken_out: Vec::new(), quantised: None };
        let start = self.start();
        match start {
            Start::Plain => return Ok(plain(self.random(rank, inputs))),
            Start::Orthogonal if !rank.is_multiple_of(2) => {
                let expected = "an even rank with `init_lora_weights: orthogonal`";
                return Err(wrong(METHOD.name, "r", rank.to_string(), expected));
            }
            Start::Loftq { .. } if is_quantised(weight) => {
                return Err(EditError::Unsupported {
                    method: METHOD.name,
                    field: "init_lora_weights".into(),
                    found: "`loftq`".into(),
                    reason: format!(
                        "`{module}` is kept quantised, and what was lost in that is not known any more; load the model \
                         unquantised: LoftQ rounds it itself"
                    ),
                });
            }
            _ => {}
        }
        let name = weight.name.clone();
        let makes = Arc::new(Makes { start, name, out, inputs, rank, scale, made: OnceLock::new() });
        let init = |which: fn(&Made) -> &Tensor| {
            let makes = makes.clone();
            Init::Made(Box::new(move |base: &Base, key: RandomKey| {
                makes.made(base, key).map(|made| which(made).clone())
            }))
        };
        let frozen = |name: &str, shape: [usize; 2], which: fn(&Made) -> &Tensor| {
            ParamPlan::new(key(&module, name), &shape, init(which)).fixed().beside()
        };
        let taken_out = match start {
            Start::Pissa { .. } | Start::Olora => vec![
                frozen("lora_A0.weight", [rank, inputs], |made| &made.a),
                frozen("lora_B0.weight", [out, rank], |made| &made.b),
            ],
            Start::Loftq { rounds: 2.. } => vec![
                frozen("loftq_A.weight", [rank, inputs], |made| made.before.as_ref().map_or(&made.a, |(a, _)| a)),
                frozen("loftq_B.weight", [out, rank], |made| made.before.as_ref().map_or(&made.b, |(_, b)| b)),
            ],
            _ => Vec::new(),
        };
        let quantised = matches!(start, Start::Loftq { .. }).then(Rounded::default);
        Ok(First { a: init(|made| &made.a), b: init(|made| &made.b), taken_out, quantised })
    }

    fn random(&self, rank: usize, inputs: usize) -> (Init, Init) {
        let kaiming = |fan_in: usize| Init::Uniform { bound: 1.0 / (fan_in as f32).sqrt() };
        match &self.init_lora_weights {
            InitLora::Standard(true) => (kaiming(inputs), Init::Zeros),
            InitLora::Standard(false) => (kaiming(inputs), kaiming(rank)),
            InitLora::Named(_) => (Init::Normal { std: 1.0 / rank as f32 }, Init::Zeros),
        }
    }
}

fn is_quantised(weight: &BaseWeight) -> bool {
    matches!(&weight.value, BaseValue::Matrix(WeightRef::Frozen(matrix)) if matrix.quantised().is_some())
}

/// Makes the first values of one pair, once for all parameters that are made of them.
struct Makes {
    start: Start,
    /// The weight's.
    name: String,
    out: usize,
    inputs: usize,
    rank: usize,
    scale: f32,
    made: OnceLock<Made>,
}

/// A pair, and with LoftQ that of the round before.
struct Made {
    a: Tensor,
    b: Tensor,
    before: Option<(Tensor, Tensor)>,
}

impl Makes {
    fn made(&self, base: &Base, key: RandomKey) -> Result<&Made, EditError> {
        if let Some(made) = self.made.get() {
            return Ok(made);
        }
        let key = key.named(&self.name);
        let weight = || {
            let weight = base.weight(&self.name).map(BaseWeight::to_f32);
            // The plan was made of this base's weights.
            weight.unwrap_or_else(|| Tensor::zeros([self.out, self.inputs], DType::F32))
        };
        let ((a, b), before) = match self.start {
            Start::Plain | Start::Orthogonal => (self.orthogonal(key)?, None),
            Start::Olora => {
                let (q, r) = qr(&weight())?;
                ((r.narrow(0..self.rank), first_columns(&q, self.rank)), None)
            }
            Start::Pissa { rounds: None } => (split_roots(svd(&weight())?.truncated(self.rank), self.scale), None),
            Start::Pissa { rounds: Some(rounds) } => {
                (split_roots(largest(&weight(), self.rank, rounds, key)?, self.scale), None)
            }
            Start::Loftq { rounds } => {
                let weight = weight();
                let (mut pair, mut before) = (None, None);
                for _ in 0..rounds {
                    let rounded = rounded(&weight, pair.as_ref());
                    let mut lost = weight.clone();
                    add(&mut lost, &rounded, -1.0);
                    before = pair.replace(split_roots(svd(&lost)?.truncated(self.rank), 1.0));
                }
                (pair.unwrap_or_else(|| (Tensor::zeros([0, 0], DType::F32), Tensor::zeros([0, 0], DType::F32))), before)
            }
        };
        Ok(self.made.get_or_init(|| Made { a, b, before }))
    }

    /// `A = (N Q_odd)ᵀ / 10`, `B = Nᵀ Q_even / 10`, with the odd and the even rows of an orthogonal `Q` `[r, r]`.
    fn orthogonal(&self, key: RandomKey) -> Result<(Tensor, Tensor), EditError> {
        let half = self.rank / 2;
        let q = orthonormal(&normal([self.rank, self.rank], key.named("q")))?;
        let every_second = |first: usize| {
            let rows = q.as_slice::<f32>().chunks_exact(self.rank).skip(first).step_by(2);
            Tensor::from_slice([half, self.rank], &rows.flatten().copied().collect::<Vec<f32>>())
        };
        let product = |rows: usize, name: &str, first: usize| {
            let mut wide = normal([rows, half], key.named(name));
            wide.as_mut_slice::<f32>().iter_mut().for_each(|v| *v /= 10.0);
            matmul::matmul_nn(&wide, &every_second(first), DType::F32)
        };
        Ok((transposed(&product(self.inputs, "a", 0)), product(self.out, "b", 1)))
    }
}

fn normal(shape: [usize; 2], key: RandomKey) -> Tensor {
    let values: Vec<f32> = (0..(shape[0] * shape[1]) as u64).map(|i| key.normal(i)).collect();
    Tensor::from_slice(shape, &values)
}

fn transposed(matrix: &Tensor) -> Tensor {
    let (rows, columns) = matrix.rows_cols();
    let values = matrix.as_slice::<f32>();
    let turned: Vec<f32> = (0..columns).flat_map(|j| (0..rows).map(move |i| values[i * columns + j])).collect();
    Tensor::from_slice([columns, rows], &turned)
}

fn first_columns(matrix: &Tensor, count: usize) -> Tensor {
    let (rows, columns) = matrix.rows_cols();
    let kept = matrix.as_slice::<f32>().chunks_exact(columns.max(1)).flat_map(|row| &row[..count]).copied();
    Tensor::from_slice([rows, count], &kept.collect::<Vec<f32>>())
}

fn add(to: &mut Tensor, what: &Tensor, factor: f32) {
    to.as_mut_slice::<f32>().iter_mut().zip(what.as_slice::<f32>()).for_each(|(to, what)| *to += factor * what);
}

/// `(√(S/scale) Vᵀ, U √(S/scale))`.
fn split_roots(parts: crate::decompose::Svd, scale: f32) -> (Tensor, Tensor) {
    let roots: Vec<f32> = parts.s.iter().map(|s| (s / scale).sqrt()).collect();
    let (mut a, mut b) = (parts.vt, parts.u);
    let (_, inputs) = a.rows_cols();
    let rows = a.as_mut_slice::<f32>().chunks_exact_mut(inputs.max(1));
    rows.zip(&roots).for_each(|(row, root)| row.iter_mut().for_each(|v| *v *= root));
    let rows = b.as_mut_slice::<f32>().chunks_exact_mut(roots.len().max(1));
    rows.for_each(|row| row.iter_mut().zip(&roots).for_each(|(v, root)| *v *= root));
    (a, b)
}

/// About the `rank` largest singular values of `weight`, by `rounds` of subspace iteration from a random start (Halko,
/// Martinsson & Tropp 2011, algorithm 4.4 and 5.1).
fn largest(weight: &Tensor, rank: usize, rounds: usize, key: RandomKey) -> Result<crate::decompose::Svd, EditError> {
    let (_, inputs) = weight.rows_cols();
    let f32 = DType::F32;
    let mut q = orthonormal(&matmul::matmul_nn(weight, &normal([inputs, rank], key), f32))?;
    for _ in 0..rounds {
        let turned = orthonormal(&matmul::matmul_tn(weight, &q, f32))?;
        q = orthonormal(&matmul::matmul_nn(weight, &turned, f32))?;
    }
    let mut parts = svd(&matmul::matmul_tn(&q, weight, f32))?;
    parts.u = matmul::matmul_nn(&q, &parts.u, f32);
    Ok(parts)
}

/// `W − B A`.
fn without(weight: &Tensor, pair: Option<&(Tensor, Tensor)>) -> Tensor {
    let mut out = weight.clone();
    if let Some((a, b)) = pair {
        matmul::matmul_nn_add(&mut out, -1.0, b, a);
    }
    out
}

/// `nf4(W − B A)`, expanded again.
fn rounded(weight: &Tensor, pair: Option<&(Tensor, Tensor)>) -> Tensor {
    let mut out = without(weight, pair);
    let values = out.as_mut_slice::<f32>();
    Nf4::quantise(values, false).expand(0..values.len(), values);
    out
}

/// The base rounded to NF4, made once for a weight.
#[derive(Default)]
pub struct Rounded(Mutex<Option<(Arc<Weight>, WeightRef)>>);

impl Rounded {
    /// `nf4(W − B A)`, in 4 bits; `pair` is LoftQ's last but one, or nothing.
    fn weight(&self, linear: &Linear, pair: Option<(Tensor, Tensor)>) -> WeightRef {
        let make = || {
            let exact = without(&base_weight(linear), pair.as_ref());
            let (_, columns) = exact.rows_cols();
            let form = QuantType::Nf4 { double: false };
            let data = match QuantTensor::quantise(exact.as_slice::<f32>(), columns, form) {
                Ok(blocks) => WeightData::Quantised(blocks),
                Err(_) => WeightData::Dense(rounded(&exact, None)),
            };
            WeightRef::Frozen(Arc::new(Weight::new(data)))
        };
        let WeightRef::Frozen(own) = &linear.weight else { return make() };
        let mut kept = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        match &*kept {
            Some((of, rounded)) if Arc::ptr_eq(of, own) => rounded.clone(),
            _ => kept.insert((own.clone(), make())).1.clone(),
        }
    }
}

/// A pair beside the base rounded to NF4: values `A`, `B`, and with several rounds the pair that was taken out before
/// rounding.
pub struct OnRounded {
    /// `alpha / r`.
    pub scale: f32,
    /// On the input of `A`.
    pub dropout: f32,
    /// The base.
    pub rounded: Rounded,
}

/// The frozen pair among a part's values.
fn before(values: &[Tensor]) -> Option<(Tensor, Tensor)> {
    match values {
        [_, _, a, b] => Some((a.to_dtype(DType::F32), b.to_dtype(DType::F32))),
        _ => None,
    }
}

impl Part for OnRounded {
    fn on_linear(&self, at: &At, linear: &Linear, _weight: &WeightRef) -> LinearEffect {
        let values: Vec<Tensor> = at.values.iter().map(|var| var.value.clone()).collect();
        let weight = self.rounded.weight(linear, before(&values));
        let (a, b) = (at.values[0].clone(), at.values[1].clone());
        let term = LowRank { a, b, scale: self.scale * at.strength, dropout: dropout(at, self.dropout) };
        LinearEffect::Fused { weight: Some(weight), terms: vec![term] }
    }

    fn replaces(&self) -> bool {
        true
    }

    fn merge(&self, merge: &Merge) -> Result<Tensor, String> {
        let base = merge.base()?;
        let mut change = rounded(base, before(merge.values).as_ref());
        add(&mut change, base, -1.0);
        matmul::matmul_nn_add(&mut change, self.scale * merge.strength, &merge.values[1], &merge.values[0]);
        let mut out = merge.weight.clone();
        add(&mut out, &change, merge.direction.sign());
        Ok(out)
    }
}
