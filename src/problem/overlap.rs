//! What may not share memory with what.

use super::memory::{Arrays, Span};
use super::validator::{Validator, invalid};
use super::view::Placed;
use crate::error::{Refusal, Result};

impl<E: Refusal> Validator<'_, E> {
    /// Refuses results that overlap what is read or each other. `inputs` are the tensors, of which
    /// the first is the query; the next two, the cache, are written where something is appended.
    pub fn overlaps(
        &self,
        output: &Placed,
        inputs: &[Placed],
        appending: bool,
        arrays: &Arrays,
        lse: Span,
        workspace: Span,
    ) -> Result<(), E> {
        let apart = |a: &str, b: &str, overlap: bool| {
            if !overlap {
                return Ok(());
            }
            invalid(format_args!("{a} overlaps {b}; expected separate memory"))
        };
        let results = [("lse", lse), (self.names.workspace, workspace)];
        for (i, input) in inputs.iter().enumerate() {
            let in_place = i == 0 && input.is_exactly(output);
            if !in_place && output.span.meets(input.span) && !output.interleaves(input) {
                return invalid(format_args!(
                    "{} overlaps {}; expected separate memory, or exactly the query view",
                    output.name, input.name
                ));
            }
            for (name, span) in results {
                apart(name, input.name, span.meets(input.span))?;
            }
            if appending && (i == 0 || i > 2) {
                for cache in &inputs[1..3] {
                    let overlap = cache.span.meets(input.span) && !cache.interleaves(input);
                    apart(cache.name, input.name, overlap)?;
                }
            }
        }
        for (name, span) in results {
            apart(name, output.name, span.meets(output.span))?;
        }
        apart(self.names.workspace, "lse", workspace.meets(lse))?;
        let written = [(output.name, output.span), results[0], results[1]];
        let cache = inputs[1..3].iter().map(|cache| (cache.name, cache.span));
        for (name, span) in written.into_iter().chain(cache.filter(|_| appending)) {
            for (array, read) in arrays.iter() {
                apart(name, array, span.meets(read))?;
            }
        }
        Ok(())
    }
}
