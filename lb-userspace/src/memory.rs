//! How the daemon's memory is managed.

/// Has all threads share four arenas of the C library's allocator. With one, the threads that read a long config wait
/// for each other half of the time. By default glibc gives many threads an arena each, and keeps in every one of them
/// the room that changes and reads have needed there: with a thousand VIPs that is several times what the daemon needs,
/// and it grows with each burst of work until all arenas had their share. With ten thousand VIPs the daemon takes 128
/// MiB with one arena, 150 with four and 201 with eight, after eighty changes.
///
/// To be called while there is one thread. Allocators that know no arenas are left as they are.
pub fn share_few_arenas() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets a number of the allocator's, which it takes at any time.
    if unsafe { libc::mallopt(libc::M_ARENA_MAX, 4) } == 0 {
        log::debug!("the allocator cannot be kept to a few arenas");
    }
}

/// Gives memory that is free back to the kernel, after work that needed far more than there is to do later. The
/// allocator keeps it otherwise.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: gives back pages of the allocator's that nobody uses, under its own lock.
    unsafe {
        libc::malloc_trim(0);
    }
}
