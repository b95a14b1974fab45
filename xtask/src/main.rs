//! `cargo xtask`: the verbs of naru's development.
fn main() {}
