//! Scores of a multiple-choice example from the log-likelihoods of its choices (or from rewards, [`crate::rewards`], where
//! those stand for them).

/// Which choices are right.
#[derive(Clone, Debug, PartialEq)]
pub struct Gold {
    /// Indices into the choices; empty if the task names an answer that is no choice.
    pub indices: Vec<usize>,
}

/// A multiple-choice example as the model answered it.
pub struct ChoiceOutcome<'a> {
    /// The bare choices, without the delimiter before them.
    pub choices: &'a [String],
    /// `ln p(choice | prompt)`, or the choices' rewards.
    pub log_likelihoods: &'a [f64],
    /// Whether greedy decoding would have written the choice.
    pub is_greedy: &'a [bool],
    /// `ln p(choice)` without the prompt, where a metric asks for it.
    pub unconditional: Option<&'a [f64]>,
    /// The right answer.
    pub gold: &'a Gold,
    /// What the example shares with others of its prompt.
    pub group: Option<&'a str>,
}

impl ChoiceOutcome<'_> {
    /// 1 if the choice of the highest value is right. Ties go to the first.
    fn hit(&self, values: impl Iterator<Item = f64>) -> f64 {
        f64::from(argmax(values).is_some_and(|i| self.gold.indices.contains(&i)))
    }

    /// By log-likelihood.
    pub fn acc(&self) -> f64 {
        self.hit(self.log_likelihoods.iter().copied())
    }

    /// By log-likelihood over the choice's characters.
    pub fn acc_norm(&self) -> f64 {
        self.hit(self.per_character())
    }

    /// By log-likelihood over the choice's UTF-8 bytes.
    pub fn acc_bytes(&self) -> f64 {
        self.hit(self.per_byte())
    }

    /// By what the prompt adds to the choice's log-likelihood.
    pub fn acc_mutual_info(&self) -> f64 {
        self.hit(self.over_unconditional())
    }

    /// Log-likelihoods over the choices' characters.
    pub fn per_character(&self) -> impl Iterator<Item = f64> + '_ {
        self.log_likelihoods.iter().zip(self.choices).map(|(ll, choice)| ll / choice.chars().count() as f64)
    }

    /// Log-likelihoods over the choices' UTF-8 bytes.
    pub fn per_byte(&self) -> impl Iterator<Item = f64> + '_ {
        self.log_likelihoods.iter().zip(self.choices).map(|(ll, choice)| ll / choice.len() as f64)
    }

    /// What the prompt adds to the log-likelihoods.
    pub fn over_unconditional(&self) -> impl Iterator<Item = f64> + '_ {
        let without = self.unconditional.unwrap_or(&[]);
        self.log_likelihoods.iter().zip(without).map(|(with, without)| with - without)
    }

    /// Whether greedy decoding would have written a right choice.
    pub fn exact_match(&self) -> f64 {
        f64::from(self.gold.indices.iter().any(|&i| self.is_greedy.get(i) == Some(&true)))
    }

    /// Softmax of the log-likelihoods: how sure the model is of each choice, if one of them has to be it.
    pub fn probabilities(&self) -> Vec<f64> {
        let highest = self.log_likelihoods.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = self.log_likelihoods.iter().map(|ll| (ll - highest).exp()).collect();
        let total: f64 = weights.iter().sum();
        weights.into_iter().map(|weight| weight / total).collect()
    }

    /// `Σ_c (p_c - 1[c is right])²` with the choices' probabilities `p`: 0 to 2, less is better (Brier 1950).
    pub fn brier(&self) -> f64 {
        let error = |(i, p): (usize, f64)| p - f64::from(self.gold.indices.contains(&i));
        self.probabilities().into_iter().enumerate().map(|part| error(part).powi(2)).sum()
    }

    /// The probability of the choice taken.
    pub fn confidence(&self) -> f64 {
        self.probabilities().into_iter().fold(0.0, f64::max)
    }

    /// The choice taken.
    pub fn predicted(&self) -> Option<usize> {
        argmax(self.log_likelihoods.iter().copied())
    }
}

