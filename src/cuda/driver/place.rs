//! Where the caller's pointers point, and hence which device a call is for.

use super::result::check;
use crate::error::{Error, Result};
use crate::problem::Problem;
use cudarc::driver::sys;
use std::ffi::c_void;
use std::ops::Range;
use std::ptr::null;

/// Where a pointer points.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Memory that the driver does not know: ordinary host memory.
    Unknown,
    /// Pinned or registered host memory.
    Host,
    /// Memory of the device with this ordinal.
    Device(i32),
    /// Managed memory, which every device can reach; the ordinal it was allocated from.
    Managed(i32),
}

/// Where a pointer points, and the addresses around it that the answer holds for as well.
fn place(pointer: *const c_void) -> Result<(Place, Range<usize>)> {
    use sys::CUpointer_attribute_enum::*;
    let (mut kind, mut ordinal, mut managed, mut whole) = (0u32, -1i32, 0u32, 0u32);
    let (mut start, mut size) = (0u64, 0usize);
    let mut which = [
        CU_POINTER_ATTRIBUTE_MEMORY_TYPE,
        CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL,
        CU_POINTER_ATTRIBUTE_IS_MANAGED,
        CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE,
        CU_POINTER_ATTRIBUTE_RANGE_START_ADDR,
        CU_POINTER_ATTRIBUTE_RANGE_SIZE,
    ];
    let mut values: [*mut c_void; 6] = [
        (&raw mut kind).cast(),
        (&raw mut ordinal).cast(),
        (&raw mut managed).cast(),
        (&raw mut whole).cast(),
        (&raw mut start).cast(),
        (&raw mut size).cast(),
    ];
    let count = which.len() as u32;
    // SAFETY: as many values as attributes, each of its attribute's type. The call only looks the
    // address up; it is permitted during stream capture.
    let result = unsafe {
        sys::cuPointerGetAttributes(
            count,
            which.as_mut_ptr(),
            values.as_mut_ptr(),
            pointer.addr() as u64,
        )
    };
    check(result, "cuPointerGetAttributes")?;
    const HOST: u32 = sys::CUmemorytype_enum::CU_MEMORYTYPE_HOST as u32;
    let place = match kind {
        0 => Place::Unknown,
        _ if managed & 0xff != 0 => Place::Managed(ordinal),
        HOST => Place::Host,
        _ => Place::Device(ordinal),
    };
    // What can be shared by IPC is one cuMemAlloc, all of it on its device. The range of anything
    // else may be a reservation with holes, or with pages of several devices.
    let start = start as usize;
    let range = if whole & 0xff != 0 { start..start.saturating_add(size) } else { 0..0 };
    Ok((place, range))
}

/// A pointer of the caller's and the argument's name.
pub(super) type Pointer<'a> = (&'a str, *const c_void);

pub(super) fn pointers_of(p: &Problem) -> [Pointer<'static>; 22] {
    let (lengths, scores) = (&p.lengths, &p.scores);
    let (table, value_table, page_offsets) = p
        .pages
        .as_ref()
        .map_or((null(), null(), null()), |pages| (pages.table, pages.value_table, pages.offsets));
    let (mask, mask_offsets, head_factor) = scores
        .mask
        .as_ref()
        .map_or((null(), null(), null()), |mask| (mask.data, mask.offsets, mask.head_factor));
    [
        ("query.data", p.query.data.cast_const().cast()),
        ("key.data", p.key.data.cast_const().cast()),
        ("value.data", p.value.data.cast_const().cast()),
        ("output.data", p.output.data.cast_const().cast()),
        ("lse", p.lse.cast_const().cast()),
        ("workspace", p.workspace.cast_const().cast()),
        ("pos_device", p.pos_device.cast()),
        ("query_offsets", lengths.query_offsets.cast()),
        ("kv_offsets", lengths.kv_offsets.cast()),
        ("q_lens", lengths.q_lens.cast()),
        ("kv_lens", lengths.kv_lens.cast()),
        ("kv_starts", lengths.kv_starts.cast()),
        ("cache_index", lengths.cache_index.cast()),
        ("page_table", table.cast()),
        ("value_page_table", value_table.cast()),
        ("page_offsets", page_offsets.cast()),
        ("span_ends", p.visible.span_ends.cast()),
        ("sinks", scores.sinks.cast()),
        ("alibi_slopes", scores.alibi_slopes.cast()),
        ("mask.data", mask.cast()),
        ("mask_offsets", mask_offsets.cast()),
        ("mask_head_factor", head_factor.cast()),
    ]
}

/// The device that a call's pointers belong to; refuses host pointers and mixed devices.
///
/// Null pointers (an absent LSE; every tensor while only planning) are passed over; `None` if that
/// leaves nothing, or only managed memory without a home.
pub(super) fn locate(pointers: &[Pointer], asked: Option<i32>) -> Result<Option<i32>> {
    let mut device: Option<(i32, &str)> = None;
    let mut home = None;
    // A lookup costs 0.1 us and more; tensors of one pool, as small ones often are, need but one.
    let mut known: [(Place, Range<usize>); 4] = [const { (Place::Unknown, 0..0) }; 4];
    let mut lookups = 0;
    for &(name, pointer) in pointers {
        if pointer.is_null() {
            continue;
        }
        let found = known.iter().find(|(_, around)| around.contains(&pointer.addr()));
        let seen = match found {
            Some((seen, _)) => *seen,
            None => {
                let looked_up = place(pointer)?;
                let seen = looked_up.0;
                known[lookups % known.len()] = looked_up;
                lookups += 1;
                seen
            }
        };
        match seen {
            Place::Device(ordinal) => match device {
                Some((first, whose)) if first != ordinal => {
                    return Err(Error::invalid(format!(
                        "{name} is memory of CUDA device {ordinal}, but {whose} of device {first}; expected one device"
                    )));
                }
                _ => device = Some((ordinal, name)),
            },
            // Reachable from every device, at the price of migrating pages.
            Place::Managed(ordinal) => home = home.or((ordinal >= 0).then_some(ordinal)),
            // A single number in mapped memory costs nothing; a tensor would cross the bus.
            Place::Host if name == "pos_device" => {}
            Place::Host => {
                return Err(Error::invalid(format!(
                    "{name} is {pointer:p}, which is pinned host memory; expected memory of a CUDA device"
                )));
            }
            Place::Unknown => {
                return Err(Error::invalid(format!(
                    "{name} is {pointer:p}, which is not CUDA memory; expected memory of a CUDA device"
                )));
            }
        }
    }
    let found = device.map(|(ordinal, _)| ordinal);
    match (asked, found) {
        (Some(asked), Some(ordinal)) if asked != ordinal => Err(Error::invalid(format!(
            "device_index is {asked}, but the tensors are memory of CUDA device {ordinal}"
        ))),
        (asked, found) => Ok(found.or(asked).or(home)),
    }
}
