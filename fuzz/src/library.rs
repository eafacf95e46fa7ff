//! The cdylib, function by function, as a C program finds it.

use kuiper_flash_attention::abi::*;
use std::ffi::{CStr, c_char, c_void};
use std::mem::MaybeUninit;
use std::path::PathBuf;
use std::sync::OnceLock;

/// Declares the functions of the library once: their names and their types.
macro_rules! functions {
    ($($name:ident: fn($($type:ty),*) $(-> $result:ty)?;)*) => {
        pub struct Library {
            $(pub $name: unsafe extern "C" fn($($type),*) $(-> $result)?,)*
        }

        impl Library {
            /// What [`Library`] knows of.
            #[cfg(test)]
            pub const NAMES: &[&str] = &[$(stringify!($name)),*];

            fn load(library: &'static libloading::Library) -> Self {
                Self {
                    // SAFETY: the types are those of kfa.h.
                    $($name: unsafe {
                        *library.get(stringify!($name)).unwrap_or_else(|error| panic!("{error}"))
                    },)*
                }
            }
        }
    };
}

type Layer = *mut c_void;

functions! {
    kfa_attention_desc_init: fn(*mut kfa_attention_desc) -> kfa_status;
    kfa_attention_desc_init_sized: fn(*mut kfa_attention_desc, usize) -> kfa_status;
    kfa_attention_forward: fn(*const kfa_attention_desc) -> kfa_status;
    kfa_attention_workspace_size: fn(*const kfa_attention_desc, *mut usize) -> kfa_status;
    kfa_attention_workspace_bounds:
        fn(*const kfa_attention_desc, *mut usize, *mut usize) -> kfa_status;
    kfa_attention_supported: fn(*const kfa_attention_desc) -> kfa_status;
    kfa_attention_explain:
        fn(*const kfa_attention_desc, *mut c_char, usize, *mut usize) -> kfa_status;
    kfa_attention_merge: fn(*const kfa_merge_desc) -> kfa_status;
    kfa_last_kernel_name: fn() -> *const c_char;
    kfa_last_error_message: fn() -> *const c_char;
    kfa_status_name: fn(kfa_status) -> *const c_char;
    kfa_version: fn() -> u32;
    kfa_version_string: fn() -> *const c_char;
    kfa_build_info: fn() -> *const c_char;
    kfa_set_log_callback: fn(kfa_log_callback, *mut c_void);
    kfa_set_attention_mode: fn(kfa_attention_mode) -> kfa_status;
    kfa_set_num_threads: fn(i32) -> kfa_status;
    kfa_get_num_threads: fn() -> i32;
    kfa_get_flash_attention_kernel: fn(kfa_device_type) -> kfa_flash_attention_kernel;
    kfa_get_mha_kernel: fn(kfa_device_type) -> kfa_mha_kernel;
    kfa_get_standard_mha_kernel: fn(kfa_device_type) -> kfa_mha_kernel;
    kfa_attention_forward_in_scratch: fn(*const kfa_attention_desc) -> kfa_status;
    kfa_warm_up: fn(kfa_device_type) -> kfa_status;
    kfa_flash_attention_layer_create:
        fn(kfa_device_type, i32, i32, i32, i32, i32, i32, f32, *mut Layer) -> kfa_status;
    kfa_flash_attention_layer_destroy: fn(Layer);
    kfa_flash_attention_layer_set_pos: fn(Layer, i32) -> kfa_status;
    kfa_flash_attention_layer_set_layer_idx: fn(Layer, i32) -> kfa_status;
    kfa_flash_attention_layer_set_input: fn(Layer, i32, *const kfa_tensor) -> kfa_status;
    kfa_flash_attention_layer_set_output: fn(Layer, i32, *const kfa_tensor) -> kfa_status;
    kfa_flash_attention_layer_set_stream: fn(Layer, *mut c_void) -> kfa_status;
    kfa_flash_attention_layer_forward: fn(Layer) -> kfa_status;
    kfa_flash_attention_layer_input_size: fn(Layer) -> usize;
    kfa_flash_attention_layer_output_size: fn(Layer) -> usize;
}

/// `KFA_LIBRARY`, or what cargo built beside this program.
pub fn path() -> PathBuf {
    if let Some(path) = std::env::var_os("KFA_LIBRARY") {
        return path.into();
    }
    let program = std::env::current_exe().unwrap();
    let name = "libkuiper_flash_attention.so";
    let beside = program.ancestors().skip(1).take(2).map(|folder| folder.join("deps").join(name));
    let own = program.with_file_name(name);
    beside.chain([own]).find(|path| path.exists()).expect("the shared library, or KFA_LIBRARY")
}

/// The library, loaded for the life of the process.
pub fn library() -> &'static Library {
    static LIBRARY: OnceLock<Library> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        // SAFETY: it runs no code when loaded.
        let library = unsafe { libloading::Library::new(path()).unwrap() };
        Library::load(Box::leak(Box::new(library)))
    })
}

impl Library {
    /// A description with every default.
    pub fn default_desc(&self) -> kfa_attention_desc {
        let mut desc = MaybeUninit::zeroed();
        let size = size_of::<kfa_attention_desc>();
        // SAFETY: fills a description of the size that it is told.
        unsafe {
            assert_eq!((self.kfa_attention_desc_init_sized)(desc.as_mut_ptr(), size), KFA_OK);
            desc.assume_init()
        }
    }

    pub fn last_error(&self) -> String {
        // SAFETY: never NULL, and valid until this thread's next failure.
        unsafe { CStr::from_ptr((self.kfa_last_error_message)()) }.to_string_lossy().into_owned()
    }

    pub fn last_kernel(&self) -> String {
        // SAFETY: never NULL, and valid for ever.
        unsafe { CStr::from_ptr((self.kfa_last_kernel_name)()) }.to_string_lossy().into_owned()
    }

    /// The explanation of a problem, or the status that came instead.
    pub fn explain(&self, desc: &kfa_attention_desc) -> Result<String, kfa_status> {
        let mut text = vec![0u8; 8192];
        let mut size = 0;
        // SAFETY: the buffer has the size that is told.
        let status = unsafe {
            (self.kfa_attention_explain)(desc, text.as_mut_ptr().cast(), text.len(), &mut size)
        };
        if status != KFA_OK {
            return Err(status);
        }
        text.truncate(size.saturating_sub(1));
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}
