//! naru's bench.
