//! The eBPF objects that the build made of `lb-ebpf`, embedded.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use aya::include_bytes_aligned;

/// The forwarder.
pub static FORWARDER: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/forwarder"));
/// The backend-side decapsulation.
pub static DECAP: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/decap"));
/// The program that tells how many jiffies there were.
pub static JIFFIES: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/jiffies"));
/// The programs that count what is lost behind the forwarder.
pub static LOSSES: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/losses"));
/// Programs for tests and benchmarks; the linker leaves them out of the `naru` binary.
pub static LAB: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lab"));

/// Tells an object from that of another version.
pub fn fingerprint(object: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    object.hash(&mut hasher);
    hasher.finish()
}
