//! Decisions that need no packet: pure functions of what the tables and slots hold.

pub mod flow_table;
pub mod tracking;
