//! Against `f64` sums, against the example of the paper's reading, and cut into chunks.

use std::sync::Arc;

use super::*;
use crate::reference::gradient_check::{assert_close, check, random, tolerance, wide};
use crate::reference::linear::{log_softmax, matmul_nt};
use crate::{Gradients, ParamId, Weight};

const WIDTH: usize = 8;
const VOCABULARY: usize = 20;
/// One row twice, two never, not in order.
const ROWS: [u32; 4] = [4, 0, 2, 2];
const WEIGHTS: [f32; 4] = [1.0, 0.5, 2.0, 1.5];
const MARKED: [bool; 4] = [true, false, true, false];

fn frozen(head: &Tensor) -> WeightRef {
    WeightRef::Frozen(Arc::new(Weight::dense(head.clone())))
}

/// Two teachers of other widths than the student's, each with its own head, one with a cap.
struct Old {
    hidden: [Tensor; 2],
    heads: [Tensor; 2],
    refs: [WeightRef; 2],
}

const CAPS: [Option<f32>; 2] = [Some(2.0), None];

impl Old {
    fn new() -> Old {
        let widths = [5, 12];
        let of = |seed: u64, rows: usize| [0, 1].map(|t| random([rows, widths[t]], DType::F32, seed + t as u64));
        let heads = of(20, VOCABULARY);
        Old { hidden: of(10, 5), refs: [0, 1].map(|t| frozen(&heads[t])), heads }
    }

    fn teachers(&self) -> [Teacher<'_>; 2] {
        [0, 1].map(|t| Teacher { hidden: &self.hidden[t], head: &self.refs[t], soft_cap: CAPS[t] })
    }

    /// Logits of a row as teacher `t` has them.
    fn logits(&self, t: usize, row: u32) -> Vec<f64> {
        capped(&logits(&wide(&self.hidden[t]), &wide(&self.heads[t]), row, self.hidden[t].dim(1)), CAPS[t])
    }
}

fn logits(hidden: &[f64], head: &[f64], row: u32, width: usize) -> Vec<f64> {
    matmul_nt(&hidden[row as usize * width..][..width], head, width)
}

fn capped(logits: &[f64], cap: Option<f32>) -> Vec<f64> {
    let cap = cap.map(f64::from);
    logits.iter().map(|l| cap.map_or(*l, |cap| cap * (l / cap).tanh())).collect()
}

/// `Σ w KL(softmax(z / T) ‖ softmax(l / T))`.
fn oracle(
    student: &[f64],
    head: &[f64],
    cap: Option<f32>,
    temperature: f32,
    teacher: impl Fn(usize) -> Vec<f64>,
) -> f64 {
    let softened = |logits: Vec<f64>| {
        let divided: Vec<f64> = logits.iter().map(|l| l / f64::from(temperature)).collect();
        log_softmax(&divided, None)
    };
    let each = ROWS.iter().zip(WEIGHTS).enumerate().map(|(at, (row, weight))| {
        let ours = softened(capped(&logits(student, head, *row, WIDTH), cap));
        let theirs = softened(teacher(at));
        let divergence: f64 = theirs.iter().zip(&ours).map(|(q, p)| q.exp() * (q - p)).sum();
        f64::from(weight) * divergence
    });
    each.sum()
}

