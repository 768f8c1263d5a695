//! Translation edit rate (Snover et al. 2006) as `sacrebleu` 2.6 computes it with Tercom's defaults: lowercased words by
//! white space, no other tokenisation.
//!
//! Edits are words put in, taken out or replaced, and shifts of a block of words to another place, each at a cost of one.
//! Which shifts are best is not searched exhaustively: as long as the edit distance falls, the shift that lowers it most is
//! taken (the longer block, the earlier one, the earlier place on ties), among blocks that the reference has elsewhere.
//! Blocks have at most ten words and move at most fifty; the edit distance is looked for within 25 words of the diagonal;
//! the shift during which the thousandth candidate is tried is not made. The score is `100 · edits / reference words`, over a
//! corpus that of the sums, where of several references the closest one counts and their mean length.

use std::cmp::Reverse;
use std::collections::HashMap;

/// Words of the longest block that is shifted.
const LONGEST_BLOCK: usize = 10;

/// How many words apart a block and its like in the reference may begin.
const FARTHEST: usize = 50;

/// Candidates after which no more shifts of a segment are tried.
const MOST_CANDIDATES: usize = 1000;

/// Words on either side of the diagonal within which the edit distance is looked for.
const BEAM: usize = 25;

/// Larger than every distance, and far enough from the end of its type to be added to.
const UNREACHED: u32 = u32::MAX / 2;

/// What TER needs to know of one segment; those of a corpus are summed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TerCounts {
    /// Edits to the closest reference.
    pub edits: f64,
    /// Mean length of the references in words.
    pub words: f64,
}

impl TerCounts {
    /// Counts of one segment.
    pub fn new(hypothesis: &str, references: &[&str]) -> TerCounts {
        let mut known = HashMap::new();
        let hypothesis = words(hypothesis, &mut known);
        let references: Vec<Vec<usize>> = references.iter().map(|text| words(text, &mut known)).collect();
        let edits = references.iter().map(|reference| edits(&hypothesis, reference)).min();
        let total: usize = references.iter().map(Vec::len).sum();
        TerCounts {
            edits: edits.unwrap_or(hypothesis.len()) as f64,
            words: total as f64 / references.len().max(1) as f64,
        }
    }

    /// As two numbers, for a scorecard row: edits, words.
    pub fn to_numbers(&self) -> Vec<f64> {
        vec![self.edits, self.words]
    }

    /// Back from [`TerCounts::to_numbers`].
    pub fn from_numbers(numbers: &[f64]) -> Option<TerCounts> {
        let &[edits, words] = numbers else { return None };
        Some(TerCounts { edits, words })
    }

    /// Adds another segment's counts.
    pub fn add(&mut self, other: &TerCounts) {
        self.edits += other.edits;
        self.words += other.words;
    }

    /// The score: 0 for no edits, above 100 where there are more edits than words. Against empty references alone it is 100,
    /// or 0 where nothing was written either.
    pub fn score(&self) -> f64 {
        100.0
            * match self.words > 0.0 {
                true => self.edits / self.words,
                false if self.edits > 0.0 => 1.0,
                false => 0.0,
            }
    }
}

/// A text's words, each as the number it has in `known`.
fn words(text: &str, known: &mut HashMap<String, usize>) -> Vec<usize> {
    let lowered = text.to_lowercase();
    let words = lowered.split(crate::python::is_space).filter(|word| !word.is_empty());
    words
        .map(|word| {
            let next = known.len();
            *known.entry(word.to_owned()).or_insert(next)
        })
        .collect()
}

/// Shifts and the edit distance behind them.
fn edits(hypothesis: &[usize], reference: &[usize]) -> usize {
    if reference.is_empty() {
        return hypothesis.len();
    }
    let mut table = Table::new(hypothesis.to_vec(), reference);
    let (mut shifts, mut candidates) = (0, 0);
    while let Some((gain, shifted)) = best_shift(&table, &mut candidates) {
        if candidates >= MOST_CANDIDATES || gain <= 0 {
            break;
        }
        shifts += 1;
        table = Table::new(shifted, reference);
    }
    shifts + table.distance() as usize
}

