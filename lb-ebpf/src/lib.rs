//! Parsers, hashes and header builders of the data plane.
#![no_std]
