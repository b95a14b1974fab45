//! The end-to-end tests: one program, so that it is linked once, and tests that wait do so side by side. What they share
//! is the library `naru_tests`.

mod accidents;
mod broken_configs;
mod changes;
mod consistency;
mod counters;
mod decap;
mod flood;
mod flows;
mod forward_modes;
mod hash_seed;
mod health;
mod icmp;
mod icmp_flood;
mod instructions;
mod kills;
mod lab;
mod load;
mod losses;
mod network_changes;
mod operations;
mod packet;
mod path_mtu;
mod ping;
mod privileges;
mod probe_packets;
mod probes;
mod restart;
mod slow_flood;
mod strangers;
mod streams;
mod tracking;
mod upgrade;
