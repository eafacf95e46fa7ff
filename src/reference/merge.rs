//! Results over disjoint sets of keys, put together.

use super::Row;

/// One row of the whole from the same row of its parts, whose LSE are natural.
pub fn merge(parts: &[Row]) -> Row {
    let width = parts[0].output.len();
    let poisoned = |part: &Row| part.lse.is_nan() || part.lse == f64::INFINITY;
    if parts.iter().any(poisoned) {
        return Row { output: vec![f64::NAN; width], lse: f64::NAN };
    }
    // A part that saw no key says nothing, whatever its output holds.
    let parts: Vec<&Row> = parts.iter().filter(|part| part.lse != f64::NEG_INFINITY).collect();
    let max = parts.iter().fold(f64::NEG_INFINITY, |max, part| max.max(part.lse));
    let sum: f64 = parts.iter().map(|part| (part.lse - max).exp()).sum();
    let mut output = vec![0.0; width];
    for part in &parts {
        for (out, x) in output.iter_mut().zip(&part.output) {
            *out += (part.lse - max).exp() / sum * x;
        }
    }
    let lse = if parts.is_empty() { f64::NEG_INFINITY } else { max + sum.ln() };
    Row { output, lse }
}
