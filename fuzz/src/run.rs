//! Runs one case: what the library says of it, what it computes, what it must not touch.

use crate::call::Call;
use crate::case::Case;
use crate::library::library;
use kuiper_flash_attention::abi::*;

/// What became of a valid call.
#[derive(Debug, PartialEq)]
pub enum Outcome {
    /// Computed, and right, by the kernel of this name.
    Served(String),
    /// No kernel serves it yet; what the message names.
    Refused(String),
}

/// Runs a valid case; an error says what is wrong with the library.
pub fn run(case: &Case) -> Result<Outcome, String> {
    let library = library();
    let mut call = Call::new(case.clone());
    // SAFETY: the call's memory is as its description says.
    let (supported, planned) =
        unsafe { ((library.kfa_attention_supported)(&call.desc), library.explain(&call.desc)) };
    let (mut least, mut preferred) = (0, 0);
    // SAFETY: as above.
    let bounds =
        unsafe { (library.kfa_attention_workspace_bounds)(&call.desc, &mut least, &mut preferred) };
    if bounds != supported {
        return Err(format!("supported answers {supported}, workspace_bounds {bounds}"));
    }
    match (supported, &planned) {
        (KFA_OK, Ok(text)) if !text.starts_with("none") => {}
        (KFA_ERROR_UNSUPPORTED, Ok(text)) if text.starts_with("none") => {}
        (KFA_ERROR_UNSUPPORTED, Err(KFA_ERROR_UNSUPPORTED)) => {}
        _ => {
            let message = library.last_error();
            return Err(format!("supported answers {supported}, explain {planned:?}: {message}"));
        }
    }
    if least > preferred {
        return Err(format!("workspace of {least} to {preferred} bytes"));
    }
    call.give_workspace(if case.least_workspace { least } else { preferred });
    // SAFETY: as above.
    let status = unsafe { (library.kfa_attention_forward)(&call.desc) };
    if status != supported {
        let message = library.last_error();
        return Err(format!("forward answers {status}, supported {supported}: {message}"));
    }
    if status == KFA_OK {
        let kernel = library.last_kernel();
        call.check().map_err(|error| format!("{kernel}: {error}"))?;
        return Ok(Outcome::Served(kernel));
    }
    if let Some(name) = call.anything_written() {
        return Err(format!("{name} was written by a call that answered {status}"));
    }
    Ok(Outcome::Refused(library.last_error()))
}
