//! Marking context-dependent questions for conditional instruction tuning (Wang et al. 2025, arXiv 2411.02688): an indicator
//! is put behind the user's words where the answer depends on them (a score above `β`, strictly), and behind questions about
//! a context when the tuned model is asked.
//!
//! The paper's indicator is a new token whose embedding is trained. Here it is any text, in the tokens the tokenizer has for
//! it.

/// The paper's threshold.
pub const ABOVE: f64 = 0.6;

/// The user's words with the indicator behind them; a full stop goes between where they end in a letter or a digit.
pub fn marked(user: &str, indicator: &str) -> String {
    let user = user.trim_end();
    let stop = if user.ends_with(char::is_alphanumeric) { "." } else { "" };
    format!("{user}{stop} {indicator}")
}

#[cfg(test)]
mod tests {
    use super::marked;

    #[test]
    fn the_indicator_stands_behind_a_full_stop() {
        assert_eq!(marked("Who won", "[IND]"), "Who won. [IND]");
        assert_eq!(marked("Who won?\n", "[IND]"), "Who won? [IND]");
        assert_eq!(marked("in 1901", "[IND]"), "in 1901. [IND]");
        assert_eq!(marked("wer gewann é", "[IND]"), "wer gewann é. [IND]");
    }
}
