//! The part of the data plane that needs no kernel: parsers, the flow hash, the rules of flow tracking and header
//! builders. The programs use it unchanged, and any target can test it.

#![no_std]
#![cfg_attr(all(feature = "bpf", target_arch = "bpf"), feature(asm_experimental_arch))]

pub mod cold;
pub mod decap;
pub mod ecn;
pub mod encap;
pub mod hash;
pub mod rules;
pub mod wire;

/// Atomic operations on words of maps, which rustc has no names for on the eBPF target.
#[cfg(all(feature = "bpf", target_arch = "bpf"))]
pub mod atomic;

/// What `bpf` programs share and other targets cannot build.
#[cfg(feature = "bpf")]
pub mod xdp;