fn highest(row: &[f64]) -> usize {
    (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap()
}

#[test]
fn each_row_learns_from_its_own_teacher_with_a_head_and_a_cap_of_its_own() {
    let old = Old::new();
    let inputs = [random([5, WIDTH], DType::F32, 1), random([VOCABULARY, WIDTH], DType::F32, 3)];
    // Right in the second and the last row (which are different ones), wrong in the others.
    let best = ROWS.map(|row| highest(&logits(&wide(&inputs[0]), &wide(&inputs[1]), row, WIDTH)) as u32);
    let targets = [(best[0] + 1) % 20, best[1], (best[2] + 7) % 20, best[3]];
    for (cap, temperature) in [(None, 1.0), (None, 2.0), (Some(3.0), 2.0), (Some(3.0), 0.5)] {
        let teachers = old.teachers();
        for teachers in [Teachers::FirstWhere(teachers, &MARKED), Teachers::FirstWhereWrong(teachers, &targets)] {
            let run = |tape: &Tape, hidden: &Var, head: &WeightRef| {
                lm_head_divergence(tape, (hidden, head, cap), teachers, (&ROWS, &WEIGHTS), 4.0, temperature)
            };
            let want = |student: &[f64], head: &[f64]| {
                let teacher = |at: usize| old.logits(usize::from(!MARKED[at]), ROWS[at]);
                oracle(student, head, cap, temperature, teacher)
            };
            let op = |tape: &Tape, v: &[Var]| vec![run(tape, &v[0], &WeightRef::Trained(v[1].clone())).loss];
            check(&inputs, tolerance(DType::F32), op, |v| vec![vec![want(&v[0], &v[1]) / 4.0]]);
            let (head, wide_head) = (frozen(&inputs[1]), wide(&inputs[1]));
            let op = |tape: &Tape, v: &[Var]| vec![run(tape, &v[0], &head).loss];
            check(&inputs[..1], tolerance(DType::F32), op, |v| vec![vec![want(&v[0], &wide_head) / 4.0]]);
            let out = run(&Tape::off(), &Var::constant(inputs[0].clone()), &head);
            assert_eq!(out.of_first, 2);
            assert_close("sum", &[out.sum], &[want(&wide(&inputs[0]), &wide_head)], 1e-6);
        }
    }
}

#[test]
fn one_teacher_in_bf16_is_learned_from_everywhere() {
    let old = Old::new();
    let inputs = [random([5, WIDTH], DType::BF16, 1), random([VOCABULARY, WIDTH], DType::BF16, 3)];
    let head = frozen(&inputs[1]);
    let op = |tape: &Tape, v: &[Var]| {
        let teachers = Teachers::One(old.teachers()[1]);
        let out = lm_head_divergence(tape, (&v[0], &head, None), teachers, (&ROWS, &WEIGHTS), 4.0, 1.0);
        assert_eq!(out.of_first, 4);
        vec![out.loss]
    };
    let wide_head = wide(&inputs[1]);
    let want = |student: &[f64]| oracle(student, &wide_head, None, 1.0, |at| old.logits(1, ROWS[at]));
    check(&inputs[..1], tolerance(DType::BF16), op, |v| vec![vec![want(&v[0]) / 4.0]]);
}

/// The identity as head, so that hidden states are logits.
fn spelled_out() -> WeightRef {
    frozen(&Tensor::from_slice([3, 3], &[1f32, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]))
}

#[test]
fn two_rows_can_be_worked_out_on_paper() {
    let head = spelled_out();
    let of = |values: [f32; 6]| Tensor::from_slice([2, 3], &values);
    let student = of([2.0, 0.0, 0.0, 0.0, 1.0, 0.0]);
    let (old, new) = (of([0.0, 2.0, 0.0, 1.0, 0.0, 0.0]), of([1.0, 0.0, 0.0, 0.0, 0.0, 2.0]));
    let teachers = [&old, &new].map(|hidden| Teacher { hidden, head: &head, soft_cap: None });
    let run = |tape: &Tape, rows: &[u32], targets: &[u32]| {
        let (hidden, weights) = (Var::param(ParamId(0), student.clone()), vec![1.0; rows.len()]);
        let (of, n) = (Teachers::FirstWhereWrong(teachers, targets), rows.len() as f32);
        lm_head_divergence(tape, (&hidden, &head, None), of, (rows, &weights), n, 2.0)
    };
    // Of the targets 0 and 2 the student has the first, so the new model teaches the first row, the old one the second.
    let (first, second) = (run(&Tape::off(), &[0], &[0]), run(&Tape::off(), &[1], &[2]));
    assert_eq!((first.of_first, second.of_first), (0, 1));
    assert!((first.sum - 0.0311366).abs() < 1e-6, "{}", first.sum);
    assert!((second.sum - 0.0888971).abs() < 1e-6, "{}", second.sum);

    let tape = Tape::recording();
    let out = run(&tape, &[0, 1], &[0, 2]);
    assert!((out.loss.value.item() - 0.060_016_8).abs() < 1e-6, "{}", out.loss.value.item());
    let mut gradients = Gradients::new();
    tape.backward(&out.loss, Tensor::full([1], DType::F32, 1.0), &mut gradients);
    let softmax = |logits: &[f64]| {
        let halves: Vec<f64> = logits.iter().map(|l| l / 2.0).collect();
        log_softmax(&halves, None).into_iter().map(f64::exp).collect::<Vec<f64>>()
    };
    // 1 / (n T) (σ(z_C / T) − σ(z_t / T)).
    let (ours, theirs) = (wide(&student), [&wide(&new)[..3], &wide(&old)[3..]].concat());
    let rows = ours.chunks(3).zip(theirs.chunks(3));
    let expected: Vec<f64> = rows
        .flat_map(|(z, t)| softmax(z).into_iter().zip(softmax(t)).map(|(p, q)| (p - q) / 4.0).collect::<Vec<_>>())
        .collect();
    assert_close("gradient", &wide(gradients.param(ParamId(0)).unwrap()), &expected, 1e-6);
}

#[test]
fn a_model_is_no_distance_from_itself() {
    let hidden = random([5, WIDTH], DType::F32, 2);
    let head = frozen(&random([VOCABULARY, WIDTH], DType::F32, 3));
    for (cap, temperature) in [(None, 1.0), (Some(3.0), 2.0)] {
        let itself = [Teacher { hidden: &hidden, head: &head, soft_cap: cap }; 2];
        let tape = Tape::recording();
        let student = Var::param(ParamId(0), hidden.clone());
        let teachers = Teachers::FirstWhere(itself, &MARKED);
        let out = lm_head_divergence(&tape, (&student, &head, cap), teachers, (&ROWS, &WEIGHTS), 1.0, temperature);
        assert_eq!((out.sum, out.loss.value.item()), (0.0, 0.0));
        let mut gradients = Gradients::new();
        tape.backward(&out.loss, Tensor::full([1], DType::F32, 1.0), &mut gradients);
        assert!(wide(gradients.param(ParamId(0)).unwrap()).iter().all(|g| *g == 0.0));
    }
}

#[test]
fn several_chunks_are_one_divergence() {
    let (tokens, vocabulary, width) = (2100usize, 64, 4);
    let rows: Vec<u32> = (0..tokens as u32).collect();
    let targets: Vec<u32> = rows.iter().map(|row| row * 31 % 64).collect();
    let weights = vec![1.0; tokens];
    let hidden = Var::param(ParamId(0), random([tokens, width], DType::F32, 1));
    let head = WeightRef::Trained(Var::param(ParamId(1), random([vocabulary, width], DType::F32, 2)));
    let source = HeadRows::new(&hidden.value, &head, &rows);
    assert_eq!(source.chunks().map(|c| c.len()).collect::<Vec<_>>(), [700, 700, 700]);
    let old = [random([tokens, width], DType::F32, 3), random([tokens, width], DType::F32, 4)];
    let theirs = frozen(&random([vocabulary, width], DType::F32, 5));
    let pair = [0, 1].map(|t| Teacher { hidden: &old[t], head: &theirs, soft_cap: None });
    let run = |tape: &Tape, range: std::ops::Range<usize>| {
        let teachers = Teachers::FirstWhereWrong(pair, &targets[range.clone()]);
        let (rows, weights) = (&rows[range.clone()], &weights[range]);
        lm_head_divergence(tape, (&hidden, &head, None), teachers, (rows, weights), 1.0, 2.0)
    };
    let tape = Tape::recording();
    let all = run(&tape, 0..tokens);
    let mut gradients = Gradients::new();
    tape.backward(&all.loss, Tensor::full([1], DType::F32, 1.0), &mut gradients);
    let mut one_by_one = Gradients::new();
    let (mut sum, mut of_first) = (0.0, 0);
    for at in 0..tokens {
        let part = run(&tape, at..at + 1);
        (sum, of_first) = (sum + part.sum, of_first + part.of_first);
        tape.backward(&part.loss, Tensor::full([1], DType::F32, 1.0), &mut one_by_one);
    }
    assert!(of_first == all.of_first && of_first > 0 && of_first < tokens, "{of_first} and {}", all.of_first);
    assert!((all.sum - sum).abs() < 1e-9 * sum, "{} and {sum}", all.sum);
    for id in [ParamId(0), ParamId(1)] {
        let [got, want] = [&gradients, &one_by_one].map(|g| wide(g.param(id).expect("a gradient")));
        assert_close("gradient", &got, &want, 1e-5);
    }
}