/// The shift that lowers the edit distance most, with by how much it does; `None` where no block is out of place. Adds how many
/// were tried to `candidates`.
fn best_shift(table: &Table<'_>, candidates: &mut usize) -> Option<(i64, Vec<usize>)> {
    let (words, reference) = (&table.words, table.reference);
    let alignment = table.alignment();
    let mut best: Option<((i64, usize, Reverse<usize>, Reverse<usize>), Vec<usize>)> = None;
    'blocks: for start in 0..words.len() {
        for like in start.saturating_sub(FARTHEST)..reference.len().min(start + FARTHEST + 1) {
            let alike = words[start..].iter().zip(&reference[like..]).take(LONGEST_BLOCK).take_while(|(a, b)| a == b);
            for length in 1..=alike.count() {
                let block = start..start + length;
                let is_right = !alignment.wrong_words[block.clone()].contains(&true);
                let is_found = !alignment.missed[like..like + length].contains(&true);
                // One above where the reference's word stands: words of the hypothesis up to and with it.
                let inside = alignment.until[like] > block.start && alignment.until[like] <= block.end;
                if is_right || is_found || inside {
                    continue;
                }
                let mut tried = None;
                // Behind the word before the block's like, and behind each word of that.
                let before = like.checked_sub(1).map_or(0, |before| alignment.until[before]);
                let within = alignment.until[like..like + length].iter().copied();
                for target in std::iter::once(before).chain(within) {
                    if tried.replace(target) == Some(target) {
                        continue;
                    }
                    let (shifted, changed) = shift(words, start, length, target);
                    let gain = i64::from(table.distance()) - i64::from(table.distance_of(&shifted, changed));
                    *candidates += 1;
                    let rank = (gain, length, Reverse(start), Reverse(target));
                    if best.as_ref().is_none_or(|(highest, _)| rank > *highest) {
                        best = Some((rank, shifted));
                    }
                }
                if *candidates >= MOST_CANDIDATES {
                    break 'blocks;
                }
            }
        }
    }
    best.map(|((gain, ..), shifted)| (gain, shifted))
}

/// The words with a block of them before the word at `target`, and the first place where they are others. A target within the
/// block counts from its beginning: the block moves behind so many of the words that follow it.
fn shift(words: &[usize], start: usize, length: usize, target: usize) -> (Vec<usize>, usize) {
    let mut shifted = words.to_vec();
    let end = start + length;
    if target < start {
        shifted[target..end].rotate_right(length);
        return (shifted, target);
    }
    let to = if target > end { target } else { (target + length).min(words.len()) };
    shifted[start..to].rotate_left(length);
    (shifted, start)
}

/// The last step to a cell of the table.
#[derive(Clone, Copy, PartialEq)]
enum Step {
    Same,
    Replace,
    /// Takes a word out of the hypothesis.
    Remove,
    /// Puts in a word of the reference.
    Insert,
}

/// A row of the table: what is within the beam.
struct Row {
    from: usize,
    cells: Vec<(u32, Step)>,
}

impl Row {
    fn cost(&self, j: usize) -> u32 {
        j.checked_sub(self.from).and_then(|at| self.cells.get(at)).map_or(UNREACHED, |cell| cell.0)
    }

    fn step(&self, j: usize) -> Option<Step> {
        j.checked_sub(self.from).and_then(|at| self.cells.get(at)).filter(|cell| cell.0 < UNREACHED).map(|cell| cell.1)
    }
}

/// Edit distances of a hypothesis' beginnings to a reference's: a row for so many words of the hypothesis.
struct Table<'a> {
    words: Vec<usize>,
    reference: &'a [usize],
    rows: Vec<Row>,
}

/// Where the words of hypothesis and reference meet.
struct Alignment {
    /// For each word of the reference, how many words of the hypothesis stand up to it, with the one it meets.
    until: Vec<usize>,
    /// Words of the hypothesis that are replaced or taken out.
    wrong_words: Vec<bool>,
    /// Words of the reference that replace one or are put in.
    missed: Vec<bool>,
}