/// The first index of the highest value; a NaN is highest, as in NumPy.
pub fn argmax(values: impl Iterator<Item = f64>) -> Option<usize> {
    let mut best: Option<(usize, f64)> = None;
    for (i, value) in values.enumerate() {
        if value.is_nan() {
            return Some(i);
        }
        if best.is_none_or(|(_, highest)| value > highest) {
            best = Some((i, value));
        }
    }
    best.map(|(i, _)| i)
}

/// F1 of class 1 over `(gold, predicted)` pairs, as scikit-learn's default; 0 where it is not defined.
pub fn binary_f1(pairs: impl Iterator<Item = (i64, i64)>) -> f64 {
    let (mut hits, mut errors) = (0usize, 0usize);
    for (gold, predicted) in pairs {
        hits += usize::from(gold == 1 && predicted == 1);
        errors += usize::from((gold == 1) != (predicted == 1));
    }
    if hits == 0 { 0.0 } else { 2.0 * hits as f64 / (2 * hits + errors) as f64 }
}

/// Matthews correlation of any number of classes (Gorodkin 2004), as scikit-learn; 0 where it is not defined.
pub fn matthews(pairs: impl Iterator<Item = (i64, i64)>) -> f64 {
    let mut classes: std::collections::BTreeMap<i64, (f64, f64)> = Default::default();
    let (mut total, mut hits) = (0.0, 0.0);
    for (gold, predicted) in pairs {
        total += 1.0;
        hits += f64::from(gold == predicted);
        classes.entry(gold).or_default().0 += 1.0;
        classes.entry(predicted).or_default().1 += 1.0;
    }
    let sum = |f: fn(&(f64, f64)) -> f64| classes.values().map(f).sum::<f64>();
    let covariance = hits * total - sum(|(gold, predicted)| gold * predicted);
    let spread_gold = total * total - sum(|(gold, _)| gold * gold);
    let spread_predicted = total * total - sum(|(_, predicted)| predicted * predicted);
    let spread = spread_gold * spread_predicted;
    if spread > 0.0 { covariance / spread.sqrt() } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_normalisations_differ_as_published() {
        let choices = ["yes", "naïve café", "数据集", "no idea at all"].map(String::from);
        let picks = |gold: usize| {
            let gold = Gold { indices: vec![gold] };
            let outcome = ChoiceOutcome {
                choices: &choices,
                log_likelihoods: &[-6.0, -11.0, -5.0, -15.0],
                is_greedy: &[false; 4],
                unconditional: Some(&[-9.0, -20.0, -5.5, -15.0]),
                gold: &gold,
                group: None,
            };
            (outcome.acc(), outcome.acc_norm(), outcome.acc_bytes(), outcome.acc_mutual_info())
        };
        assert_eq!(picks(2), (1.0, 0.0, 1.0, 0.0));
        assert_eq!(picks(3), (0.0, 1.0, 0.0, 0.0));
        assert_eq!(picks(1), (0.0, 0.0, 0.0, 1.0));
    }

    #[test]
    fn ties_go_to_the_first_choice() {
        assert_eq!(argmax([1.0, 2.0, 2.0].into_iter()), Some(1));
        assert_eq!(argmax(std::iter::empty()), None);
    }

    #[test]
    fn class_metrics_are_scikit_learns() {
        let gold = [1, 0, 1, 1, 0, 1, 0, 0];
        let predicted = [1, 0, 0, 1, 1, 1, 0, 1];
        let pairs = || gold.into_iter().zip(predicted);
        // sklearn.metrics.f1_score, matthews_corrcoef
        assert!((binary_f1(pairs()) - 0.666_666_666_666_666_6).abs() < 1e-12);
        assert!((matthews(pairs()) - 0.258_198_889_747_161_1).abs() < 1e-12);
        let three = [0, 1, 2, 2, 1, 0].into_iter().zip([0, 2, 2, 2, 1, 1]);
        assert!((matthews(three) - 0.522_232_967_867_093_5).abs() < 1e-12);
        assert_eq!(matthews([(1, 1), (1, 1)].into_iter()), 0.0);
    }
}
