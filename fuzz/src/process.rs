//! Functions of the whole process, with any argument.

use crate::library::library;
use crate::random::Random;
use crate::run::Outcome;
use kuiper_flash_attention::abi::*;
use std::ffi::{CStr, c_char, c_void};
use std::ptr::{null, null_mut};

unsafe extern "C-unwind" fn silent(
    _level: kfa_log_level,
    _message: *const c_char,
    _user: *mut c_void,
) {
}

/// A handful of calls; an error says what is wrong with the library.
pub fn run(seed: u64) -> Result<Outcome, String> {
    let l = library();
    let random = &mut Random(seed);
    let number = random.pick(&[0, 1, 2, 3, 4, 5, 6, 7, -1, 77, i32::MIN, i32::MAX]);
    // SAFETY: every argument may have any value, and NULL where a pointer is.
    unsafe {
        if (l.kfa_version)() == 0 {
            return Err("no version".into());
        }
        for text in [
            (l.kfa_status_name)(number),
            (l.kfa_last_error_message)(),
            (l.kfa_last_kernel_name)(),
            (l.kfa_build_info)(),
            (l.kfa_version_string)(),
        ] {
            if text.is_null() || CStr::from_ptr(text).to_str().is_err() {
                return Err("a text is NULL or no UTF-8".into());
            }
        }
        (l.kfa_set_log_callback)(if random.chance(2) { Some(silent) } else { None }, null_mut());
        (l.kfa_set_log_callback)(Some(silent), null_mut());
        let mode = (l.kfa_set_attention_mode)(number);
        if (mode == KFA_OK) != (0..=2).contains(&number) {
            return Err(format!("kfa_set_attention_mode({number}) answers {mode}"));
        }
        (l.kfa_set_attention_mode)(KFA_ATTENTION_MODE_AUTO);
        let threads = (l.kfa_set_num_threads)(number);
        if (threads == KFA_OK) != (1..=1024).contains(&number) {
            return Err(format!("kfa_set_num_threads({number}) answers {threads}"));
        }
        if !(1..=1024).contains(&(l.kfa_get_num_threads)()) {
            return Err("no number of threads".into());
        }
        (l.kfa_set_num_threads)(random.pick(&[1, 2, 3, 5]));
        for status in [
            (l.kfa_attention_forward)(null()),
            (l.kfa_attention_forward_in_scratch)(null()),
            (l.kfa_attention_merge)(null()),
            (l.kfa_attention_supported)(null()),
            (l.kfa_attention_desc_init)(null_mut()),
            (l.kfa_attention_desc_init_sized)(null_mut(), number as usize),
            (l.kfa_attention_explain)(null(), null_mut(), 0, null_mut()),
            (l.kfa_attention_workspace_size)(null(), null_mut()),
            (l.kfa_attention_workspace_bounds)(null(), null_mut(), null_mut()),
            (l.kfa_flash_attention_layer_forward)(null_mut()),
            (l.kfa_flash_attention_layer_set_pos)(null_mut(), number),
            (l.kfa_flash_attention_layer_set_input)(null_mut(), number, null()),
        ] {
            if status != KFA_ERROR_INVALID_ARGUMENT {
                return Err(format!("NULL is answered by {status}"));
            }
        }
        (l.kfa_flash_attention_layer_destroy)(null_mut());
        let warm = (l.kfa_warm_up)(number);
        if (warm == KFA_OK) != (number == KFA_DEVICE_CPU) {
            return Err(format!("kfa_warm_up({number}) answers {warm}"));
        }
        for device in [number, KFA_DEVICE_CPU] {
            let some = [
                (l.kfa_get_flash_attention_kernel)(device).is_some(),
                (l.kfa_get_mha_kernel)(device).is_some(),
                (l.kfa_get_standard_mha_kernel)(device).is_some(),
            ];
            if some != [device == KFA_DEVICE_CPU; 3] && device != KFA_DEVICE_CUDA {
                return Err(format!("kernels of device {device}: {some:?}"));
            }
        }
    }
    Ok(Outcome::Served("process".into()))
}

#[cfg(test)]
mod tests {
    use crate::library::Library;
    use std::collections::BTreeSet;

    /// Every function of the header is called somewhere here.
    #[test]
    fn every_exported_function_is_known() {
        let header = include_str!("../../include/kuiper_flash_attention/kfa.h");
        let declared: BTreeSet<&str> = header
            .lines()
            .filter(|line| {
                !line.starts_with([' ', '*', '/', '#', '}']) && !line.contains("typedef")
            })
            .filter_map(|line| line.split_once('(')?.0.rsplit([' ', '*']).next())
            .filter(|name| name.starts_with("kfa_"))
            .collect();
        let known: BTreeSet<&str> = Library::NAMES.iter().copied().collect();
        assert!(declared.len() > 20);
        let unknown: Vec<_> = declared.difference(&known).collect();
        assert!(unknown.is_empty(), "not fuzzed: {unknown:?}");
    }
}