impl Table<'_> {
    fn new(words: Vec<usize>, reference: &[usize]) -> Table<'_> {
        let first = (0..=reference.len() as u32).map(|cost| (cost, Step::Insert)).collect();
        let mut table = Table { words, reference, rows: vec![Row { from: 0, cells: first }] };
        for i in 0..table.words.len() {
            let row = table.row_below(&table.rows[i], i, table.words[i]);
            table.rows.push(row);
        }
        table
    }

    /// The edit distance.
    fn distance(&self) -> u32 {
        self.rows.last().map_or(UNREACHED, |row| row.cost(self.reference.len()))
    }

    /// That of other words, as many of them, which are the same before the one at `changed`.
    fn distance_of(&self, words: &[usize], changed: usize) -> u32 {
        let mut row: Option<Row> = None;
        for (i, word) in words.iter().enumerate().skip(changed) {
            row = Some(self.row_below(row.as_ref().unwrap_or(&self.rows[i]), i, *word));
        }
        row.map_or_else(|| self.distance(), |row| row.cost(self.reference.len()))
    }

    /// The row of one word more, the one at `i`. Equal costs: a replacement goes before a removal, that before an insertion.
    fn row_below(&self, above: &Row, i: usize, word: usize) -> Row {
        let columns = self.reference.len() + 1;
        let ratio = self.reference.len() as f64 / self.words.len() as f64;
        // Rows of a reference that is many times as long would have nothing in common.
        let beam = if BEAM as f64 >= ratio / 2.0 { BEAM } else { (ratio / 2.0 + BEAM as f64).ceil() as usize };
        let diagonal = ((i + 1) as f64 * ratio).floor() as usize;
        let from = diagonal.saturating_sub(beam);
        let to = if i + 1 == self.words.len() { columns } else { columns.min(diagonal + beam) };
        let mut cells: Vec<(u32, Step)> = Vec::with_capacity(to.saturating_sub(from));
        for j in from..to {
            let remove = above.cost(j) + 1;
            let Some(before) = j.checked_sub(1) else {
                cells.push((remove, Step::Remove));
                continue;
            };
            let mut best = match self.reference[before] == word {
                true => (above.cost(before), Step::Same),
                false => (above.cost(before) + 1, Step::Replace),
            };
            let insert = cells.last().map_or(UNREACHED, |cell| cell.0) + 1;
            for (cost, step) in [(remove, Step::Remove), (insert, Step::Insert)] {
                if cost < best.0 {
                    best = (cost, step);
                }
            }
            cells.push((best.0.min(UNREACHED), best.1));
        }
        Row { from, cells }
    }

    /// Along the cheapest edits, from the end to the beginning.
    fn alignment(&self) -> Alignment {
        let (mut i, mut j) = (self.words.len(), self.reference.len());
        let mut alignment = Alignment { until: vec![0; j], wrong_words: vec![false; i], missed: vec![false; j] };
        while i > 0 || j > 0 {
            // The beam always reaches the end, so every cell on the way has a step.
            let step = self.rows[i].step(j).unwrap_or(if i > 0 { Step::Remove } else { Step::Insert });
            if step != Step::Remove && j > 0 {
                j -= 1;
                alignment.until[j] = i;
                alignment.missed[j] = step != Step::Same;
            }
            if step != Step::Insert && i > 0 {
                i -= 1;
                alignment.wrong_words[i] = step != Step::Same;
            }
        }
        alignment
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(hypothesis: &str, references: &[&str]) -> (f64, f64) {
        let counts = TerCounts::new(hypothesis, references);
        (counts.edits, counts.words)
    }

    #[test]
    fn a_block_moves_at_the_cost_of_one() {
        assert_eq!(counted("d e f a b c", &["a b c d e f"]), (1.0, 6.0));
        assert_eq!(counted("a x c", &["A b c"]), (1.0, 3.0));
        assert_eq!(counted("a b b c", &["a b c"]), (1.0, 3.0));
        assert_eq!(counted("", &["a b c"]), (3.0, 3.0));
    }

    #[test]
    fn the_closest_reference_counts_and_the_mean_length() {
        assert_eq!(counted("a b", &["a b c d", "a c"]), (1.0, 3.0));
        let empty = TerCounts::new("a b", &[""]);
        assert_eq!((empty.edits, empty.words, empty.score()), (2.0, 0.0, 100.0));
        assert_eq!(TerCounts::new("", &[""]).score(), 0.0);
        assert_eq!(TerCounts::from_numbers(&empty.to_numbers()), Some(empty));
        assert_eq!(TerCounts::from_numbers(&[1.0]), None);
    }

    #[test]
    fn blocks_move_to_where_they_are_sent() {
        let words = [0, 1, 2, 3, 4, 5];
        assert_eq!(shift(&words, 3, 2, 1), (vec![0, 3, 4, 1, 2, 5], 1));
        assert_eq!(shift(&words, 1, 2, 5), (vec![0, 3, 4, 1, 2, 5], 1));
        assert_eq!(shift(&words, 1, 2, 2), (vec![0, 3, 1, 2, 4, 5], 1));
        assert_eq!(shift(&words, 3, 3, 6), (words.to_vec(), 3));
    }
}
