//! The config file: what an operator may say, and everything that can be wrong with it.
