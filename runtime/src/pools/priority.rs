//! The priority of batch threads, as far as each system offers one for a single thread.

/// Lets the calling thread run after those of normal priority. Where that fails, or there is no
/// such thing, the pools differ only in who is in them.
pub(super) fn lower() {
    platform::lower();
}

#[cfg(target_os = "linux")]
mod platform {
    /// Half way to the bottom: batch work keeps moving beside interactive work, at about a tenth.
    const NICE: libc::c_int = 10;

    #[expect(unsafe_code, reason = "the standard library knows no priorities")]
    pub(super) fn lower() {
        // SAFETY: takes no pointers. On Linux 0 is the calling thread, not its process.
        let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
        if result != 0 {
            tracing::debug!("batch threads keep the normal priority");
        }
    }
}

#[cfg(target_os = "macos")]
mod platform {
    #[expect(unsafe_code, reason = "the standard library knows no priorities")]
    pub(super) fn lower() {
        // SAFETY: takes no pointers, and concerns the calling thread only.
        let result =
            unsafe { libc::pthread_set_qos_class_self_np(libc::qos_class_t::QOS_CLASS_UTILITY, 0) };
        if result != 0 {
            tracing::debug!("batch threads keep the normal priority");
        }
    }
}

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
mod platform {
    pub(super) fn lower() {}
}
