//! The lists of tiles in `kernels/`, as macros: `decode_half!(with …)` hands all rows of
//! `KFA_DECODE_HALF`, `[64, 8, …] …`, to the macro `with`, behind what else it is given.

include!(concat!(env!("OUT_DIR"), "/kernel_lists.rs"));
